package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// feedKey is the key that a publisher changes and its room watches.
const feedKey = "feed"

// stampBytes is the least size of a value that is watched: its number, when it was
// due, and two quotes.
const stampBytes = 2*16 + 2

// undelivered bounds how many changes a publisher without a rate is ahead of what
// has been delivered of its room, so that queues do not count as throughput.
const undelivered = 8

// newBenchWatch makes `bench watch`.
func newBenchWatch(b *bench) *cobra.Command {
	var c crowding
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Subscribers that watch changes, and how late those come",
		Long: `Spread subscribers over rooms, each with a socket of its own, and change a key in
each room that all of its subscribers watch. "publish" is the change itself, "deliver"
the time from when it was due to when a subscriber has it. With --rate 0 each room
changes as fast as its subscribers take it.

Every change has a number, so what does not come is seen: "gaps" are changes that a
subscriber has not got though it got later ones, "undelivered" those that had not come
--patience after the end, "skipped" those that a snapshot after a reset stands for.`,
		Example: `  conclave bench watch --subscribers 5000 --rooms 50 --rate 1000`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.size < stampBytes {
				return usagef("--size is %d, want at least %d: the values are numbered", b.size, stampBytes)
			}
			return b.run(cmd, c, b.watch)
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.connections, "subscribers", 1000, "peers that watch, each with a socket of its own")
	f.IntVar(&c.rooms, "rooms", 1, "rooms that they share, each with a publisher")
	f.Float64Var(&c.rate, "rate", 20, "changes per `second`, of all rooms together; 0: as fast as they are taken")
	return cmd
}

// feed is a room with its publisher.
type feed struct {
	publisher   *client.Room
	subscribers int64
	published   atomic.Int64
	taken       atomic.Int64  // by all subscribers, what they have missed included
	moved       chan struct{} // of capacity 1: something was taken
}

// subscriber is one that watches a feed. Its numbers are its goroutine's until that
// has ended.
type subscriber struct {
	number int
	feed   *feed
	watch  *client.Watch
	begun  bool
	last   int64 // the last change that it knows of

	delivered, gaps, doubles, skipped, resets int64
}

// watch runs publishers and subscribers.
func (b *bench) watch(ctx context.Context, t *tally) (report *benchReport, err error) {
	rooms, err := b.openRooms(ctx, min(b.rooms, b.connections))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rooms.close()) }()
	feeds, subscribers, err := b.subscribe(ctx, rooms)
	if err != nil {
		return nil, err
	}

	publish, deliver := t.row("publish"), t.row("deliver")
	t.begins(b)
	// Subscribers go on after Ctrl-C, until they have what was published.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	publishing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var taking sync.WaitGroup
	for _, s := range subscribers {
		taking.Go(func() {
			if err := s.take(watching, t, deliver); err != nil && watching.Err() == nil {
				cancel(fmt.Errorf("subscriber %d: %w", s.number, err))
			}
		})
	}
	var changing sync.WaitGroup
	for i, f := range feeds {
		changing.Go(func() {
			if err := b.publish(publishing, f, i, len(feeds), t, publish); err != nil {
				cancel(fmt.Errorf("publish in room %d: %w", i, err))
			}
		})
	}
	changing.Wait()
	stopped := earlier(time.Now(), t.end)
	patience := time.Now().Add(b.patience)
	for !allTaken(feeds) && time.Now().Before(patience) && (publishing.Err() == nil || ctx.Err() != nil) {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	taking.Wait()
	if cause := context.Cause(publishing); cause != nil && ctx.Err() == nil {
		return nil, cause
	}
	t.end = stopped
	report = b.report("watch", len(feeds), t)
	countWatch(report.Counts, feeds, subscribers)
	return report, nil
}

// subscribe makes the feeds, and has everybody watch before anything is published.
func (b *bench) subscribe(ctx context.Context, rooms *benchRooms) ([]*feed, []*subscriber, error) {
	publishers, err := rooms.join(ctx, len(rooms.names))
	if err != nil {
		return nil, nil, err
	}
	feeds := make([]*feed, len(publishers))
	for i, p := range publishers {
		feeds[i] = &feed{publisher: p, moved: make(chan struct{}, 1)}
	}
	peers, err := rooms.join(ctx, b.connections)
	if err != nil {
		return nil, nil, err
	}
	subscribers := make([]*subscriber, len(peers))
	for i := range peers {
		subscribers[i] = &subscriber{number: i, feed: feeds[i%len(feeds)]}
		feeds[i%len(feeds)].subscribers++
	}
	err = inParallel(len(peers), func(i int) (err error) {
		subscribers[i].watch, err = peers[i].Watch(ctx, client.Keys(feedKey))
		return err
	})
	return feeds, subscribers, err
}

