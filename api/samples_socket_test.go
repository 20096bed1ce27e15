package api

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// The conversations of sockets. Each file is one connection.

const sampleRoom = "studio"

// drop breaks a connection and waits until its peer is detached.
func (s *socketServer) drop(c *wsClient) {
	s.t.Helper()
	c.ws.NetConn().Close()
	waitFor(s.t, "the detach", func() bool { return !s.session(sampleRoom).Peer(c.hello.Peer).Attached })
}

// burst applies puts of one key at a time, so that a watcher sees them at once.
func (s *testStore) burst(key string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	b := fsm.Batch{Node: testNode, Incarnation: 1, Seq: s.seq}
	for i := range n {
		b.Commands = append(b.Commands, fsm.Command{
			Kind: fsm.CommandTxn, Room: sampleRoom,
			Txn: single(fsm.Operation{Kind: fsm.OpPut, Store: defaultStore, Key: key, Value: []byte(strconv.Itoa(i))}),
		})
	}
	s.apply(&fsm.Proposal{Batches: []fsm.Batch{b}})
}

// resume is the member of a hello that goes on where a socket was.
func (c *wsClient) resume(rev uint64) string {
	return fmt.Sprintf(`"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`, c.hello.Session, c.hello.Peer, c.hello.ResumeKey, rev)
}

func TestSocket_SpeaksTheSamplesOfHello(t *testing.T) {
	t.Run("resumed, peer and stream", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		c := s.join(sampleRoom, `"name":"Ada","watch":[{}]`)
		_, rev := c.snapshot(1)
		s.drop(c)
		s.put(sampleRoom, "title", `"missed"`)
		v := &conversation{c: s.dial(sampleRoom)}
		v.next(`"do":"hello","v":1,"client":"h1",` + c.resume(rev) + `,"watch":[{},{"keys":["title"],"snapshot":true}]`)
		for range 4 { // detached, put, attached; the snapshot that was asked for
			v.hear()
		}
		compareSamples(t, "ws_hello_resumed.json", v.samples)
	})
	t.Run("resumed, nothing kept", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		s.join(sampleRoom, "") // keeps the session
		c := s.join(sampleRoom, `"watch":[{"keys":["title"]}]`)
		_, rev := c.snapshot(1)
		s.drop(c)
		s.store.advance(15 * time.Second) // its grace
		s.outrun(sampleRoom, rev)
		v := &conversation{c: s.dial(sampleRoom)}
		v.next(`"do":"hello","v":1,"client":"h1",` + c.resume(rev) + `,"watch":[{"keys":["title"]}]`)
		v.hear() // a reset
		v.hear() // the snapshot
		compareSamples(t, "ws_hello_compacted.json", v.samples)
	})
	t.Run("resumed, the peer alone", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		c := s.join(sampleRoom, "")
		s.drop(c)
		v := &conversation{c: s.dial(sampleRoom)}
		v.next(`"do":"hello","v":1,"client":"h1",` + c.resuming())
		compareSamples(t, "ws_hello_peer_resumed.json", v.samples)
	})
	t.Run("observed", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		s.put(sampleRoom, "title", `"x"`)
		first := s.join(sampleRoom, `"observe":true,"watch":[{"keys":["title"]}]`)
		_, rev := first.snapshot(1)
		s.put(sampleRoom, "title", `"y"`)
		v := &conversation{c: s.dial(sampleRoom)}
		v.next(fmt.Sprintf(`"do":"hello","v":1,"client":"h1","observe":true,"resume":{"session":%q,"rev":%d},"watch":[{"keys":["title"]}]`,
			first.hello.Session, rev))
		v.hear()
		v.next(`"do":"set_self","name":"nobody"`)
		v.next(`"do":"leave"`)
		v.hearClose()
		compareSamples(t, "ws_hello_observer.json", v.samples)
	})
	t.Run("of a session that is over", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		c := s.join(sampleRoom, "")
		c.must(nil, "leave", "")
		v := &conversation{c: s.dial(sampleRoom)}
		v.next(`"do":"hello","v":1,"client":"h1",` + c.resuming())
		v.hearClose()
		compareSamples(t, "ws_hello_session_ended.json", v.samples)
	})
	t.Run("refused", func(t *testing.T) {
		s := newSocketServer(t, Config{Auth: tokens{}})
		c := s.join(sampleRoom, "")
		v := &conversation{c: s.dial(sampleRoom)}
		v.next(`"do":"get","key":"k"`)
		v.next(`"do":"hello","v":2,"client":"h1"`)
		v.next(fmt.Sprintf(`"do":"hello","v":1,"client":"h1","resume":{"session":%q,"peer":%q,"key":"k0"}`, c.hello.Session, c.hello.Peer))
		v.next(`"do":"hello","v":1,"client":"h1","token":"bad"`)
		v.hearClose()
		compareSamples(t, "ws_hello_refused.json", v.samples)
	})
}

