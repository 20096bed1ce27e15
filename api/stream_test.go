package api

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/fsm"
)

func TestG7_ResumeOnAnotherConnectionMissesNothing(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("resume", "k0", "0")
	var seen atomic.Uint64
	stop := s.writers("resume", 7, &seen)
	m := &mirror{t: t}
	c := s.join("resume", `"watch":[{"keys":["*"]}]`)
	m.start(c.snapshot(1))
	seen.Store(m.rev)
	for range 10 {
		for range 20 {
			m.apply(c.nextEvents())
			seen.Store(m.rev)
		}
		c.ws.NetConn().Close() // in the middle of whatever is under way
		next := s.dial("resume")
		next.greet(fmt.Sprintf(`"watch":[{"keys":["*"]}],"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`,
			c.hello.Session, c.hello.Peer, c.hello.ResumeKey, m.rev))
		if !next.hello.PeerResumed || !next.hello.StreamResumed {
			t.Fatalf("hello %+v", next.hello)
		}
		c = next
	}
	stop()
	seen.Store(m.rev)
	s.put("resume", "end", `"yes"`)
	m.follow(c, "end", `"yes"`)
	m.same(s, "resume")
	if !slices.IsSorted(m.seen) || len(slices.Compact(slices.Clone(m.seen))) != len(m.seen) {
		t.Errorf("revisions out of order or double: %v", m.seen)
	}
}

func TestG7_BeyondTheRingIsAResetAndASnapshot(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("old", `"watch":[{"keys":["*"]}]`)
	_, rev := c.snapshot(1)
	c.ws.Close()
	s.outrun("old", rev)
	again := s.dial("old")
	again.greet(fmt.Sprintf(`"watch":[{"keys":["*"]}],"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`,
		c.hello.Session, c.hello.Peer, c.hello.ResumeKey, rev))
	if !again.hello.PeerResumed || again.hello.StreamResumed {
		t.Errorf("hello %+v", again.hello)
	}
	if f := again.next(); f.Reset != "compacted" {
		t.Errorf("got %s, want a reset", f.raw)
	}
	m := &mirror{t: t}
	m.start(again.snapshot(1))
	m.same(s, "old")
}

func TestG7_TransactionsComeWhole(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("atomic", `"watch":[{"keys":["a/*"]}]`)
	c.snapshot(1)
	c.must(nil, "txn", `"then":[{"do":"put","key":"a/1","value":1},{"do":"put","key":"b","value":2},{"do":"put","key":"a/2","value":3}]`)
	f := c.nextEvents()
	if len(f.Events) != 2 || f.Events[0].Key != "a/1" || f.Events[1].Key != "a/2" || f.Events[0].Rev != f.Rev || f.Events[1].Rev != f.Rev {
		t.Errorf("got %s", f.raw)
	}
}

func TestG7_ObserverGoesOnToTheNextSession(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("next", `"observe":true,"watch":[{"keys":["*"]},{"types":["session"]}]`)
	c.snapshot(1)
	s.put("next", "a", "1")
	f := c.nextEvents()
	first := f.Events[0].Session
	if f.Events[0].State != "started" || f.Events[1].Key != "a" {
		t.Errorf("got %s, want the first session from its start", f.raw)
	}
	if _, err := s.store.Do(s.t.Context(), &fsm.Command{Kind: fsm.CommandEnd, Room: "next"}); err != nil {
		t.Fatal(err)
	}
	if f := c.nextEvents(); f.Events[0].State != "ended" {
		t.Errorf("got %s", f.raw)
	}
	s.put("next", "b", "2")
	if f := c.next(); f.Reset != "session" {
		t.Fatalf("got %s, want a reset", f.raw)
	}
	m := &mirror{t: t}
	snap, rev := c.snapshot(0)
	m.start(snap, rev)
	m.follow(c, "b", "2")
	m.same(s, "next")
	if snap.Session == first || snap.Session != s.session("next").ID {
		t.Errorf("the snapshot is of session %q, before was %q", snap.Session, first)
	}
}