// publish changes the key of a feed until the time is over. Each change is waited
// for, so that they are in order; one that is late is due as of when it should have
// been.
func (b *bench) publish(ctx context.Context, f *feed, room, rooms int, t *tally, row *tallyRow) error {
	// The rooms take turns within the time between two changes of one.
	p := &pacer{start: t.start, rate: b.rate / float64(rooms)}
	if b.rate > 0 {
		p.start = p.start.Add(time.Duration(float64(room) / b.rate * float64(time.Second)))
	}
	for n := int64(1); ; n++ {
		if b.rate == 0 && !f.room(ctx, t.end) {
			return nil
		}
		due, ok := p.due(ctx, t.end)
		if !ok {
			return nil
		}
		attempt, done := b.attempt(ctx)
		_, err := f.publisher.Put(attempt, feedKey, b.value(stamp(n, due.Sub(t.start))))
		done()
		if err != nil {
			return err
		}
		f.published.Store(n)
		t.note(row, room, t.measures(due), due)
	}
}

// room waits until the subscribers have taken enough for another change.
func (f *feed) room(ctx context.Context, end time.Time) bool {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	for (f.published.Load()-undelivered)*f.subscribers >= f.taken.Load() {
		select {
		case <-f.moved:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// took counts what a subscriber need not wait for any more.
func (f *feed) took(n int64) {
	f.taken.Add(n)
	select {
	case f.moved <- struct{}{}:
	default:
	}
}

// allTaken reports whether nothing is under way.
func allTaken(feeds []*feed) bool {
	for _, f := range feeds {
		if f.taken.Load() < f.published.Load()*f.subscribers {
			return false
		}
	}
	return true
}

// stamp begins a value: which change it is, and when it was due.
func stamp(n int64, due time.Duration) string { return fmt.Sprintf("%016x%016x", n, int64(due)) }

// readStamp reads the stamp of a value.
func readStamp(value json.RawMessage) (n int64, due time.Duration, err error) {
	if len(value) < stampBytes {
		return 0, 0, fmt.Errorf("a value without a stamp: %.60s", value)
	}
	n, err = strconv.ParseInt(string(value[1:17]), 16, 64)
	if err == nil {
		var nanos int64
		nanos, err = strconv.ParseInt(string(value[17:33]), 16, 64)
		due = time.Duration(nanos)
	}
	return n, due, err
}

// take takes updates until ctx ends, or something is wrong with them.
func (s *subscriber) take(ctx context.Context, t *tally, row *tallyRow) error {
	for u, err := range s.watch.All(ctx) {
		if err != nil {
			return err
		}
		if u.Snapshot != nil {
			if err := s.restart(u.Snapshot); err != nil {
				return err
			}
			continue
		}
		for _, e := range u.Events {
			if e.Type != "put" {
				continue
			}
			n, after, err := readStamp(e.Value)
			if err != nil {
				return err
			}
			s.change(n)
			due := t.start.Add(after)
			t.note(row, s.number, t.measures(due), due)
		}
	}
	return nil
}

// restart takes a snapshot: the first, or the one after a reset.
func (s *subscriber) restart(snap *wire.Snapshot) error {
	if s.begun {
		s.resets++
	}
	s.begun = true
	for _, e := range snap.Stores["default"] {
		n, _, err := readStamp(e.Value)
		if err != nil {
			return err
		}
		if n > s.last {
			s.skipped += n - s.last
			s.feed.took(n - s.last)
			s.last = n
		}
	}
	return nil
}

// change takes the change with a number.
func (s *subscriber) change(n int64) {
	if n <= s.last {
		s.doubles++
		return
	}
	s.delivered++
	s.gaps += n - s.last - 1
	s.feed.took(n - s.last)
	s.last = n
}

// countWatch adds up what came and what did not: delivered, gaps, skipped and
// undelivered are as many as there were changes for subscribers.
func countWatch(counts map[string]int64, feeds []*feed, subscribers []*subscriber) {
	for _, name := range []string{"published", "delivered", "gaps", "doubles", "skipped", "resets", "undelivered"} {
		counts[name] = 0
	}
	for _, f := range feeds {
		counts["published"] += f.published.Load()
	}
	for _, s := range subscribers {
		counts["delivered"] += s.delivered
		counts["gaps"] += s.gaps
		counts["doubles"] += s.doubles
		counts["skipped"] += s.skipped
		counts["resets"] += s.resets
		counts["undelivered"] += s.feed.published.Load() - s.last
	}
}