// A room's sessions come and go under somebody who only observes.
func TestSocket_SpeaksTheSamplesOfSessions(t *testing.T) {
	s := newSocketServer(t, Config{})
	room := "/v1/rooms/" + sampleRoom
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1","observe":true,"watch":[{"types":["session"]}]`)
	v.hear() // a snapshot of nothing
	v.next(`"do":"get","key":"k"`)
	c := s.join(sampleRoom, "")
	v.hear() // started
	c.must(nil, "leave", "")
	v.hear() // ended: empty
	for _, end := range []func(){
		func() { s.store.advance(time.Minute) },
		func() { s.web().do("DELETE", room, "").want(200) },
	} {
		s.web().do("PUT", room, `{"idle_timeout_ms":60000}`).want(201)
		v.hear() // a reset
		v.hear() // a snapshot of nothing yet
		v.hear() // started
		end()
		v.hear() // ended
	}
	compareSamples(t, "ws_sessions.json", v.samples)
}

func TestSocket_SpeaksTheSamplesOfEvents(t *testing.T) {
	s := newSocketServer(t, Config{})
	room := "/v1/rooms/" + sampleRoom
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1","watch":[{}]`)
	v.hear() // its snapshot
	c := s.join(sampleRoom, `"name":"Bob","ref":"u8","data":{"hand":false}`)
	v.hear() // joined
	c.must(nil, "set_self", `"data":{"hand":true}`)
	v.hear() // updated
	s.web().do("PATCH", room+"/peers/"+c.hello.Peer, `{"role":"host"}`).want(200)
	v.hear() // updated
	s.drop(c)
	v.hear() // detached
	c = s.join(sampleRoom, c.resuming())
	v.hear() // attached
	c.must(nil, "put", `"key":"hand/bob","value":1.50,"bind":true`)
	v.hear()
	c.must(nil, "put", `"key":"toast","value":null,"ttl_ms":500`)
	v.hear()
	s.store.advance(500 * time.Millisecond)
	v.hear() // expired
	c.must(nil, "leave", "")
	v.hear() // unbound, left
	s.web().do("POST", room+"/peers", `{"name":"bot","ttl_ms":1000}`).want(201)
	v.hear() // joined
	s.store.advance(time.Second)
	v.hear() // left: expired
	c = s.join(sampleRoom, "")
	v.hear() // joined
	s.web().do("DELETE", room+"/peers/"+c.hello.Peer, "").want(200)
	v.hear() // left: removed
	c = s.join(sampleRoom, "")
	v.hear() // joined
	s.drop(c)
	v.hear() // detached
	s.store.advance(15 * time.Second)
	v.hear() // left: grace
	v.next(`"do":"merge","set":{"a":1,"b":[]}`)
	v.next(`"do":"replace","data":{"b":[]}`)
	v.next(`"do":"delete","key":"b"`)
	v.next(`"do":"send","topic":"chat","data":"hi","echo":true`)
	s.web().do("POST", room+"/messages", `{"topic":"chat","data":{"text":"from a server"}}`).want(200)
	v.hear()
	s.web().do("DELETE", room, "").want(200)
	v.hear() // ended
	v.hearClose()
	compareSamples(t, "ws_events.json", v.samples)
}

