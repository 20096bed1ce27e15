package api

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"conclave/client/wire"
)

// testClock is the meter's time in a test: it stands still until moved.
type testClock struct{ now atomic.Int64 }

func (c *testClock) read() time.Duration     { return time.Duration(c.now.Load()) }
func (c *testClock) advance(d time.Duration) { c.now.Add(int64(d)) }
func (c *testClock) of(cfg Config) Config    { cfg.clock = c.read; return cfg }
func waitOf(e *wire.Error) (ms float64)      { ms, _ = e.Details["retry_after_ms"].(float64); return ms }

func newTestMeter() (*meter, *testClock) {
	c := &testClock{}
	return newMeter(c.read, testCounter()), c
}

func testCounter() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused"}, []string{"kind"})
}

// subjects is an Authenticator whose tokens are their subjects.
type subjects struct{}

func (subjects) Authenticate(token string) (Identity, error) { return Identity{Subject: token}, nil }

// A level is compared with a bucket that counts its tokens, in exact steps.
func TestLevel_IsATokenBucket(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		q := quota{perS: []int{1, 20, 100, 1000}[random.IntN(4)], burst: 1 + random.IntN(300)}
		every := time.Second / time.Duration(q.perS)
		var l level
		now, filled, tokens := time.Duration(0), time.Duration(0), q.burst
		for step := range 2_000 {
			if random.IntN(4) == 0 {
				now += time.Duration(random.Int64N(int64(3 * every)))
			}
			for tokens < q.burst && now-filled >= every {
				filled += every
				tokens++
			}
			if tokens == q.burst {
				filled = now // what a full bucket is given is lost
			}
			next, wait := l.take(now, q, 0)
			switch {
			case (wait == 0) != (tokens > 0):
				t.Fatalf("seed %d, step %d: wait %v with %d tokens", seed, step, wait, tokens)
			case wait == 0:
				tokens--
			case wait != filled+every-now || next != l:
				t.Fatalf("seed %d, step %d: wait %v, the next token comes after %v", seed, step, wait, filled+every-now)
			}
			l = next
		}
	}
}

func TestMeter_TakesFromAllOrNone(t *testing.T) {
	m, clock := newTestMeter()
	wide, narrow := quota{perS: 10, burst: 3}, quota{perS: 1, burst: 1}
	a, b := draw{bucket{kind: countPeer, in: "s1", who: "p1"}, wide}, draw{bucket{kind: countToken, in: "r", who: "u"}, narrow}
	if e := m.take(0, a, b); e != nil {
		t.Fatal(e)
	}
	for range 10 {
		if e := m.take(0, a, b); e == nil || e.Code != wire.RateLimited || e.Retry != wire.RetrySafe ||
			e.Details["limit"] != "token_writes_per_s" || e.Details["retry_after_ms"] != 1_000 || e.Details["max"] != 1 {
			t.Fatalf("got %+v", e)
		}
	}
	for range 2 { // what the token was refused has cost the peer nothing
		if e := m.take(0, a); e != nil {
			t.Fatal(e)
		}
	}
	e := m.take(0, a)
	if e == nil || e.Details["limit"] != "writes_per_s" || e.Details["retry_after_ms"] != 100 {
		t.Fatalf("got %+v", e)
	}
	clock.advance(100*time.Millisecond - 1)
	if e := m.take(0, a); e == nil || e.Details["retry_after_ms"] != 1 { // rounded up: who waits that long gets in
		t.Fatalf("got %+v", e)
	}
	clock.advance(1)
	if e := m.take(0, a); e != nil {
		t.Error(e)
	}
}

// Slack is made up for: whoever uses it writes no more than others in the long run.
func TestMeter_SlackIsALoan(t *testing.T) {
	m, clock := newTestMeter()
	d := draw{bucket{kind: countPeer, in: "s", who: "p"}, quota{perS: 100, burst: 10}}
	for range 10 + window {
		if e := m.take(window, d); e != nil {
			t.Fatal(e)
		}
	}
	if e := m.take(window, d); e == nil {
		t.Fatal("the loan has no bound")
	}
	clock.advance(window * 10 * time.Millisecond)
	if e := m.take(0, d); e == nil || e.Details["retry_after_ms"] != 10 {
		t.Fatalf("got %+v before the loan is paid back", e)
	}
	clock.advance(10 * time.Millisecond)
	if e := m.take(0, d); e != nil {
		t.Error(e)
	}
}

