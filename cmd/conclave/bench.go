package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// bench is what the flags of a benchmark say. Every connection is a peer with a
// socket of its own, spread over the servers.
type bench struct {
	connection
	crowding // of the workload that runs
	size     int
	duration time.Duration
	warmUp   time.Duration
	profile  string
	prefix   string
	progress bool
}

// crowding are the flags for which each workload has names and defaults of its own.
type crowding struct {
	connections int
	inFlight    int // requests of a connection at a time; 0 where there is no choice
	rooms       int
	rate        float64 // operations per second of all together; 0: the next when one is answered
}

// newBench makes `conclave bench`. Its members are one workload each.
func newBench() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a running cluster",
		Long: `Put a load on a running cluster and print what it took: how many a second, and the
quantiles of the time from each request to its answer. The rooms are made for the
run, and ended after it. Ctrl-C ends a run early, with what was measured until then.

Without --rate everybody does the next thing when the one before is answered, so a
slow cluster is asked less. With --rate things fall due at that pace whatever the
cluster does, and the time of each counts from when it was due: what waits behind a
pause is in the figures, as it would be for users.

The rooms are opened with the limits of --profile, since those that come by default
are meant for people: of "large" one connection may write 1,000 times a second (after
a burst of 2,000), and waits beyond that. Few connections on a fast cluster therefore
measure that limit; more of them, or a profile of your own (serve --profiles), do not.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("want one of put, get, cas, txn, lock, mixed, watch, join, ephemeral")
		},
	}
	b.connection.flags(cmd)
	f := cmd.PersistentFlags()
	f.IntVar(&b.size, "size", 256, "bytes of a value")
	f.StringVar(&b.profile, "profile", "large", "`name` of the profile of limits that the rooms are opened with")
	f.StringVar(&b.prefix, "prefix", "bench", "how the `names` of the rooms begin")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long to measure")
	f.DurationVar(&b.warmUp, "warm-up", 2*time.Second, "how long to run before measuring")
	f.BoolVar(&b.progress, "progress", false, "say every second how it goes; of its own accord on a terminal only")
	cmd.AddCommand(
		newBenchPut(&b), newBenchGet(&b), newBenchCAS(&b), newBenchTxn(&b), newBenchLock(&b), newBenchMixed(&b),
		newBenchWatch(&b), newBenchJoin(&b), newBenchEphemeral(&b),
	)
	for _, sub := range cmd.Commands() {
		b.completes(sub)
	}
	return cmd
}

// flags adds the flags of the workloads in which each connection does one thing
// after the other.
func (c *crowding) flags(cmd *cobra.Command, connections, rooms int) {
	f := cmd.Flags()
	f.IntVar(&c.connections, "connections", connections, "peers, each with a socket of its own")
	f.IntVar(&c.inFlight, "in-flight", 1, "requests of a connection at a time")
	f.IntVar(&c.rooms, "rooms", rooms, "rooms that the connections share")
	f.Float64Var(&c.rate, "rate", 0, "operations per `second` that fall due, of all together; 0: the next when one is answered")
}

// The bounds of a benchmark: a mistyped number must not take the machine down that
// it runs on.
const (
	maxBenchConnections = 50_000
	maxBenchInFlight    = 1024
	maxBenchRooms       = 100_000
	maxBenchSize        = 1 << 20
	maxBenchRate        = 10_000_000
	maxBenchTime        = 24 * time.Hour
)

// check refuses what the flags of every workload must not say.
func (b *bench) check(cmd *cobra.Command) error {
	for _, n := range []struct {
		flag       string
		value, max int
	}{
		{"connections", b.connections, maxBenchConnections},
		{"subscribers", b.connections, maxBenchConnections},
		{"clients", b.connections, maxBenchConnections},
		{"in-flight", b.inFlight, maxBenchInFlight},
		{"rooms", b.rooms, maxBenchRooms},
	} {
		if cmd.Flags().Lookup(n.flag) != nil && (n.value < 1 || n.value > n.max) {
			return usagef("--%s is %d, want 1 to %d", n.flag, n.value, n.max)
		}
	}
	switch {
	case !(b.rate >= 0 && b.rate <= maxBenchRate):
		return usagef("--rate is %g, want 0 to %d", b.rate, maxBenchRate)
	case b.duration <= 0 || b.duration > maxBenchTime:
		return usagef("--duration is %v, want more than 0 and at most %v", b.duration, maxBenchTime)
	case b.warmUp < 0 || b.warmUp > maxBenchTime:
		return usagef("--warm-up is %v, want 0 to %v", b.warmUp, maxBenchTime)
	case b.patience <= 0:
		return usagef("--patience is %v: an operation of a benchmark needs a bound above 0", b.patience)
	case b.size < 2 || b.size > maxBenchSize:
		return usagef("--size is %d, want 2 to %d", b.size, maxBenchSize)
	case b.profile == "":
		return usagef("--profile must name one")
	}
	return nil
}

// run checks the flags, runs a workload until it is done or Ctrl-C is pressed, and
// prints its report. A second Ctrl-C ends the process.
func (b *bench) run(cmd *cobra.Command, c crowding, workload func(ctx context.Context, t *tally) (*benchReport, error)) error {
	b.crowding = c
	if err := b.check(cmd); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	t := newTally()
	stopTelling := b.tell(cmd.ErrOrStderr(), t)
	report, err := workload(ctx, t)
	stopTelling()
	if err != nil {
		return err
	}
	report.Interrupted = ctx.Err() != nil
	return b.print(cmd.OutOrStdout(), report, func(w io.Writer) { report.table(w) })
}

// attempt is the context of one operation: it may take as long as --patience, also
// after Ctrl-C, so that its outcome is known.
func (b *bench) attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), b.patience)
}

// value is a text that takes as many bytes as --size says, its quotes included. It
// begins with what is given, if there is room for that.
func (b *bench) value(begin string) string {
	return begin + strings.Repeat("x", max(0, b.size-2-len(begin)))
}