func TestSocket_SpeaksTheSamplesOfLocks(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1","watch":[{"types":["lock"]}]`)
	v.hear() // its snapshot
	other := s.join(sampleRoom, "")
	pen := v.fence(`"do":"acquire","key":"pen","ttl_ms":5000,"data":{"why":"talk"}`)
	v.next(`"do":"acquire","key":"pen","ttl_ms":5000`)
	v.next(fmt.Sprintf(`"do":"renew","key":"pen","fence":%d`, pen))
	v.next(fmt.Sprintf(`"do":"validate","key":"pen","fence":%d`, pen))
	v.next(fmt.Sprintf(`"do":"put","key":"pen","value":1,"fence":%d`, pen))
	seat := v.fence(`"do":"acquire","key":"seat","release_on_detach":true`)
	v.next(fmt.Sprintf(`"do":"renew","key":"seat","fence":%d`, seat))
	var mic struct{ Fence uint64 }
	other.must(&mic, "acquire", `"key":"mic","ttl_ms":5000`)
	v.hear()
	v.next(`"do":"acquire","key":"mic"`)
	wait := `"do":"acquire","key":"mic","ttl_ms":2000,"wait_ms":60000`
	v.c.id++
	v.ask(fmt.Sprintf(`{"id":%d,%s}`, v.c.id, wait))
	v.hear() // its place
	v.next(fmt.Sprintf(`"do":"cancel","request":%d`, v.c.id))
	v.c.id++
	v.ask(fmt.Sprintf(`{"id":%d,%s}`, v.c.id, wait))
	v.hear() // its place
	other.must(nil, "release", fmt.Sprintf(`"key":"mic","fence":%d`, mic.Fence))
	v.hear() // released and acquired
	v.hear() // the answer
	v.next(`"do":"acquire","key":"stage","mode":"shared","ttl_ms":60000`)
	other.must(nil, "acquire", `"key":"stage","mode":"shared","ttl_ms":60000`)
	v.hear()
	v.next(`"do":"acquire","key":"slots","permits":2`)
	other.must(nil, "acquire", `"key":"slots","permits":2`)
	v.hear()
	queued := other.send("acquire", `"key":"seat","wait_ms":60000`)
	if f := other.answer(queued); f.Waiting == nil {
		t.Fatalf("got %s, want a place in line", f.raw)
	}
	gate := v.fence(`"do":"acquire","store":"doors","key":"gate","ttl_ms":1000,"delay_ms":30000`)
	v.next(`"do":"locks"`)
	v.next(`"do":"locks","limit":1,"after":"default/mic"`)
	s.store.advance(time.Second)
	v.hear() // expired
	v.next(`"do":"locks","store":"doors","key":"gate"`)
	v.next(`"do":"acquire","store":"doors","key":"gate"`)
	v.next(fmt.Sprintf(`"do":"renew","store":"doors","key":"gate","fence":%d`, gate))
	s.web().do("DELETE", "/v1/rooms/"+sampleRoom+"/locks/default/pen?break", "").want(200)
	v.hear() // broken
	v.next(fmt.Sprintf(`"do":"release","key":"pen","fence":%d`, pen))
	v.next(fmt.Sprintf(`"do":"validate","key":"pen","fence":%d`, pen))
	v.next(fmt.Sprintf(`"do":"release","key":"seat","fence":%d`, seat))
	compareSamples(t, "ws_locks.json", v.samples)
}

// Every code that a request of a peer may be refused with; those of hello are with
// the samples of hello.
func TestSocket_SpeaksTheSamplesOfErrors(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1"`)
	other := s.join(sampleRoom, "")
	var pen struct{ Fence uint64 }
	other.must(&pen, "acquire", `"key":"pen"`)
	v.next(`"do":"dance"`)
	v.next(`"do":"put","key":"k","value":1,"colour":"red"`)
	v.next(`"do":"put","key":"a*","value":1`)
	v.next(`"do":"put","key":"k","value":"text"`)
	v.next(`"do":"remove_peer","peer":"p99"`)
	v.next(`"do":"unwatch","watch":99`)
	v.next(`"do":"put","key":"k","value":1,"if":{"absent":true}`)
	v.next(`"do":"put","key":"none","value":1,"if":{"exists":true}`)
	v.next(`"do":"put","key":"pen","value":1`)
	v.next(fmt.Sprintf(`"do":"put","key":"pen","value":1,"fence":%d`, pen.Fence))
	v.next(`"do":"put","key":"k","value":1,"fence":7`)
	v.next(`"do":"release","key":"k","fence":7`)
	v.c.id++
	v.ask(fmt.Sprintf(`{"id":%d,"do":"acquire","key":"pen","wait_ms":1000}`, v.c.id))
	v.hear() // its place
	s.store.advance(time.Second)
	v.hear() // lock_timeout
	v.next(`"do":"add","key":"k","by":1`)
	v.next(`"do":"put","key":"large","value":"` + strings.Repeat("x", 64<<10) + `"`)
	v.next(`"do":"txn","then":[{"do":"get","key":"k"},{"do":"append","key":"k","values":[1]}]`)
	for _, fault := range []error{unavailable("no leader"), unknownOutcome("the leader was lost"), errors.New("a bug")} {
		s.store.breakWith(fault)
		v.next(`"do":"put","key":"k","value":2`)
	}
	s.store.breakWith(nil)
	compareSamples(t, "ws_errors.json", v.samples)
}