// Buckets that are full again are not kept, and their number has a bound.
func TestG12_BucketsAreBounded(t *testing.T) {
	m, clock := newTestMeter()
	m.most = 5_000
	q := quota{perS: 100, burst: 200}
	for i := range 20_000 {
		if e := m.take(0, draw{bucket{kind: countPeer, in: "s", who: strconv.Itoa(i)}, q}); e != nil {
			t.Fatal(e)
		}
		if i%100 == 0 {
			clock.advance(time.Millisecond)
		}
		if n := len(m.levels); n > 4_096 { // each is full again after 10 ms, so at most a thousand are not
			t.Fatalf("%d buckets after %d callers", n, i)
		}
	}
	for i := range 3 * m.most { // and now none fills up again
		if e := m.take(0, draw{bucket{kind: countToken, in: "r", who: strconv.Itoa(i)}, q}); e != nil {
			t.Fatal(e)
		}
		if n := len(m.levels); n > m.most+1 {
			t.Fatalf("%d buckets", n)
		}
	}
	clock.advance(sweepBuckets)
	if m.take(0, draw{bucket{kind: countPeer, in: "s", who: "last"}, q}); len(m.levels) != 1 {
		t.Errorf("%d buckets are left", len(m.levels))
	}
}

func TestMeter_ManyCallersAtOnce(t *testing.T) {
	m, _ := newTestMeter()
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if m.take(0, draw{bucket{kind: countPeer, in: "s", who: "p"}, quota{perS: 20, burst: 40}}) == nil {
					admitted.Add(1)
				}
			}
		})
	}
	if all.Wait(); admitted.Load() != 40 {
		t.Errorf("%d were admitted, want the burst of 40", admitted.Load())
	}
}

// A socket that writes too fast: the burst passes, the rest is refused with the
// wait and leaves nothing in the log, reads go on, and a refused write holds none
// behind it back.
func TestG12_APeerWritesAtTheRateOfItsSession(t *testing.T) {
	clock := &testClock{}
	s := newSocketServer(t, clock.of(Config{Profile: "realtimekit"})) // 20/s, burst 40
	c, other := s.join("fast", ""), s.join("fast", "")
	ids := make([]uint64, 60)
	for i := range ids {
		ids[i] = c.send("put", fmt.Sprintf(`"key":"k","value":%d`, i))
	}
	for i, id := range ids {
		f := c.answerOf(id)
		if i < 40 {
			if f.Error != nil {
				t.Fatalf("put %d: %v", i, f.Error)
			}
			continue
		}
		if e := f.Error; e == nil || e.Code != wire.RateLimited || e.Retry != wire.RetrySafe || waitOf(e) != 50 ||
			e.Details["limit"] != "writes_per_s" || e.Details["max"] != 20.0 {
			t.Fatalf("put %d: %s", i, f.raw)
		}
	}
	if e := s.session("fast").Entry(defaultStore, "k"); e.Version != 40 || string(e.Value) != "39" {
		t.Errorf("version %d, value %s: something refused was applied", e.Version, e.Value)
	}
	rev := s.store.View().Rev()
	for do, members := range map[string]string{
		"put": `"key":"k","value":1`, "delete": `"key":"k"`, "update": `"key":"k","value":1`, "append": `"key":"l","values":[1]`,
		"remove": `"key":"l","values":[1]`, "add": `"key":"n","by":1`, "patch": `"key":"k","merge":1`, "merge": `"set":{"k":1}`,
		"replace": `"data":{}`, "txn": `"then":[{"do":"put","key":"k","value":1},{"do":"put","key":"l","value":1}]`,
		"acquire": `"key":"pen"`, "set_self": `"name":"Ada"`, "remove_peer": fmt.Sprintf(`"peer":%q`, other.hello.Peer),
		"send": `"topic":"t","data":1`,
	} {
		c.fails(wire.RateLimited, do, members)
	}
	if got := s.store.View().Rev(); got != rev {
		t.Errorf("refused writes have moved the revision from %d to %d", rev, got)
	}
	for do, members := range map[string]string{
		"get": `"key":"k"`, "list": "", "peers": "", "locks": "", "watch": `"watch":[{"keys":["k"]}]`, "ping": "", "validate": `"key":"pen","fence":1`,
	} {
		c.must(nil, do, members)
	}
	other.must(nil, "put", `"key":"o","value":1`) // everybody has a bucket of their own

	clock.advance(50 * time.Millisecond)
	refused, passes := c.send("put", `"key":"k","value":"one"`), c.send("put", `"key":"k","value":"two"`)
	if f := c.answerOf(refused); f.Error != nil {
		t.Errorf("after the wait: %s", f.raw)
	}
	if f := c.answerOf(passes); f.Error == nil {
		t.Errorf("got %s, want one more per wait", f.raw)
	}
	c.must(nil, "get", `"key":"k"`)
	c.fails(wire.BadRequest, "put", `"key":"k"`) // form comes first
	body := s.overHTTP().do("GET", "/metrics", "").want(200).body
	if want := `conclave_rate_limited_total{kind="peer"} 35`; !strings.Contains(body, want) {
		t.Errorf("the metrics have no %s", want)
	}
}

