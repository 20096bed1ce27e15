package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// work is what a connection does again and again.
type work struct {
	name string
	// rows are the kinds of operations of which it notes how long they took; the
	// first has its errors.
	rows []string
	// prepare makes what do needs, once for each lane; nil: nothing.
	prepare func(ctx context.Context, l *lane) error
	// do does it once, and notes what it did. What it returns is an error that the
	// cluster is to blame for: a condition that fails since others were faster is not.
	do func(ctx context.Context, l *lane) error
}

// lane is one of the requests that a connection has in flight: a goroutine.
type lane struct {
	number int // of all lanes
	room   *client.Room
	key    string // its own in the room
	value  string
	random *rand.Rand
	rows   map[string]*tallyRow
	rev    uint64 // of the key, as cas last saw it
	doing  string // the row that an error counts in

	tally *tally
	since time.Time // when what it does was due, or the last of its steps ended
	due   bool      // what it does counts
}

// took notes a step that has just ended as one operation of a kind.
func (l *lane) took(kind string) {
	l.tally.note(l.rows[kind], l.number, l.due, l.since)
	l.since = time.Now()
}

// load makes the rooms and the peers, and has all of them do the work until the time
// is over.
func (b *bench) load(cmd *cobra.Command, c crowding, w *work) error {
	return b.run(cmd, c, func(ctx context.Context, t *tally) (report *benchReport, err error) {
		rooms, err := b.openRooms(ctx, min(b.rooms, b.connections))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, rooms.close()) }()
		lanes, err := b.lanes(ctx, rooms, w, t)
		if err != nil {
			return nil, err
		}
		t.begins(b)
		missed, err := b.drive(ctx, lanes, w, t)
		if err != nil {
			return nil, err
		}
		report = b.report(w.name, len(rooms.names), t)
		if b.rate > 0 {
			report.Counts["not_begun"] = missed
		}
		return report, nil
	})
}

// lanes makes the connections, and what each of their lanes needs.
func (b *bench) lanes(ctx context.Context, rooms *benchRooms, w *work, t *tally) ([]*lane, error) {
	peers, err := rooms.join(ctx, b.connections)
	if err != nil {
		return nil, err
	}
	rows := map[string]*tallyRow{}
	for _, name := range w.rows {
		rows[name] = t.row(name)
	}
	lanes := make([]*lane, b.connections*b.inFlight)
	err = inParallel(len(lanes), func(i int) error {
		connection := i / b.inFlight
		lanes[i] = &lane{
			number: i, room: peers[connection], key: "key-" + number(i), value: b.value(""),
			random: rand.New(rand.NewPCG(uint64(i), 1)), rows: rows, doing: w.rows[0], tally: t,
		}
		if w.prepare == nil {
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, b.patience)
		defer cancel()
		return w.prepare(attempt, lanes[i])
	})
	return lanes, err
}

// pacer says when the operations of all lanes are due.
type pacer struct {
	start time.Time
	rate  float64 // 0: whenever a lane is ready
	next  atomic.Int64
}

// due waits until the next operation is due, and reports false when none is any
// more. One that should have begun earlier is due as of then: the wait of those
// behind a slow one is part of what they took.
func (p *pacer) due(ctx context.Context, end time.Time) (time.Time, bool) {
	now := time.Now()
	if !now.Before(end) || ctx.Err() != nil {
		return now, false
	}
	if p.rate == 0 {
		return now, true
	}
	due := p.start.Add(p.at(p.next.Add(1) - 1))
	return due, due.Before(end) && wait(ctx, due)
}

func (p *pacer) at(n int64) time.Duration {
	return time.Duration(float64(n) / p.rate * float64(time.Second))
}

// between is how many fall due from one time to another.
func (p *pacer) between(from, to time.Time) int64 {
	n := func(at time.Time) int64 { return int64(max(0, at.Sub(p.start).Seconds()*p.rate)) }
	return max(0, n(to)-n(from))
}

// failurePause keeps a lane from hammering servers that refuse it.
const failurePause = 20 * time.Millisecond

// drive has all lanes work. missed are the operations that fell due, but that no
// lane was free to begin in time.
func (b *bench) drive(ctx context.Context, lanes []*lane, w *work, t *tally) (missed int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &pacer{start: t.start, rate: b.rate}
	var begun atomic.Int64
	var all sync.WaitGroup
	for _, l := range lanes {
		all.Go(func() {
			for {
				due, ok := p.due(ctx, t.end)
				if !ok {
					return
				}
				if l.since, l.due = due, t.measures(due); l.due {
					begun.Add(1)
				}
				attempt, done := b.attempt(ctx)
				err := w.do(attempt, l)
				done()
				if err == nil {
					continue
				}
				if hopeless(err) {
					cancel(err)
					return
				}
				l.rows[l.doing].failed(err)
				wait(ctx, time.Now().Add(failurePause))
			}
		})
	}
	wait(ctx, t.end)
	stopped := earlier(time.Now(), t.end)
	all.Wait()
	t.end = stopped
	if err := context.Cause(ctx); hopeless(err) {
		return 0, err
	}
	return max(0, p.between(t.begin, t.end)-begun.Load()), nil
}

// hopeless reports whether an error will be the same every time: then the load
// cannot be put on this cluster.
func hopeless(err error) bool {
	var refused *wire.Error
	if !errors.As(err, &refused) {
		return errors.Is(err, client.ErrClosed)
	}
	switch refused.Code {
	case wire.LockTimeout, wire.NotHolder, wire.StaleFence, wire.UnknownOutcome:
		return false // the cluster was away for longer than a lock, or an answer, lasts
	}
	return refused.Retry == wire.RetryNever
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
