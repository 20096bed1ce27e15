package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// setUpAtOnce bounds what a benchmark sets up or takes down at a time.
const setUpAtOnce = 64

// benchRooms are the rooms of one run, and who is in them.
type benchRooms struct {
	b     *bench
	http  *client.HTTP
	names []string
	// sessions are those that this run has opened, "" where it has not.
	sessions []string
	clients  []*client.Client // one for each server
}

// openRooms makes as many rooms as the run needs, with names that no other run has.
// What was opened is ended by close, also if this fails.
func (b *bench) openRooms(ctx context.Context, n int) (_ *benchRooms, err error) {
	h, err := b.open()
	if err != nil {
		return nil, err
	}
	s := &benchRooms{b: b, http: h, names: make([]string, n), sessions: make([]string, n)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	run := strings.ToLower(rand.Text()[:8])
	err = inParallel(n, func(i int) error {
		s.names[i] = fmt.Sprintf("%s-%s-%d", b.prefix, run, i)
		info, err := h.OpenRoom(ctx, s.names[i], client.OpenParams{Profile: b.profile})
		if err == nil {
			s.sessions[i] = info.Session
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	cfg := b.config()
	for i := range cfg.Servers {
		one := cfg
		one.Servers = cfg.Servers[i : i+1]
		c, err := client.Dial(ctx, one)
		if err != nil {
			return nil, err
		}
		s.clients = append(s.clients, c)
	}
	return s, nil
}

// room is the name of the room of the i-th connection.
func (s *benchRooms) room(i int) string { return s.names[i%len(s.names)] }

// server is the server of the i-th connection. Peers of one room are at different
// ones, also if there are as many of these as rooms.
func (s *benchRooms) server(i int) int { return (i/len(s.names) + i) % len(s.clients) }

// join makes n peers, spread over the rooms and the servers.
func (s *benchRooms) join(ctx context.Context, n int) ([]*client.Room, error) {
	rooms := make([]*client.Room, n)
	err := inParallel(n, func(i int) (err error) {
		rooms[i], err = s.clients[s.server(i)].Join(ctx, s.room(i), client.JoinOptions{})
		return err
	})
	return rooms, err
}

// close ends the rooms that the run has opened, and then its connections, which need
// not leave one by one. It works also after Ctrl-C.
func (s *benchRooms) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.b.patience)
	defer cancel()
	err := inParallel(len(s.names), func(i int) error {
		if s.sessions[i] == "" {
			return nil
		}
		err := s.http.EndRoom(ctx, s.names[i], s.sessions[i])
		if client.HasCode(err, wire.NoSession) || client.IsSessionEnded(err) {
			return nil
		}
		return err
	})
	for _, c := range s.clients {
		c.Close()
	}
	s.http.Close()
	return err
}

// inParallel runs f for 0 to n-1, some at a time, and returns the first error;
// after one nothing more is begun.
func inParallel(n int, f func(i int) error) error {
	var (
		mu    sync.Mutex
		first error
		all   sync.WaitGroup
	)
	slots := make(chan struct{}, setUpAtOnce)
	for i := range n {
		slots <- struct{}{}
		mu.Lock()
		failed := first != nil
		mu.Unlock()
		if failed {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	all.Wait()
	return first
}

// wait sleeps until a time, or until ctx ends.
func wait(ctx context.Context, until time.Time) bool {
	d := time.Until(until)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
