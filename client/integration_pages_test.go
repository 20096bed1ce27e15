package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// cutter is a client's way to all servers, which breaks connections in the middle
// of what the servers send.
type cutter struct {
	proxies []*proxy

	mu    sync.Mutex
	cuts  []int // bytes to pass until each; when none are left nothing breaks
	pages []int // for each cut, how many pages that were not the last had come over the connection
}

func (s *servers) cutter() *cutter {
	c := new(cutter)
	for _, n := range s.nodes {
		p := newProxyThrough(s.t, func(to net.Conn) io.Writer { return &cutLink{c: c, to: to} })
		p.to(n.proxy.target)
		c.proxies = append(c.proxies, p)
		s.t.Cleanup(p.close)
	}
	return c
}

func (c *cutter) config() client.Config {
	var cfg client.Config
	for _, p := range c.proxies {
		cfg.Servers = append(cfg.Servers, p.addr())
	}
	return cfg
}

func (c *cutter) cutAfter(cuts ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts = append(c.cuts, cuts...)
}

// done returns, and forgets, how many pages came before each cut; false while
// some cuts are still to come.
func (c *cutter) done() (pages []int, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cuts) > 0 {
		return nil, false
	}
	pages, c.pages = c.pages, nil
	return pages, true
}

// cutLink is one connection of it.
type cutLink struct {
	c     *cutter
	to    net.Conn
	pages int
	tail  []byte // the end of what was passed: a mark may come in two parts
}

var (
	errCut   = errors.New("cut")
	pageMark = []byte(`"more":true`)
)

func (l *cutLink) Write(b []byte) (int, error) {
	pass, cut := l.pass(b)
	n, err := l.to.Write(b[:pass])
	if cut && err == nil {
		err = errCut
	}
	return n, err
}

func (l *cutLink) pass(b []byte) (pass int, cut bool) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	pass = len(b)
	if cut = len(l.c.cuts) > 0 && l.c.cuts[0] <= pass; cut {
		pass = l.c.cuts[0]
	}
	seen := append(l.tail, b[:pass]...)
	l.pages += bytes.Count(seen, pageMark)
	l.tail = bytes.Clone(seen[max(0, len(seen)-len(pageMark)+1):])
	if cut {
		l.c.cuts, l.c.pages = l.c.cuts[1:], append(l.c.pages, l.pages)
	} else if len(l.c.cuts) > 0 {
		l.c.cuts[0] -= pass
	}
	return pass, cut
}

// mirror is what a watcher knows of a room's default store.
type mirror struct {
	loaded  chan struct{} // closed with the first snapshot
	entries map[string]wire.Entry
	rev     uint64
	resets  int
}

// follow takes updates until the key "end" has come. A change that is missing, or
// comes twice, does not fit what is known of its key.
func (m *mirror) follow(updates iter.Seq2[client.Update, error]) error {
	for u, err := range updates {
		if err != nil {
			return fmt.Errorf("at rev %d: %w", m.rev, err)
		}
		if u.Snapshot != nil {
			if u.Rev < m.rev {
				return fmt.Errorf("a snapshot as of %d after %d", u.Rev, m.rev)
			}
			if u.Reset != "" {
				m.resets++
			}
			if m.entries == nil {
				close(m.loaded)
			}
			m.entries = map[string]wire.Entry{}
			for _, e := range u.Snapshot.Stores["default"] {
				if had, twice := m.entries[e.Key]; twice || e.Rev > u.Rev {
					return fmt.Errorf("a snapshot as of %d has %s of rev %d; twice: %t, of %d", u.Rev, e.Key, e.Rev, twice, had.Rev)
				}
				m.entries[e.Key] = e
			}
		} else if u.Rev <= m.rev {
			return fmt.Errorf("events of %d after %d", u.Rev, m.rev)
		}
		m.rev = u.Rev
		for i := range u.Events {
			if err := m.apply(&u.Events[i]); err != nil {
				return err
			}
		}
		if _, ended := m.entries["end"]; ended {
			return nil
		}
	}
	return errors.New("the watch ended")
}

func (m *mirror) apply(e *wire.Event) error {
	had, exists := m.entries[e.Key]
	switch {
	case e.Type == "put" && e.By != nil && e.Version == had.Version+1: // 1 when there was none
		m.entries[e.Key] = wire.Entry{
			Key: e.Key, Value: e.Value, Version: e.Version, Rev: e.Rev, CreatedRev: e.CreatedRev, By: *e.By, At: e.At,
		}
	case e.Type == "delete" && exists:
		delete(m.entries, e.Key)
	case e.Type != "session":
		return fmt.Errorf("%s of %s at rev %d, version %d: known is version %d of rev %d", e.Type, e.Key, e.Rev, e.Version, had.Version, had.Rev)
	}
	return nil
}