// Transactions with all that they may have, and lists in pages.
func TestSocket_SpeaksTheSamplesOfTransactionsAndPages(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1","watch":[{}]`)
	v.hear() // its snapshot
	v.next(`"do":"txn","if":[{"session":"` + s.session(sampleRoom).ID + `"},{"key":"host","absent":true}],"then":[` +
		`{"do":"put","key":"host","value":"p1","bind":true},{"do":"acquire","key":"stage","ttl_ms":5000},` +
		`{"do":"append","key":"log","values":["opened"],"unique":true},{"do":"get","key":"host"},` +
		`{"do":"send","topic":"chat","data":"open","echo":true}]`)
	fence := s.session(sampleRoom).Lock(defaultStore, "stage").Holders[0].Fence
	v.next(fmt.Sprintf(`"do":"txn","if":[{"key":"stage","fence":%d},{"key":"host","value":"p2"}],"then":[{"do":"delete","key":"host"}],`+
		`"else":[{"do":"get","key":"host"},{"do":"get","key":"none"},{"do":"release","key":"stage","fence":%d}]`, fence, fence))
	v.next(`"do":"list","limit":1`)
	v.next(`"do":"list","limit":1,"after":"host","consistency":"stale","min_rev":2`)
	v.next(`"do":"list","store":"none"`)
	other := s.join(sampleRoom, "")
	v.hear() // joined
	v.next(`"do":"peers","limit":1`)
	v.next(`"do":"peers","limit":1,"after":"` + v.c.first(t, v.samples) + `"`)
	v.next(`"do":"remove_peer","peer":"` + other.hello.Peer + `"`)
	compareSamples(t, "ws_txn_pages.json", v.samples)
}

// first is the peer of a conversation, as its hello was answered.
func (c *wsClient) first(t *testing.T, samples []sample) string {
	t.Helper()
	var welcome struct{ OK wire.Welcome }
	c.decode(samples[1].Frame, &welcome)
	return welcome.OK.Peer
}

func TestSocket_SpeaksTheSamplesOfSnapshots(t *testing.T) {
	s := newSocketServer(t, Config{})
	for i := range 5 { // of which four fill a page
		s.put(sampleRoom, fmt.Sprintf("big/%d", i), `"`+strings.Repeat("x", 60<<10)+`"`)
	}
	s.web().do("PUT", "/v1/rooms/"+sampleRoom+"/stores/notes/keys/a%2Fb", `{"n":1.50}`).want(201)
	s.web().do("POST", "/v1/rooms/"+sampleRoom+"/locks/default/pen", `{"owner":"cron","ttl_ms":60000}`).want(200)
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1","name":"Ada","watch":[{}]`)
	for more := true; more; {
		more = v.hear().More
	}
	v.next(`"do":"watch","watch":[{"store":"notes","keys":["a/*"]},{"topics":["chat"]}]`)
	v.hear()
	compareSamples(t, "ws_snapshot.json", v.samples)
}

func TestSocket_SpeaksTheSamplesOfResets(t *testing.T) {
	s := newSocketServer(t, Config{Backlog: 1 << 10})
	s.put(sampleRoom, "title", `"x"`)
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1","observe":true,"watch":[{"keys":["title"]}]`)
	v.hear() // its snapshot
	s.store.burst("title", 100)
	v.hear() // slow
	v.hear() // the snapshot
	ahead := newSocketServer(t, Config{})
	ahead.store.become(s.store)
	ahead.put(sampleRoom, "title", `"y"`)
	s.store.become(ahead.store)
	v.hear() // restored
	v.hear() // the snapshot
	compareSamples(t, "ws_resets.json", v.samples)
}

func TestSocket_SpeaksTheSamplesOfBookmarks(t *testing.T) {
	s := newSocketServer(t, Config{Pace: Pace{Ping: 200 * time.Millisecond}})
	v := &conversation{c: s.dial(sampleRoom)}
	v.next(`"do":"hello","v":1,"client":"h1"`)
	v.hear()
	compareSamples(t, "ws_bookmark.json", v.samples)
}

// A peer that writes faster than it may, over its socket and over HTTP.
func TestSocket_SpeaksTheSamplesOfRates(t *testing.T) {
	s := newSocketServer(t, new(testClock).of(Config{Profile: "realtimekit"})) // 20/s, burst 40
	v := &conversation{c: s.dial(sampleRoom)}
	welcome := v.next(`"do":"hello","v":1,"client":"h1"`)
	v.c.decode(welcome.OK, &v.c.hello)
	for range 40 { // left out of the sample: time stands still meanwhile
		v.c.must(nil, "put", `"key":"k","value":1`)
	}
	v.next(`"do":"put","key":"k","value":2`)
	compareSamples(t, "ws_rate_limited.json", v.samples)
	x := &exchanges{s: s.web()}
	x.ask("PUT", "/v1/rooms/"+sampleRoom+"/stores/default/keys/k", "2",
		"Conclave-Peer", v.c.hello.Peer, "Conclave-Peer-Key", v.c.hello.ResumeKey).refused(wire.RateLimited)
	compareSamples(t, "http_rate_limited.json", x.list)
}