func TestG7_ReplacedStateIsAReset(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("restored", "a", "1")
	c := s.join("restored", `"observe":true,"watch":[{}]`)
	m := &mirror{t: t}
	m.start(c.snapshot(1))

	ahead := newSocketServer(t, Config{})
	ahead.store.become(s.store)
	ahead.put("restored", "a", "2")
	ahead.put("restored", "b", "3")
	s.store.become(ahead.store)
	if f := c.next(); f.Reset != "restored" {
		t.Fatalf("got %s, want a reset", f.raw)
	}
	m.start(c.snapshot(0))
	m.same(s, "restored")

	s.store.become(ahead.store) // nothing new: who is up to date goes on
	s.put("restored", "c", "4")
	if f := c.next(); f.Events == nil || f.Events[0].Key != "c" {
		t.Errorf("got %s, want the next event", f.raw)
	}
}

func TestG8_SnapshotSitsInTheStream(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("seam", "k0", "0")
	for i := range 40 { // several pages
		s.put("seam", fmt.Sprintf("big%d", i), `"`+strings.Repeat("x", 20<<10)+`"`)
	}
	stop := s.writers("seam", 8, nil)
	for range 15 {
		c := s.join("seam", `"observe":true,"watch":[{"keys":["k0"]}]`)
		c.snapshot(1)
		id := c.send("watch", `"watch":[{"keys":["*"]}]`)
		var before uint64
		for {
			f := c.next()
			if f.ID == id {
				var ok struct{ Rev uint64 }
				c.decode(f.OK, &ok)
				if ok.Rev < before {
					t.Errorf("watch is answered at %d, after events of %d", ok.Rev, before)
				}
				break
			}
			if f.Events == nil {
				t.Fatalf("got %s", f.raw)
			}
			before = f.Rev
		}
		m := &mirror{t: t}
		m.start(c.snapshot(id)) // no event between its pages, or this fails
		if m.rev < before {
			t.Errorf("a snapshot of %d after events of %d", m.rev, before)
		}
		for range 30 {
			m.apply(c.nextEvents())
		}
		c.ws.Close()
	}
	stop()
}

func TestG8_MirrorsEqualTheStore(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("mirror", "k0", "0")
	stop := s.writers("mirror", 9, nil)
	mirrors := make([]*mirror, 8)
	clients := make([]*wsClient, 8)
	for i := range mirrors {
		clients[i] = s.join("mirror", `"observe":true,"watch":[{}]`)
		mirrors[i] = &mirror{t: t}
		mirrors[i].start(clients[i].snapshot(1))
	}
	for i, m := range mirrors {
		for range 100 {
			m.apply(clients[i].nextEvents())
		}
	}
	stop()
	s.put("mirror", "end", `"yes"`)
	for i, m := range mirrors {
		m.follow(clients[i], "end", `"yes"`)
		m.same(s, "mirror")
	}
}

func TestG11_EventsOfAWriteComeBeforeItsAnswer(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("own", `"watch":[{"keys":["*"]}]`)
	c.snapshot(1)
	stop := s.writers("own", 11, nil)
	defer stop()
	var seen uint64
	sent := map[uint64]bool{}
	for range 200 {
		sent[c.send("put", `"key":"mine","value":1`)] = true
	}
	for len(sent) > 0 {
		f := c.read()
		switch {
		case f.Events != nil:
			seen = f.Rev
		case f.Reset != "":
			_, seen = c.snapshot(0) // stands for the events
		case f.ID != 0:
			var put struct{ Rev uint64 }
			if c.decode(f.OK, &put); put.Rev > seen {
				t.Fatalf("the answer of %d comes after events up to %d", put.Rev, seen)
			}
			delete(sent, f.ID)
		}
	}
}