// Who was too fast can still give back what others wait for.
func TestG12_ReleaseAndCancelAreNotHeldUp(t *testing.T) {
	clock := &testClock{}
	s := newSocketServer(t, clock.of(Config{Profile: "realtimekit"}))
	c, other := s.join("back", ""), s.join("back", "")
	var grant struct{ Fence uint64 }
	c.must(&grant, "acquire", `"key":"pen"`)
	other.must(nil, "acquire", `"key":"stage"`)
	waiting := c.send("acquire", `"key":"stage","wait_ms":60000`)
	if f := c.answer(waiting); f.Waiting == nil {
		t.Fatalf("got %s", f.raw)
	}
	for range 38 {
		c.must(nil, "put", `"key":"k","value":1`)
	}
	c.fails(wire.RateLimited, "put", `"key":"k","value":1`)
	c.must(nil, "cancel", fmt.Sprintf(`"request":%d`, waiting))
	if f := c.answerOf(waiting); f.Error == nil || f.Error.Code != wire.LockTimeout {
		t.Errorf("got %s", f.raw)
	}
	c.must(nil, "renew", fmt.Sprintf(`"key":"pen","fence":%d`, grant.Fence))
	c.must(nil, "release", fmt.Sprintf(`"key":"pen","fence":%d`, grant.Fence))
	// But it counts, and has a bound of its own.
	if e := c.fails(wire.RateLimited, "put", `"key":"k","value":1`); waitOf(e) != 150 {
		t.Errorf("a wait of %v ms, want 150", waitOf(e))
	}
	for range window - 2 {
		c.fails(wire.NotHolder, "release", fmt.Sprintf(`"key":"pen","fence":%d`, grant.Fence))
	}
	c.fails(wire.RateLimited, "release", fmt.Sprintf(`"key":"pen","fence":%d`, grant.Fence))
	c.must(nil, "leave", "")
}

// What a connection repeats was counted before, and may have been applied: "not
// applied" would be a lie that makes a client apply it twice.
func TestG9_RepeatsAreNotRefusedAsTooFast(t *testing.T) {
	clock := &testClock{}
	s := newSocketServer(t, clock.of(Config{Profile: "realtimekit"}))
	c := s.dial("again")
	c.must(&c.hello, "hello", `"v":1,"client":"handle"`)
	for i := range 40 {
		c.must(nil, "put", fmt.Sprintf(`"key":"k","value":%d`, i))
	}
	c.fails(wire.RateLimited, "put", `"key":"k","value":"x"`)
	c.ws.NetConn().Close()

	d := s.dial("again")
	d.id = 1_000
	d.must(&d.hello, "hello", `"v":1,"client":"handle",`+c.resuming())
	if !d.hello.PeerResumed {
		t.Fatalf("hello %+v", d.hello)
	}
	for id := 2; id < 42; id++ {
		d.write(fmt.Sprintf(`{"id":%d,"do":"put","key":"k","value":%d}`, id, id-2))
		if f := d.answer(uint64(id)); f.Error != nil {
			t.Fatalf("the repeated request %d: %s", id, f.raw)
		}
	}
	if e := s.session("again").Entry(defaultStore, "k"); e.Version != 40 {
		t.Errorf("version %d: a repeat was applied again", e.Version)
	}
	d.fails(wire.RateLimited, "put", `"key":"k","value":"x"`) // a new connection has no new bucket
}

