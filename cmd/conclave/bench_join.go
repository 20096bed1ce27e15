package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"conclave/client"

	"github.com/spf13/cobra"
)

// newBenchJoin makes `bench join`.
func newBenchJoin(b *bench) *cobra.Command {
	var c crowding
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Storms of joins, and of reconnects that resume",
		Long: `Let peers join all at once, then cut all their connections at once and let them come
back, then let them leave; again and again until the time is over, and at least once.
A round that has begun is brought to its end, and all of it counts.

"join" is the time to connect and be taken in, "resume" the same for a peer that comes
back, "back" the time since its connection was cut: clients wait up to 100 ms by chance
before they come back, so that they do not all do so in the same moment. The rates are
those of the storms alone. "rejoined" are peers that came back as new ones, "resets"
those whose stream did not go on where it was.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd, c, b.storms) },
	}
	f := cmd.Flags()
	f.IntVar(&c.connections, "connections", 1000, "peers, each with a socket of its own")
	f.IntVar(&c.rooms, "rooms", 16, "rooms that they share")
	f.Float64Var(&c.rate, "rate", 0, "joins, and cuts, per `second`; 0: all at once")
	return cmd
}

// storm is what all peers of a run do.
type storm struct {
	b        *bench
	tally    *tally
	measured bool  // this round counts; it does not change while one runs
	rounds   int64 // that counted

	join, resume, back, leave *tallyRow
	resumed, rejoined, resets atomic.Int64
	watching                  sync.WaitGroup
}

// comer is a peer that comes and goes. It has a client of its own, to know which
// connection is its.
type comer struct {
	number int
	name   string // of the room
	client *client.Client
	joined *client.Room // nil when it is not in the room
	back   chan returned

	mu         sync.Mutex // guards what follows
	line       net.Conn   // the connection made last
	cut        time.Time  // zero unless it is away
	connecting time.Time  // when it first tried to come back
}

// returned is a peer's coming back.
type returned struct {
	cut, connecting, attached time.Time
	rejoined                  bool // as another peer
}

// storms runs the rounds.
func (b *bench) storms(ctx context.Context, t *tally) (report *benchReport, err error) {
	rooms, err := b.openRooms(ctx, min(b.rooms, b.connections))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rooms.close()) }()
	s := &storm{b: b, tally: t, join: t.row("join"), resume: t.row("resume"), back: t.row("back"), leave: t.row("leave")}
	comers, err := b.comers(ctx, rooms)
	defer func() {
		// Whoever is still in a room leaves.
		_ = inParallel(len(comers), func(i int) error { return comers[i].client.Close() })
		s.watching.Wait()
	}()
	if err != nil {
		return nil, err
	}
	t.begins(b)
	for ctx.Err() == nil && (s.rounds == 0 || time.Now().Before(t.end)) {
		s.measured = !time.Now().Before(t.begin)
		if err := s.round(ctx, comers); err != nil {
			return nil, err
		}
		if s.measured {
			s.rounds++
		}
	}
	t.end = time.Now()
	report = b.report("join", len(rooms.names), t)
	report.Counts = map[string]int64{
		"rounds": s.rounds, "resumed": s.resumed.Load(), "rejoined": s.rejoined.Load(), "resets": s.resets.Load(),
	}
	return report, nil
}

// comers makes the peers' clients. Those that it has made come back also with an error.
func (b *bench) comers(ctx context.Context, rooms *benchRooms) ([]*comer, error) {
	all := make([]*comer, b.connections)
	err := inParallel(len(all), func(i int) (err error) {
		c := &comer{number: i, name: rooms.room(i), back: make(chan returned, 1)}
		cfg := b.config()
		server := rooms.server(i)
		cfg.Servers = cfg.Servers[server : server+1]
		cfg.DialContext = c.dial
		if c.client, err = client.Dial(ctx, cfg); err == nil {
			all[i] = c
		}
		return err
	})
	made := all[:0]
	for _, c := range all {
		if c != nil {
			made = append(made, c)
		}
	}
	return made, err
}

// dial remembers the connection that it makes.
func (c *comer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	line, err := (&net.Dialer{KeepAlive: 10 * time.Second}).DialContext(ctx, network, addr)
	if err == nil {
		c.mu.Lock()
		c.line = line
		c.mu.Unlock()
	}
	return line, err
}

// round is a storm of joins, one of reconnects, and the leaving. What Ctrl-C leaves
// undone, the end of the rooms undoes.
func (s *storm) round(ctx context.Context, comers []*comer) error {
	for _, phase := range []struct {
		do   func(ctx context.Context, c *comer, due time.Time) error
		rows []*tallyRow
	}{
		{s.comes, []*tallyRow{s.join}},
		{s.watches, nil},
		{s.isCut, []*tallyRow{s.resume, s.back}},
		{s.leaves, []*tallyRow{s.leave}},
	} {
		if err := s.all(ctx, comers, phase.do, phase.rows); err != nil {
			return err
		}
	}
	return nil
}

// all has all peers do one thing at once, or as --rate says, and adds the time of
// that storm to what the rates of its rows count by.
func (s *storm) all(ctx context.Context, comers []*comer, do func(ctx context.Context, c *comer, due time.Time) error, rows []*tallyRow) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begun := time.Now()
	var all sync.WaitGroup
	for i, c := range comers {
		due := begun
		if s.b.rate > 0 && rows != nil {
			due = begun.Add(time.Duration(float64(i) / s.b.rate * float64(time.Second)))
		}
		all.Go(func() {
			if !wait(ctx, due) {
				return
			}
			if err := do(ctx, c, due); err != nil {
				cancel(fmt.Errorf("peer %d: %w", c.number, err))
			}
		})
	}
	all.Wait()
	for _, r := range rows {
		if s.measured {
			r.busy.Add(int64(time.Since(begun)))
		}
	}
	if cause := context.Cause(ctx); hopeless(cause) {
		return cause
	}
	return nil
}

func (s *storm) note(r *tallyRow, c *comer, took time.Duration) { r.note(c.number, s.measured, took) }

// failed counts what failed, and passes on what will fail every time.
func (s *storm) failed(r *tallyRow, err error) error {
	if hopeless(err) {
		return err
	}
	r.failed(err)
	return nil
}

// comes joins the room.
func (s *storm) comes(ctx context.Context, c *comer, due time.Time) error {
	attempt, done := s.b.attempt(ctx)
	defer done()
	joined, err := c.client.Join(attempt, c.name, client.JoinOptions{OnStatus: c.status})
	if err != nil {
		return s.failed(s.join, err)
	}
	s.note(s.join, c, time.Since(due))
	c.joined = joined
	return nil
}

// watches gives the peer a stream to resume.
func (s *storm) watches(ctx context.Context, c *comer, _ time.Time) error {
	if c.joined == nil {
		return nil
	}
	attempt, done := s.b.attempt(ctx)
	defer done()
	w, err := c.joined.Watch(attempt, client.Keys(feedKey))
	if err != nil {
		return s.failed(s.join, err)
	}
	s.watching.Go(func() {
		for u, err := range w.All(context.Background()) { // until the peer leaves
			if err == nil && u.Reset != "" {
				s.resets.Add(1)
			}
		}
	})
	return nil
}

// isCut cuts the connection, and waits until the peer has come back.
func (s *storm) isCut(ctx context.Context, c *comer, _ time.Time) error {
	if c.joined == nil {
		return nil
	}
	c.mu.Lock()
	c.cut, c.connecting = time.Now(), time.Time{}
	line := c.line
	c.mu.Unlock()
	line.Close()
	attempt, done := s.b.attempt(ctx)
	defer done()
	select {
	case r := <-c.back:
		if r.rejoined {
			s.rejoined.Add(1)
		} else {
			s.resumed.Add(1)
		}
		s.note(s.resume, c, r.attached.Sub(r.connecting))
		s.note(s.back, c, r.attached.Sub(r.cut))
		return nil
	case <-c.joined.Done():
		return s.failed(s.resume, c.joined.Err())
	case <-attempt.Done():
		return s.failed(s.resume, &client.InterruptedError{Do: "resume", Err: attempt.Err()})
	}
}

// status is told how the connection is.
func (c *comer) status(now client.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut.IsZero():
	case now.State == client.Connecting && c.connecting.IsZero():
		c.connecting = time.Now()
	case now.State == client.Attached:
		select {
		case c.back <- returned{c.cut, c.connecting, time.Now(), now.Rejoined}:
		default: // of a round that did not wait for it
		}
		c.cut = time.Time{}
	}
}

// leaves leaves the room.
func (s *storm) leaves(ctx context.Context, c *comer, due time.Time) error {
	if c.joined == nil {
		return nil
	}
	attempt, done := s.b.attempt(ctx)
	defer done()
	err := c.joined.Leave(attempt)
	c.joined = nil
	if err != nil {
		return s.failed(s.leave, err)
	}
	s.note(s.leave, c, time.Since(due))
	return nil
}