func TestG11_ReadsSeeTheWritesSentBefore(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("reads", "")
	for i := range 100 {
		c.send("put", fmt.Sprintf(`"key":"k","value":%d`, i))
		consistency := `"consistency":"stale"`
		if i%2 == 0 {
			consistency = `"consistency":"linearizable"`
		}
		get := c.send("get", `"key":"k",`+consistency)
		later := c.send("put", `"key":"other","value":0`)
		var got struct{ Entry wire.Entry }
		c.decode(c.answerOf(get).OK, &got)
		if string(got.Entry.Value) != fmt.Sprint(i) {
			t.Fatalf("read %s after writing %d", got.Entry.Value, i)
		}
		c.answerOf(later)
	}
}

func TestG11_MinRevWaits(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("min", "")
	rev := s.store.View().Rev()
	id := c.send("get", fmt.Sprintf(`"key":"k","consistency":"stale","min_rev":%d`, rev+2))
	c.must(nil, "put", `"key":"k","value":1`) // not held back; this makes rev+1
	if slices.ContainsFunc(c.other, func(f wsFrame) bool { return f.ID == id }) {
		t.Fatal("a read did not wait for its min_rev")
	}
	s.put("min", "k", "2")
	var got struct{ Entry wire.Entry }
	c.decode(c.answerOf(id).OK, &got)
	if string(got.Entry.Value) != "2" {
		t.Errorf("read %s", got.Entry.Value)
	}
}

func TestG12_FloodWithoutReadingIsBounded(t *testing.T) {
	cfg := unhurried()
	cfg.Pace = Pace{Stall: 500 * time.Millisecond}
	s := newSocketServer(t, cfg)
	other := s.join("flood", "")
	c := s.dialWith("flood", nil, small)
	c.greet("")
	value := strings.Repeat("v", 1<<10)
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 2; i < 10_002 && err == nil; i++ {
			err = c.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"id":%d,"do":"put","key":"k%d","value":%q}`, i, i%10, value))
			if err == nil && i%2 == 0 {
				err = c.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"id":%d,"do":"list"}`, 10_000+i))
			}
		}
		written <- err
	}()
	for range 50 {
		other.must(nil, "put", `"key":"o","value":1`) // meanwhile nobody else notices
	}
	k := s.hub.find(c.hello.Peer)
	for done := false; !done && k != nil; {
		k.mu.Lock()
		if k.open > window || k.openBytes > windowBytes+maxBodyBytes || len(k.queue) > 2*window {
			t.Errorf("%d requests of %d bytes are open, %d queued", k.open, k.openBytes, len(k.queue))
		}
		done = k.closed
		k.mu.Unlock()
		select {
		case <-written:
			done = true
		default:
		}
	}
}