// A connection whose hellos are refused must not go on for ever: each one that is
// in order goes through the log.
func TestG12_HellosOfAConnectionAreCounted(t *testing.T) {
	clock := &testClock{}
	s := newSocketServer(t, clock.of(Config{}))
	first := s.join("hello", "")
	resume := fmt.Sprintf(`"v":1,"resume":{"session":%q,"peer":%q,"key":"wrong"}`, first.hello.Session, first.hello.Peer)
	c := s.dial("hello")
	for range helloQuota.burst {
		c.fails(wire.Forbidden, "hello", resume)
	}
	if e := c.fails(wire.RateLimited, "hello", resume); waitOf(e) != 1_000 || e.Details["limit"] != "hellos_per_s" {
		t.Errorf("got %+v", e)
	}
	clock.advance(time.Second)
	c.must(nil, "hello", `"v":1`)
}

// Over HTTP a peer draws from the bucket that its socket draws from.
func TestG12_APeerOverHTTPIsCounted(t *testing.T) {
	clock := &testClock{}
	s := newTestServer(t, clock.of(Config{Profile: "realtimekit"}))
	joined := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":60000}`).want(201)
	as := []string{headerPeer, joined.text("peer"), headerPeerKey, joined.text("resume_key")}
	for range 40 {
		s.do("PUT", keys+"k", "1", as...)
	}
	rev := s.store.View().Rev()
	for _, r := range []struct{ method, path, body string }{
		{"PUT", keys + "k", "1"},
		{"PATCH", keys + "k", `{"add":1}`},
		{"DELETE", keys + "k", ""},
		{"PUT", "/v1/rooms/r/stores/s", `{"a":1}`},
		{"PATCH", "/v1/rooms/r/stores/s", `{"set":{"a":1}}`},
		{"POST", "/v1/rooms/r/txn", `{"then":[]}`},
		{"POST", "/v1/rooms/r/locks/s/k", `{}`},
		{"POST", "/v1/rooms/r/messages", `{"topic":"t","data":1}`},
		{"PATCH", "/v1/rooms/r/peers/" + joined.text("peer"), `{"name":"x"}`},
		{"POST", "/v1/rooms/r/peers", `{"ttl_ms":60000}`},
		{"PUT", "/v1/rooms/r", `{}`},
		{"DELETE", "/v1/rooms/r", ""},
	} {
		got := s.do(r.method, r.path, r.body, as...)
		if d := got.refused("rate_limited"); d["retry_after_ms"] != 50.0 || got.header.Get("Retry-After") != "1" {
			t.Errorf("%s %s: %v, Retry-After %q", r.method, r.path, d, got.header.Get("Retry-After"))
		}
	}
	if got := s.store.View().Rev(); got != rev {
		t.Errorf("refused writes have moved the revision from %d to %d", rev, got)
	}
	s.do("GET", keys+"k", "", as...).want(200)
	s.do("PUT", "/v1/rooms/r/peers/"+joined.text("peer")+"/alive", "", as...).want(200)
	for range 100 {
		s.do("PUT", keys+"k", "1").want(200) // nobody: without tokens every caller has every right
	}
	clock.advance(50 * time.Millisecond)
	s.do("PUT", keys+"k", "1", as...).want(200)
	s.do("DELETE", "/v1/rooms/r/peers/"+joined.text("peer"), "", as...).want(200)
}

