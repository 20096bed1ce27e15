package main

import (
	"context"
	"errors"
	"fmt"
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
}

// newBenchEphemeral makes `bench ephemeral`.
func newBenchEphemeral(b *bench) *cobra.Command {
	e := ephemeralBench{bench: b}
	var c crowding
	cmd := &cobra.Command{
		Use:   "ephemeral",
		Short: "Puts of a room, with and without the cursors of its peers",
		Long: `Join peers to one room, spread over the servers, all of which watch each other's
cursors. Put in the same room, fifty times a second and client, by turns while the
cursors rest and while they move, and print the latency of the puts in both cases.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.rate <= 0:
				return usagef("--rate is %g, want more than 0", c.rate)
			case e.peers < 1 || e.peers > maxBenchConnections:
				return usagef("--peers is %d, want 1 to %d", e.peers, maxBenchConnections)
			}
			c.rooms = 1
			return b.run(cmd, c, e.turns)
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.connections, "clients", 3, "sockets that put")
	f.IntVar(&e.peers, "peers", 50, "peers with a cursor")
	f.Float64Var(&c.rate, "rate", 20, "moves of a cursor per `second`")
	return cmd
}

// putPause is the pace of each client's puts.
const putPause = 20 * time.Millisecond

// cursorTurns is how often cursors rest and move by turns, so that what else the machine
// does meets both.
const cursorTurns = 4

// cursors are the peers with a cursor.
type cursors struct {
	moving         atomic.Bool
	sent, received atomic.Int64
	failed         atomic.Pointer[error]
	done           sync.WaitGroup
}

// turns has cursors rest and move by turns.
func (e *ephemeralBench) turns(ctx context.Context, t *tally) (report *benchReport, err error) {
	rooms, err := e.openRooms(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rooms.close()) }()
	peers, err := rooms.join(ctx, e.peers+e.connections)
	if err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(ctx)
	var c cursors
	defer func() { cancel(); c.done.Wait() }()
	for i, r := range peers[:e.peers] {
		w, err := r.Watch(ctx, client.Messages("cursor"))
		if err != nil {
			return nil, fmt.Errorf("watch as peer %d: %w", i, err)
		}
		c.done.Go(func() { c.watch(watching, w) })
		c.done.Go(func() { c.move(watching, r, time.Duration(float64(time.Second)/e.rate)) })
	}
	writers := peers[e.peers:]
	resting, moving := t.row("put_resting"), t.row("put_moving")
	t.begins(e.bench)
	first, err := writers[0].Put(ctx, "key", e.value(""))
	if err != nil {
		return nil, err
	}
	puts := int64(0)
	for turn := 0; turn < 2*cursorTurns && ctx.Err() == nil; turn++ {
		row := resting
		if c.moving.Store(turn%2 == 1); turn%2 == 1 {
			row = moving
		}
		n, err := e.putAll(ctx, writers, row)
		if err != nil {
			return nil, err
		}
		puts += n
	}
	c.moving.Store(false)
	if err := c.failed.Load(); err != nil {
		return nil, *err
	}
	attempt, done := e.attempt(ctx)
	defer done()
	last, err := writers[0].Put(attempt, "key", e.value(""))
	if err != nil {
		return nil, err
	}
	t.end = time.Now()
	report = e.report("ephemeral", 1, t)
	report.Settings.Rate, report.Settings.MovesPerSecond = 0, e.rate
	report.Counts = map[string]int64{
		"cursors": int64(e.peers), "messages_sent": c.sent.Load(), "messages_received": c.received.Load(),
		"puts": puts + 1, "revisions": int64(last.Rev - first.Rev),
	}
	return report, nil
}

// putAll has all clients put for one turn. What is put in the warm-up counts as a
// put, but is not measured.
func (e *ephemeralBench) putAll(ctx context.Context, writers []*client.Room, row *tallyRow) (int64, error) {
	begin := time.Now().Add(e.warmUp / cursorTurns)
	end := begin.Add(e.duration / (2 * cursorTurns))
	var (
		puts   atomic.Int64
		failed atomic.Pointer[error]
		all    sync.WaitGroup
	)
	for i, r := range writers {
		all.Go(func() {
			for sent := time.Now(); sent.Before(end) && ctx.Err() == nil; sent = time.Now() {
				attempt, done := e.attempt(ctx)
				_, err := r.Put(attempt, fmt.Sprintf("key-%d", i), e.value(""))
				done()
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				puts.Add(1)
				row.note(i, sent.After(begin), time.Since(sent))
				wait(ctx, sent.Add(putPause))
			}
		})
	}
	all.Wait()
	row.busy.Add(int64(max(0, earlier(time.Now(), end).Sub(begin))))
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return puts.Load(), nil
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