// The pages of a large snapshot are cut again and again, at any byte, while
// writers go on and the client moves from node to node, and resumes: what a
// watcher knows in the end is the state, and no change was missing or came twice.
func TestG7_G8_pages_cut_and_resumed(t *testing.T) {
	seed := rand.Uint64()
	if n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	s := startServers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // a client waits a dozen times to come back
	defer cancel()
	const room, keys, size = "room", 270, 8 << 10
	big := func(n int) string { return strconv.Itoa(n) + strings.Repeat("x", size) }
	h := s.http()
	if _, err := h.OpenRoom(ctx, room, client.OpenParams{Profile: "large", Idle: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for from := 0; from < keys; from += keys / 3 {
		set := map[string]any{}
		for i := from; i < from+keys/3; i++ {
			set[fmt.Sprintf("big/%03d", i)] = big(i)
		}
		if _, err := h.Merge(ctx, room, set, nil, client.StoreParams{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Put(ctx, room, "larger than a page", strings.Repeat("x", 300<<10), client.WriteParams{}); err != nil {
		t.Fatal(err)
	}

	writing, stop := context.WithCancel(ctx)
	defer stop()
	var writers, watchers sync.WaitGroup
	for i := range 3 {
		h, rng := s.http(), rand.New(rand.NewPCG(seed, uint64(2+i)))
		writers.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				small, large := fmt.Sprintf("small/%02d", rng.IntN(40)), fmt.Sprintf("big/%03d", rng.IntN(keys))
				var err error
				switch rng.IntN(8) {
				case 0:
					_, err = h.Put(ctx, room, large, big(n), client.WriteParams{})
				case 1:
					_, err = h.Merge(ctx, room, map[string]any{small: n, large: big(n)}, nil, client.StoreParams{})
				case 2, 3:
					_, err = h.Delete(ctx, room, small, client.WriteParams{})
				default:
					_, err = h.Put(ctx, room, small, n, client.WriteParams{})
				}
				if err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
				select { // so slowly that the rings hold what comes while a client is away
				case <-time.After(20 * time.Millisecond):
				case <-writing.Done():
				}
			}
		})
	}

	// Less than a snapshot comes before each cut, so none is whole until all were made.
	// Short ones come about when a watch that has been away is told what it missed.
	cuts := func(c *cutter, short int) {
		const within = 3 * keys * size / 4
		list := []int{300<<10 + rng.IntN(within), 300<<10 + rng.IntN(within), rng.IntN(within)}
		for range short {
			list = append(list, 500+rng.IntN(5000))
		}
		c.cutAfter(list...)
	}
	var mirrors []*mirror
	watch := func(name string, c *cutter, updates iter.Seq2[client.Update, error]) {
		m := &mirror{loaded: make(chan struct{})}
		mirrors = append(mirrors, m)
		watchers.Go(func() {
			if err := m.follow(updates); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		var pages []int
		eventually(t, "all cuts were made", func() (done bool) { pages, done = c.done(); return done })
		inside := 0
		for _, n := range pages {
			inside = max(inside, n)
		}
		if inside == 0 {
			t.Errorf("%s: no cut came behind the first page", name)
		}
		t.Logf("%s: cut behind %d pages", name, pages)
		select { // the next one's cuts find this one live
		case <-m.loaded:
		case <-ctx.Done():
			t.Fatalf("%s has got no snapshot", name)
		}
	}

	c := s.cutter()
	cl, err := client.Dial(ctx, c.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	var mu sync.Mutex
	nodes := map[string]bool{}
	r, err := cl.Observe(ctx, room, func(s client.Status) {
		mu.Lock()
		defer mu.Unlock()
		if s.State == client.Attached {
			nodes[s.Node] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"the first watch", "a watch beside it"} {
		cuts(c, 4*i)
		w, err := r.Watch(ctx, client.Keys("*"))
		if err != nil {
			t.Fatal(err)
		}
		watch(name, c, w.All(ctx))
	}
	mu.Lock()
	if len(nodes) != 3 {
		t.Errorf("the client was at the nodes %v only", nodes)
	}
	mu.Unlock()
	overHTTP := s.cutter()
	eh, err := client.NewHTTP(client.HTTPConfig{Config: overHTTP.config()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { eh.Close() })
	cuts(overHTTP, 1)
	stream := eh.Events(room, client.EventsParams{Keys: []string{"*"}})
	defer stream.Close()
	watch("a stream over HTTP", overHTTP, stream.All(ctx))

	stop()
	writers.Wait()
	if _, err := h.Put(ctx, room, "end", true, client.WriteParams{}); err != nil {
		t.Fatal(err)
	}
	watchers.Wait()
	want := map[string]wire.Entry{}
	for e, err := range h.AllEntries(ctx, room, client.ListParams{}) {
		if err != nil {
			t.Fatal(err)
		}
		want[e.Key] = e
	}
	for i, m := range mirrors {
		t.Logf("watcher %d: %d entries at rev %d, %d resets", i, len(m.entries), m.rev, m.resets)
		for key := range m.entries {
			if _, there := want[key]; !there {
				t.Errorf("watcher %d has %s, which is not there", i, key)
			}
		}
		for key, e := range want {
			if got := m.entries[key]; !reflect.DeepEqual(got, e) { // cmp takes seconds for so many bytes
				t.Errorf("watcher %d knows %s as of rev %d, by %v, at %s; want %d, by %v, at %s", i, key, got.Rev, got.By, got.At, e.Rev, e.By, e.At)
			}
		}
	}
}