// Callers with one token share its bucket in a room, whoever they are: over HTTP,
// observing, or as peers, which have their own besides.
func TestG12_ATokenWritesAtItsRate(t *testing.T) {
	clock := &testClock{}
	s := newTestServer(t, clock.of(Config{Auth: subjects{}, TokenWritesPerS: 10, TokenWritesBurst: 30}))
	sockets := s.sockets()
	as := []string{"Authorization", "Bearer ada"}
	for range 10 {
		s.do("PUT", keys+"k", "1", as...)
	}
	peer, observer := sockets.join("r", `"token":"ada"`), sockets.join("r", `"token":"ada","observe":true`)
	for range 10 {
		peer.must(nil, "put", `"key":"k","value":1`)
		observer.must(nil, "put", `"key":"k","value":1`)
	}
	for _, c := range []*wsClient{peer, observer} {
		if e := c.fails(wire.RateLimited, "put", `"key":"k","value":1`); e.Details["limit"] != "token_writes_per_s" || waitOf(e) != 100 {
			t.Errorf("got %+v", e)
		}
	}
	if r := s.do("PUT", keys+"k", "1", as...); r.refused("rate_limited")["max"] != 10.0 || r.header.Get("Retry-After") != "1" {
		t.Errorf("got %s", r.body)
	}
	s.do("PUT", "/v1/rooms/other/stores/default/keys/k?open_ms=60000", "1", as...).want(201) // another room
	s.do("PUT", keys+"k", "1", "Authorization", "Bearer bob").want(200)                      // another token
	clock.advance(100 * time.Millisecond)
	s.do("PUT", keys+"k", "1", as...).want(200)
	if body := s.do("GET", "/metrics", "").want(200).body; !strings.Contains(body, `conclave_rate_limited_total{kind="token"} 3`) {
		t.Error("the metrics do not count what a token was refused")
	}
}

// A flood of writes, far over the rate, is answered to its end and in order, and
// the session has no more than the burst of it.
func TestG12_AFloodIsRefusedAndNotLogged(t *testing.T) {
	clock := &testClock{}
	s := newSocketServer(t, clock.of(Config{}))
	c := s.join("flood", "")
	const writes = 2_000
	go func() {
		for i := range writes {
			if c.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"id":%d,"do":"add","key":"n","by":1}`, i+2)) != nil {
				return
			}
		}
	}()
	applied := 0
	for range writes {
		if f := c.read(); f.Error == nil {
			applied++
		} else if f.Error.Code != wire.RateLimited {
			t.Fatalf("got %s", f.raw)
		}
	}
	if n := string(s.session("flood").Entry(defaultStore, "n").Value); applied != 200 || n != "200" {
		t.Errorf("%d were applied, the counter is %s; want the burst of 200", applied, n)
	}
}

// Ephemeral messages have a bucket of their own, with the numbers of the other: a
// cursor in motion does not use up what its peer may write, and has a rate.
func TestG12_EphemeralMessagesHaveABucketOfTheirOwn(t *testing.T) {
	clock := &testClock{}
	s := newTestServer(t, clock.of(Config{Profile: "realtimekit"}))
	c := s.sockets().join("r", "")
	const cursor = `"topic":"cursor","data":1,"ephemeral":true`
	for range 40 {
		c.must(nil, "send", cursor)
	}
	if e := c.fails(wire.RateLimited, "send", cursor); waitOf(e) != 50 || e.Details["limit"] != "writes_per_s" {
		t.Errorf("got %+v", e)
	}
	as := []string{headerPeer, c.hello.Peer, headerPeerKey, c.hello.ResumeKey}
	s.do("POST", "/v1/rooms/r/messages", "{"+cursor+"}", as...).refused("rate_limited")
	for range 40 {
		c.must(nil, "send", `"topic":"chat","data":1`)
	}
	c.fails(wire.RateLimited, "send", `"topic":"chat","data":1`)
	clock.advance(50 * time.Millisecond)
	c.must(nil, "send", cursor)
	c.must(nil, "send", `"topic":"chat","data":1`)
	c.fails(wire.RateLimited, "send", cursor)
}
