package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// bench is what a benchmark puts on a cluster. Every client is a peer with a
// socket of its own, spread over the servers, with one request at a time.
type bench struct {
	connection
	clients  int
	rooms    int
	size     int
	profile  string
	duration time.Duration
	warmUp   time.Duration
}

// newBench makes `bench put`, `bench watch` and `bench ephemeral`.
func newBench() *cobra.Command {
	var l bench
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a running cluster",
		Long: `Measure a running cluster. Its rooms are opened with the limits of --profile,
since those that come by default are meant for people: of "large" a single client
may write 1,000 times a second (after a burst of 2,000), and waits beyond that. Few
clients on a fast cluster therefore measure that limit; more clients, or a profile of
your own (serve --profiles), do not.`,
		Args: cobra.NoArgs,
	}
	l.connection.flags(cmd)
	f := cmd.PersistentFlags()
	f.IntVar(&l.size, "size", 256, "bytes of a value")
	f.StringVar(&l.profile, "profile", "large", "`name` of the profile of limits that the rooms are opened with")
	f.DurationVar(&l.duration, "duration", 10*time.Second, "how long to measure")
	f.DurationVar(&l.warmUp, "warm-up", 2*time.Second, "how long to run before measuring")
	put := &cobra.Command{
		Use:   "put",
		Short: "Acknowledged puts, each client one at a time",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return l.puts(cmd.Context(), cmd.OutOrStdout()) },
	}
	put.Flags().IntVar(&l.clients, "clients", 256, "sockets")
	put.Flags().IntVar(&l.rooms, "rooms", 16, "rooms that the clients share")
	watch := &cobra.Command{
		Use:   "watch",
		Short: "From the writer's answer on the first server to the event on the last",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return l.watch(cmd.Context(), cmd.OutOrStdout()) },
	}
	cmd.AddCommand(put, watch, newBenchEphemeral(&l))
	return cmd
}

func (l *bench) value() string { return strings.Repeat("x", max(0, l.size-2)) } // and two quotes

// openRoom opens a room with the profile. One that is open with another would be
// measured by limits that nobody asked for.
func (l *bench) openRoom(ctx context.Context, room string) error {
	h, err := l.connection.open()
	if err != nil {
		return err
	}
	defer h.Close()
	info, err := h.OpenRoom(ctx, room, client.OpenParams{Profile: l.profile})
	if err == nil && info.Profile != l.profile {
		err = wire.Errorf(wire.Conflict, "room %s is open with the profile %s, not %s: end it first, or name that one", room, info.Profile, l.profile)
	}
	return err
}

// join makes client number i a peer, at one of the servers.
func (l *bench) join(ctx context.Context, i int, room string) (*client.Client, *client.Room, error) {
	cfg := l.config()
	at := i % len(cfg.Servers)
	cfg.Servers = cfg.Servers[at : at+1]
	c, err := client.Dial(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.Join(ctx, room, client.JoinOptions{})
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, r, nil
}

// puts runs the clients and prints throughput and latency.
func (l *bench) puts(ctx context.Context, out io.Writer) error {
	for i := range min(l.rooms, l.clients) {
		if err := l.openRoom(ctx, fmt.Sprintf("bench-%d", i)); err != nil {
			return err
		}
	}
	rooms := make([]*client.Room, l.clients)
	for i := range rooms {
		c, r, err := l.join(ctx, i, fmt.Sprintf("bench-%d", i%l.rooms))
		if err != nil {
			return fmt.Errorf("join as client %d: %w", i, err)
		}
		defer c.Close()
		rooms[i] = r
	}
	begin := time.Now().Add(l.warmUp)
	end := begin.Add(l.duration)
	samples := make([][]time.Duration, len(rooms))
	failures := make([]error, len(rooms))
	var wg sync.WaitGroup
	for i, r := range rooms {
		wg.Add(1)
		go func() {
			defer wg.Done()
			key, value := fmt.Sprintf("key-%d", i), l.value()
			for {
				sent := time.Now()
				if sent.After(end) || ctx.Err() != nil {
					return
				}
				if _, err := r.Put(ctx, key, value); err != nil {
					failures[i] = err
					return
				}
				if sent.After(begin) {
					samples[i] = append(samples[i], time.Since(sent))
				}
			}
		}()
	}
	wg.Wait()
	for i, err := range failures {
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
	}
	all := slices.Concat(samples...)
	fmt.Fprintf(out, "%d clients, %d-byte values: %.0f puts/s", l.clients, l.size, float64(len(all))/l.duration.Seconds())
	printLatency(out, all)
	return nil
}

// watch writes on the first server and watches on the last, and prints how long
// after the writer's answer the event came (before it counts as zero).
func (l *bench) watch(ctx context.Context, out io.Writer) error {
	room := "bench-watch"
	if err := l.openRoom(ctx, room); err != nil {
		return err
	}
	writer, w, err := l.join(ctx, 0, room)
	if err != nil {
		return err
	}
	defer writer.Close()
	reader, r, err := l.join(ctx, len(l.servers)-1, room)
	if err != nil {
		return err
	}
	defer reader.Close()
	events, err := r.Watch(ctx, client.Keys("key"))
	if err != nil {
		return err
	}
	defer events.Close()
	seen := make(chan time.Time, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			u, err := events.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			if len(u.Events) > 0 {
				seen <- time.Now()
			}
		}
	}()
	var behind, puts []time.Duration
	begin := time.Now().Add(l.warmUp)
	for end := begin.Add(l.duration); time.Now().Before(end) && ctx.Err() == nil; {
		sent := time.Now()
		if _, err := w.Put(ctx, "key", l.value()); err != nil {
			return err
		}
		answered := time.Now()
		select {
		case at := <-seen:
			if sent.After(begin) {
				behind = append(behind, max(0, at.Sub(answered)))
				puts = append(puts, answered.Sub(sent))
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
		}
	}
	fmt.Fprintf(out, "event after the writer's answer")
	printLatency(out, behind)
	fmt.Fprintf(out, "the put itself")
	printLatency(out, puts)
	return nil
}

// printLatency ends a line with the quantiles of what was measured.
func printLatency(out io.Writer, samples []time.Duration) {
	if len(samples) == 0 {
		fmt.Fprintln(out, ": nothing was measured")
		return
	}
	slices.Sort(samples)
	at := func(q float64) time.Duration {
		return samples[min(len(samples)-1, int(q*float64(len(samples))))].Round(time.Microsecond)
	}
	fmt.Fprintf(out, ", p50 %v, p99 %v, max %v (%d samples)\n", at(0.5), at(0.99), at(1), len(samples))
}
