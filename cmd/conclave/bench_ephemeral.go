package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"conclave/client"

	"github.com/spf13/cobra"
)

// ephemeralBench measures puts of a room with and without the cursors of its peers.
type ephemeralBench struct {
	*bench
	peers int
	rate  float64
}

// newBenchEphemeral makes `bench ephemeral`.
func newBenchEphemeral(l *bench) *cobra.Command {
	e := ephemeralBench{bench: l}
	cmd := &cobra.Command{
		Use:   "ephemeral",
		Short: "Puts of a room, with and without the cursors of its peers",
		Long: `Join peers to one room, spread over the servers, all of which watch each other's
cursors. Put in the same room, fifty times a second and client, by turns while the
cursors rest and while they move, and print the latency of the puts in both cases.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return e.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.IntVar(&l.clients, "clients", 3, "sockets that put")
	f.IntVar(&e.peers, "peers", 50, "peers with a cursor")
	f.Float64Var(&e.rate, "rate", 20, "moves of a cursor per second")
	return cmd
}

// putPause is the pace of each client's puts.
const putPause = 20 * time.Millisecond

// turns is how often cursors rest and move by turns, so that what else the machine
// does meets both.
const turns = 4

// cursors are the peers with a cursor.
type cursors struct {
	moving         atomic.Bool
	sent, received atomic.Int64
	failed         atomic.Pointer[error]
	done           sync.WaitGroup
}

func (e *ephemeralBench) run(ctx context.Context, out io.Writer) error {
	if e.rate <= 0 {
		return usagef("--rate must be above 0")
	}
	const room = "bench-ephemeral"
	if err := e.openRoom(ctx, room); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var c cursors
	defer func() { cancel(); c.done.Wait() }()
	for i := range e.peers {
		cl, r, err := e.join(ctx, i, room)
		if err != nil {
			return fmt.Errorf("join as peer %d: %w", i, err)
		}
		defer cl.Close()
		w, err := r.Watch(ctx, client.Messages("cursor"))
		if err != nil {
			return fmt.Errorf("watch as peer %d: %w", i, err)
		}
		c.done.Go(func() { c.watch(ctx, w) })
		c.done.Go(func() { c.move(ctx, r, time.Duration(float64(time.Second)/e.rate)) })
	}
	writers := make([]*client.Room, e.clients)
	for i := range writers {
		cl, r, err := e.join(ctx, i, room)
		if err != nil {
			return fmt.Errorf("join as client %d: %w", i, err)
		}
		defer cl.Close()
		writers[i] = r
	}
	first, err := writers[0].Put(ctx, "key", e.value())
	if err != nil {
		return err
	}
	var samples [2][]time.Duration // resting, moving
	puts := 0
	for turn := range 2 * turns {
		c.moving.Store(turn%2 == 1)
		got, n, err := e.putAll(ctx, writers)
		if err != nil {
			return err
		}
		samples[turn%2] = append(samples[turn%2], got...)
		puts += n
	}
	c.moving.Store(false)
	if err := c.failed.Load(); err != nil {
		return *err
	}
	last, err := writers[0].Put(ctx, "key", e.value())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "put, cursors at rest")
	printLatency(out, samples[0])
	fmt.Fprintf(out, "put, %d cursors at %g/s", e.peers, e.rate)
	printLatency(out, samples[1])
	fmt.Fprintf(out, "cursors: %d messages sent, %d received; %d puts took %d revisions\n",
		c.sent.Load(), c.received.Load(), puts+1, last.Rev-first.Rev)
	return nil
}

// putAll has all clients put for one turn. What is put in the warm-up counts, but is
// not measured.
func (e *ephemeralBench) putAll(ctx context.Context, writers []*client.Room) (samples []time.Duration, puts int, err error) {
	begin := time.Now().Add(e.warmUp / turns)
	end := begin.Add(e.duration / (2 * turns))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, r := range writers {
		wg.Go(func() {
			ticker := time.NewTicker(putPause)
			defer ticker.Stop()
			for range ticker.C {
				sent := time.Now()
				if sent.After(end) || ctx.Err() != nil {
					return
				}
				_, failed := r.Put(ctx, fmt.Sprintf("key-%d", i), e.value())
				took := time.Since(sent)
				mu.Lock()
				if puts++; sent.After(begin) {
					samples = append(samples, took)
				}
				if failed != nil {
					err = failed
				}
				mu.Unlock()
				if failed != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return samples, puts, err
}

// move moves a cursor while cursors move.
func (c *cursors) move(ctx context.Context, r *client.Room, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !c.moving.Load() {
			continue
		}
		if _, err := r.Send(ctx, "cursor", [2]int{n, n}, client.Ephemeral()); err != nil {
			c.fail(ctx, err)
			return
		}
		c.sent.Add(1)
	}
}

// watch counts the cursors of the others.
func (c *cursors) watch(ctx context.Context, w *client.Watch) {
	for u, err := range w.All(ctx) {
		if err != nil {
			c.fail(ctx, err)
			return
		}
		c.received.Add(int64(len(u.Ephemeral)))
	}
}

func (c *cursors) fail(ctx context.Context, err error) {
	if ctx.Err() == nil {
		c.failed.CompareAndSwap(nil, &err)
	}
}
