package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"conclave/client"
)

// writer puts 1, 2, 3, … under a key of its own until it is told to end, and
// remembers the last value that was acknowledged.
type writer struct {
	key   string
	acked atomic.Int64
}

// load is several writers at work, each over a socket of its own that begins at
// another node.
type load struct {
	t       *testing.T
	room    string
	writers []*writer
	stop    context.CancelFunc
	done    sync.WaitGroup
	failed  atomic.Pointer[error] // the first error of a writer
}

func (c *testCluster) startLoad(room string, writers int) *load {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	l := &load{t: c.t, room: room, stop: stop}
	for i := range writers {
		w := &writer{key: fmt.Sprintf("writer-%d", i)}
		l.writers = append(l.writers, w)
		r := c.join(room, i%len(c.nodes))
		l.done.Go(func() {
			if err := w.run(ctx, r); err != nil {
				l.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	c.t.Cleanup(func() { stop(); l.done.Wait() })
	return l
}

// dial makes a client that knows all nodes.
func (c *testCluster) dial() *client.Client {
	c.t.Helper()
	dialled, err := client.Dial(c.t.Context(), client.Config{Servers: c.urls(0), DialContext: dialNode})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { dialled.Close() })
	return dialled
}

// join joins a room at the i-th node, as a peer that can go on at any other.
func (c *testCluster) join(room string, i int) *client.Room {
	c.t.Helper()
	dialled := c.dial()
	for {
		// The SDK begins at any server.
		r, err := dialled.Join(c.t.Context(), room, client.JoinOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		if r.Node() == c.nodes[i].id {
			return r
		}
		r.Close()
	}
}

func (w *writer) run(ctx context.Context, r *client.Room) error {
	for n := int64(1); ; n++ {
		_, err := r.Put(ctx, w.key, n)
		if ctx.Err() != nil {
			return nil // asked to end; this one's outcome does not matter
		}
		if err != nil {
			return fmt.Errorf("%s: put %d: %w", w.key, n, err)
		}
		w.acked.Store(n)
	}
}

// acked is how many writes were acknowledged so far. A writer that failed ends
// the test.
func (l *load) acked() (sum int64) {
	l.t.Helper()
	if err := l.failed.Load(); err != nil {
		l.t.Fatal(*err)
	}
	for _, w := range l.writers {
		sum += w.acked.Load()
	}
	return sum
}

// more waits until that many more writes were acknowledged.
func (l *load) more(n int64) {
	l.t.Helper()
	want := l.acked() + n
	eventually(l.t, fmt.Sprintf("%d more writes are acknowledged", n), func() bool { return l.acked() >= want })
}

// finish ends the writers.
func (l *load) finish() {
	l.t.Helper()
	l.stop()
	l.done.Wait()
	l.acked()
}

// check reads every writer's key and compares it with what was acknowledged.
func (l *load) check(h *client.HTTP) {
	l.t.Helper()
	for _, w := range l.writers {
		e, err := h.Get(l.t.Context(), l.room, w.key, client.ReadParams{})
		if err != nil {
			l.t.Errorf("%s: %v", w.key, err)
			continue
		}
		var value int64
		if err := json.Unmarshal(e.Value, &value); err != nil {
			l.t.Errorf("%s: %v", w.key, err)
			continue
		}
		// One more may have been applied: the write whose answer nobody awaited.
		if acked := w.acked.Load(); value < acked || value > acked+1 {
			l.t.Errorf("%s is %d, but %d was acknowledged last", w.key, value, acked)
		}
		// Each put was applied exactly once.
		if e.Version != uint64(value) {
			l.t.Errorf("%s has version %d and value %d: a write was lost or doubled", w.key, e.Version, value)
		}
	}
}

// watcher follows a room from the i-th node on, and checks that each key's
// versions come one by one.
type watcher struct {
	name     string
	mu       sync.Mutex // guards what follows
	versions map[string]uint64
	resets   []string
	problems []string
	rev      uint64
}

func (c *testCluster) watch(room string, i int) *watcher {
	w := &watcher{name: "watcher that began at " + c.nodes[i].id, versions: map[string]uint64{}}
	stream := c.http(i).Events(room, client.EventsParams{Types: []string{"put"}})
	ctx, cancel := context.WithCancel(c.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for update, err := range stream.All(ctx) {
			if ctx.Err() != nil {
				return
			}
			w.take(&update, err)
		}
	})
	c.t.Cleanup(func() { cancel(); done.Wait(); stream.Close() })
	return w
}

func (w *watcher) take(u *client.Update, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.problems = append(w.problems, err.Error())
		return
	}
	if u.Reset != "" {
		w.resets = append(w.resets, u.Reset)
	}
	if u.Snapshot != nil {
		for _, e := range u.Snapshot.Stores["default"] {
			w.versions[e.Key] = e.Version
		}
		return
	}
	for _, e := range u.Events {
		if e.Type != "put" {
			w.problems = append(w.problems, fmt.Sprintf("rev %d: asked for puts, got %s", e.Rev, e.Type))
			continue
		}
		if e.Version != w.versions[e.Key]+1 {
			w.problems = append(w.problems, fmt.Sprintf("%s: version %d came after %d", e.Key, e.Version, w.versions[e.Key]))
		}
		if e.Rev <= w.rev {
			w.problems = append(w.problems, fmt.Sprintf("%s: rev %d came after %d", e.Key, e.Rev, w.rev))
		}
		w.versions[e.Key], w.rev = e.Version, e.Rev
	}
}

// reached reports whether the watcher has seen a key at that version.
func (w *watcher) reached(key string, version uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.versions[key] >= version
}

// check reports gaps, doubles and resets: in these tests the ring holds all that
// a watcher could miss.
func (w *watcher) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.problems[:min(5, len(w.problems))] {
		t.Errorf("%s: %s", w.name, p)
	}
	if len(w.resets) > 0 {
		t.Errorf("%s was reset: %v", w.name, w.resets)
	}
}
