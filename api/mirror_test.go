package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
	"conclave/fsm"
)

// mirror is what a watcher knows of a store by the frames that it was sent.
type mirror struct {
	t       testing.TB
	rev     uint64
	entries map[string]wire.Entry
	seen    []uint64 // revisions of events, in the order in which they came
}

// start begins with a snapshot.
func (m *mirror) start(snap wire.Snapshot, rev uint64) {
	m.rev, m.entries = rev, map[string]wire.Entry{}
	for _, e := range snap.Stores[defaultStore] {
		if e.Rev > rev {
			m.t.Errorf("a snapshot at %d has an entry of %d", rev, e.Rev)
		}
		m.entries[e.Key] = e
	}
}

// apply takes a frame of events: after everything before it, each version one
// after the one known.
func (m *mirror) apply(f wsFrame) {
	if f.Rev <= m.rev {
		m.t.Errorf("events up to %d come after %d", f.Rev, m.rev)
	}
	for _, e := range f.Events {
		if e.Rev <= m.rev || e.Rev > f.Rev {
			m.t.Errorf("an event of %d in a frame from %d to %d", e.Rev, m.rev, f.Rev)
		}
		m.seen = append(m.seen, e.Rev)
		switch e.Type {
		case "put":
			if want := m.entries[e.Key].Version + 1; e.Version != want {
				m.t.Errorf("%s has version %d at %d, want %d", e.Key, e.Version, e.Rev, want)
			}
			m.entries[e.Key] = wire.Entry{Key: e.Key, Value: e.Value, Version: e.Version, Rev: e.Rev}
		case "delete":
			if _, ok := m.entries[e.Key]; !ok {
				m.t.Errorf("%s is deleted at %d and was not there", e.Key, e.Rev)
			}
			delete(m.entries, e.Key)
		}
	}
	m.rev = f.Rev
}

// follow reads until a key's value is seen, taking resets as they come.
func (m *mirror) follow(c *wsClient, key, value string) {
	m.t.Helper()
	for string(m.entries[key].Value) != value {
		switch f := c.next(); {
		case f.Events != nil:
			m.apply(f)
		case f.Reset != "":
			m.start(c.snapshot(0))
		case f.ID == 0 && f.Snapshot == nil: // a bookmark
			m.rev = max(m.rev, f.Rev)
		case f.ID == 0:
			m.t.Fatalf("unexpected %.200s", f.raw)
		}
	}
}

// same compares with the store.
func (m *mirror) same(s *socketServer, room string) {
	m.t.Helper()
	want, got := map[string]string{}, map[string]string{}
	s.session(room).Entries(defaultStore, "", "", func(e *fsm.Entry) bool {
		want[e.Key] = fmt.Sprintf("%d %s", e.Version, e.Value)
		return true
	})
	for key, e := range m.entries {
		got[key] = fmt.Sprintf("%d %s", e.Version, e.Value)
	}
	if d := cmp.Diff(want, got); d != "" {
		m.t.Error(d)
	}
}

// writers puts and deletes few keys from several goroutines until stop is called
// or the test ends. They wait while they are further ahead of the revision that
// seen tells than a ring holds for sure, so that a reader can always resume.
func (s *socketServer) writers(room string, seed uint64, seen *atomic.Uint64) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var all sync.WaitGroup
	s.t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	for i := range 4 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := 0; ctx.Err() == nil; n++ {
				for seen != nil && s.store.View().Rev() > seen.Load()+1000 && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				op := fsm.Operation{
					Kind: fsm.OpPut, Store: defaultStore, Key: fmt.Sprintf("k%d", random.IntN(8)), Value: fmt.Appendf(nil, "%d", n),
				}
				if random.IntN(4) == 0 {
					op.Kind, op.Value = fsm.OpDelete, nil
				}
				if _, err := s.store.Do(context.Background(), &fsm.Command{
					Kind: fsm.CommandTxn, Room: room, Txn: single(op),
				}); err != nil {
					s.t.Error(err)
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// outrun writes until a room's ring no longer reaches back to a revision.
func (s *socketServer) outrun(room string, rev uint64) {
	s.t.Helper()
	large := strings.Repeat("v", 60<<10)
	for i := 0; s.store.Ring(room).Floor() <= rev; i++ {
		s.put(room, fmt.Sprintf("k%d", i%10), `"`+large+`"`)
	}
}