func TestG12_TenThousandRequestsAreAnswered(t *testing.T) {
	s := newSocketServer(t, unhurried())
	c := s.join("many", "")
	go func() {
		for i := 2; i < 10_002; i++ {
			if c.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"id":%d,"do":"put","key":"k","value":%d}`, i, i)) != nil {
				return
			}
		}
	}()
	for i := 2; i < 10_002; i++ {
		f := c.read()
		if f.Error != nil || f.ID != uint64(i) {
			t.Fatalf("got %s, want the answer to %d", f.raw, i)
		}
	}
	if e := s.session("many").Entry(defaultStore, "k"); e.Version != 10_000 || string(e.Value) != "10001" {
		t.Errorf("version %d, value %s", e.Version, e.Value)
	}
}

func TestStream_FiltersAddUp(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("filters", `"watch":[{"keys":["a/*"]}]`)
	c.snapshot(1)
	watch := c.send("watch", `"watch":[{"store":"notes"},{"types":["lock"]}]`)
	c.answer(watch)
	c.snapshot(watch)
	c.must(nil, "txn", `"then":[{"do":"put","key":"a/1","value":1},{"do":"put","key":"b","value":1},{"do":"put","store":"notes","key":"n","value":1},{"do":"acquire","key":"pen","ttl_ms":1000}]`)
	if d := cmp.Diff([]string{"put a/1", "put n", "lock pen"}, c.takeEvents()); d != "" {
		t.Error(d)
	}
	c.must(nil, "unwatch", fmt.Sprintf(`"watch":%d`, watch))
	c.must(nil, "txn", `"then":[{"do":"put","key":"a/2","value":1},{"do":"put","store":"notes","key":"n","value":2}]`)
	if d := cmp.Diff([]string{"put a/2"}, c.takeEvents()); d != "" {
		t.Error(d)
	}
	c.fails(wire.NotFound, "unwatch", fmt.Sprintf(`"watch":%d`, watch))
	c.must(nil, "unwatch", `"watch":1`)
	c.must(nil, "put", `"key":"a/3","value":1`)
	if got := c.takeEvents(); got != nil {
		t.Errorf("after the last unwatch: %v", got)
	}
	again := c.send("watch", `"watch":[{"keys":["a/3"]}]`)
	c.answer(again)
	if snap, _ := c.snapshot(again); len(snap.Stores[defaultStore]) != 1 {
		t.Errorf("snapshot %+v", snap)
	}
}

func TestStream_SnapshotPages(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "large"})
	c := s.join("pages", "")
	for i := range 60 {
		c.must(nil, "put", fmt.Sprintf(`"store":"s%d","key":"k%d","value":"%s"`, i%3, i, strings.Repeat("v", 20<<10)))
	}
	c.must(nil, "put", `"key":"huge","value":"`+strings.Repeat("v", 400<<10)+`"`)
	c.must(nil, "acquire", `"key":"pen"`)
	id := c.send("watch", `"watch":[{}]`)
	c.answer(id)
	var pages, entries, peers, locks int
	for more := true; more; pages++ {
		f := c.next()
		if f.Snapshot == nil {
			t.Fatalf("got %.200s", f.raw)
		}
		n := 0
		for _, list := range f.Snapshot.Stores {
			n += len(list)
		}
		if len(f.raw) > pageBytes && n > 1 {
			t.Errorf("a page of %d bytes with %d entries", len(f.raw), n)
		}
		entries, peers, locks, more = entries+n, peers+len(f.Snapshot.Peers), locks+len(f.Snapshot.Locks), f.More
	}
	if pages < 6 || entries != 61 || peers != 1 || locks != 1 {
		t.Errorf("%d pages, %d entries, %d peers, %d locks", pages, entries, peers, locks)
	}
}

// become installs another store's snapshot, as a node that was left behind does.
func (s *testStore) become(other *testStore) {
	var image bytes.Buffer
	other.mu.Lock()
	index, seq := other.index, other.seq
	err := other.machine.View().WriteSnapshot(&image)
	other.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.index, s.seq = index, seq
		err = s.machine.Restore(io.NopCloser(&image))
	}
	if err != nil {
		s.t.Errorf("install a snapshot: %v", err)
	}
}

func TestStream_ResumesWithASnapshotWhereAsked(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("mixed", "old", "1")
	s.put("mixed", "new", "2")
	c := s.join("mixed", `"watch":[{"keys":["old"]}]`)
	_, rev := c.snapshot(1)
	c.ws.NetConn().Close()
	s.put("mixed", "old", "3")
	again := s.join("mixed", fmt.Sprintf(`"watch":[{"keys":["old"]},{"keys":["new"],"snapshot":true}],
		"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`, c.hello.Session, c.hello.Peer, c.hello.ResumeKey, rev))
	if f := again.nextEvents(); f.Events[0].Key != "old" || string(f.Events[0].Value) != "3" {
		t.Errorf("got %s, want what was missed", f.raw)
	}
	snap, at := again.snapshot(1)
	if entries := snap.Stores[defaultStore]; len(entries) != 1 || entries[0].Key != "new" || at <= rev {
		t.Errorf("snapshot %+v", snap)
	}
}
