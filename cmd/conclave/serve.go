package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"conclave/cluster"
)

// serveOptions are the flags of serve. After check, addresses are complete and
// everything that could be refused without opening anything has been.
type serveOptions struct {
	id, data                       string
	http, peer                     string
	httpAdvertise, peerAdvertise   string
	bootstrapExpect                int
	join                           []string
	replica                        bool
	logStore                       string
	auth                           string
	insecure                       bool
	origins                        []string
	dev                            bool
	timeout, deadline, diskLimit   time.Duration
	compareInterval                time.Duration
	snapshotThreshold, trailingLog uint64
	stopTimeout                    time.Duration
	limits                         limitOptions
	logLevel, logFormat            string
}

// newServe makes `conclave serve`. Every flag has a default with which a first
// node runs, but for its name and its data folder: those it keeps for ever, and
// a guess would be regretted.
func newServe() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve --id NAME --data DIR",
		Short: "Run one node of a cluster",
		Long: `Run one node of a cluster, in the foreground.

The first start of a cluster: give each of N nodes --bootstrap-expect N and all
peer addresses in --join. They found the cluster once all N answer and all are
empty. Later nodes: --join alone, with the address of any member; they join as
non-voters and are promoted once they have caught up. A node that has data goes
on from it, whatever these flags say.

The line "conclave NAME ready" on stdout says that the node serves. SIGTERM and
SIGINT stop it: clients are sent to other nodes, leadership is handed over, the
log is closed. A second signal ends the process at once, which is safe: nothing
acknowledged is lost. A node that was removed from the cluster ends by itself,
with exit code 0. A disk that fails, or hangs longer than --disk-limit, ends
the process with exit code 3, and so does a state that is not that of the
majority.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			logger, err := o.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			// stop restores the signals' default action after the first one, so that
			// the second ends the process at once.
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			go func() { <-ctx.Done(); stop() }()
			return serve(ctx, &o, logger, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.id, "id", "", "the node's `name`, for ever: 1-64 of A-Z a-z 0-9 _ -")
	f.StringVar(&o.data, "data", "", "the node's data `folder`, made if absent")
	f.StringVar(&o.http, "http", "127.0.0.1:7400", "`address` for clients")
	f.StringVar(&o.peer, "peer", "127.0.0.1:7500", "`address` for the other nodes")
	f.StringVar(&o.httpAdvertise, "http-advertise", "", "the `address` that clients are told, if not --http")
	f.StringVar(&o.peerAdvertise, "peer-advertise", "", "the `address` that other nodes dial, if not --peer")
	f.IntVar(&o.bootstrapExpect, "bootstrap-expect", 0, "found a cluster once this `many` empty nodes answer; 0: never")
	f.StringSliceVar(&o.join, "join", nil, "peer `addresses` to ask, this node's own may be among them")
	f.BoolVar(&o.replica, "replica", false, "stay a non-voter: serves reads and watchers, counts in no majority")
	f.StringVar(&o.auth, "auth", "none", "none: every caller has every right; `jwt`: not in this build yet")
	f.BoolVar(&o.insecure, "insecure", false, "listen beyond loopback although there are neither tokens nor TLS")
	f.StringSliceVar(&o.origins, "cors-origin", nil, "web `origins` that browsers may connect from")
	f.BoolVar(&o.dev, "cors-localhost", false, "let browsers connect from any localhost origin")
	f.DurationVar(&o.timeout, "timeout", time.Second, "raft heartbeat, election and lease timeout; all waits are multiples of it")
	f.DurationVar(&o.deadline, "deadline", 4*time.Second, "how long a write or a linearizable read may wait for its outcome")
	f.DurationVar(&o.compareInterval, "compare-interval", time.Minute, "have all replicas compare their states so often, if anything has changed; 0: never")
	f.StringVar(&o.logStore, "log-store", string(cluster.LogBolt), "where a new data folder has its log, for ever: bolt, or wal, which takes more writes")
	f.DurationVar(&o.diskLimit, "disk-limit", 10*time.Second, "stop the node when one write to its disk takes longer")
	f.Uint64Var(&o.snapshotThreshold, "snapshot-threshold", 65536, "log entries after which a snapshot is taken")
	f.Uint64Var(&o.trailingLog, "trailing-logs", 32768, "log entries kept behind a snapshot, for nodes that lag")
	o.limits.flags(cmd)
	f.DurationVar(&o.stopTimeout, "stop-timeout", 15*time.Second, "how long an orderly stop may take")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	return cmd
}

// check refuses what cannot work before anything is opened, and completes the
// addresses.
func (o *serveOptions) check() (err error) {
	switch {
	case o.id == "":
		return usagef("--id: every node needs a name of its own")
	case o.data == "":
		return usagef("--data: say where the node keeps its log")
	case o.bootstrapExpect < 0:
		return usagef("--bootstrap-expect: want 0 or more, got %d", o.bootstrapExpect)
	case o.bootstrapExpect > 1 && len(o.join) == 0:
		return usagef("--bootstrap-expect %d needs the other nodes' addresses in --join", o.bootstrapExpect)
	case o.logStore != string(cluster.LogBolt) && o.logStore != string(cluster.LogWAL):
		return usagef("--log-store: want bolt or wal, got %q", o.logStore)
	case o.auth == "jwt":
		return usagef("--auth jwt: this build does not have it yet; --auth none serves loopback, or a private network with --insecure")
	case o.auth != "none":
		return usagef("--auth: want none or jwt, got %q", o.auth)
	}
	for flag, d := range map[string]time.Duration{
		"timeout": o.timeout, "deadline": o.deadline, "disk-limit": o.diskLimit, "stop-timeout": o.stopTimeout,
	} {
		if d <= 0 {
			return usagef("--%s: want more than 0, got %v", flag, d)
		}
	}
	if o.compareInterval < 0 {
		return usagef("--compare-interval: want 0 or more, got %v", o.compareInterval)
	}
	if err := o.limits.check(); err != nil {
		return err
	}
	if o.http, err = withPort(o.http, defaultHTTPPort); err != nil {
		return usagef("--http: %w", err)
	}
	if o.peer, err = withPort(o.peer, defaultPeerPort); err != nil {
		return usagef("--peer: %w", err)
	}
	for i := range o.join {
		if o.join[i], err = withPort(strings.TrimSpace(o.join[i]), defaultPeerPort); err != nil {
			return usagef("--join: %w", err)
		}
	}
	// Whoever reaches the HTTP port may do everything, whoever reaches the peer
	// port may write the log.
	for flag, addr := range map[string]string{"http": o.http, "peer": o.peer} {
		if !o.insecure && !loopback(addr) {
			return usagef("--%s %s is reachable from other machines, and without tokens and TLS everybody there has every right; "+
				"--insecure says that the network is yours alone", flag, addr)
		}
	}
	return nil
}

// comparing is --compare-interval as the node wants it.
func (o *serveOptions) comparing() time.Duration {
	if o.compareInterval == 0 {
		return -1
	}
	return o.compareInterval
}

// logger writes to stderr; stdout has the few lines that tell a script how far
// the node has come.
func (o *serveOptions) logger(w interface{ Write([]byte) (int, error) }) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, usagef("--log-level: want debug, info, warn or error, got %q", o.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)).With("node", o.id), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)).With("node", o.id), nil
	}
	return nil, usagef("--log-format: want text or json, got %q", o.logFormat)
}

// wait says what a node that has nowhere to go is waiting for.
func (o *serveOptions) wait() string {
	if o.bootstrapExpect == 0 && len(o.join) == 0 {
		return fmt.Sprintf("; if it is new, it waits to be added: conclave cluster join %s %s", o.id, o.peer)
	}
	return ""
}
