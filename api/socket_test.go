package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

func TestSocket_Hello(t *testing.T) {
	s := newSocketServer(t, Config{})
	t.Run("joins as a peer and starts the session", func(t *testing.T) {
		c := s.join("hello", `"name":"Ada","ref":"u7","data":{"hand":false},"unknown":[1]`)
		h := c.hello
		sess := s.session("hello")
		p := sess.Peer(h.Peer)
		if p == nil || p.Key != h.ResumeKey || p.Name != "Ada" || p.Ref != "u7" || string(p.Data) != `{"hand":false}` || !p.Attached {
			t.Fatalf("peer %+v, hello %+v", p, h)
		}
		if len(h.ResumeKey) < 26 {
			t.Errorf("the resume key %q has fewer than 128 bits", h.ResumeKey)
		}
		want := wire.Welcome{
			V: 1, Features: []string{}, Peer: h.Peer, ResumeKey: h.ResumeKey, Rev: s.store.View().Rev(), Node: testNode,
			Now: h.Now, PingMs: 20_000, Window: 256, Limits: h.Limits, GraceMs: h.GraceMs,
		}
		if d := cmp.Diff(want, h.Welcome); d != "" {
			t.Error(d)
		}
		if h.Session != sess.ID || *h.GraceMs != 15_000 || h.Limits.Peers != 2_500 {
			t.Errorf("session %q, grace %d, limits %+v", h.Session, *h.GraceMs, h.Limits)
		}
		if _, err := time.Parse(time.RFC3339, h.Now); err != nil {
			t.Error(err)
		}
	})
	t.Run("observes without starting a session", func(t *testing.T) {
		c := s.join("empty", `"observe":true,"watch":[{}]`)
		if c.hello.Session != "" || c.hello.Peer != "" || s.session("empty") != nil {
			t.Errorf("hello %+v", c.hello)
		}
		if snap, _ := c.snapshot(1); snap.Session != "" || len(snap.Stores) != 0 {
			t.Errorf("snapshot %+v", snap)
		}
	})
	t.Run("repeated after a lost answer gets the same peer", func(t *testing.T) {
		hello := `{"id":4,"do":"hello","v":1,"client":"handle"}`
		var first, second helloAnswer
		a := s.dial("again")
		a.write(hello)
		a.decode(a.answer(4).OK, &first)
		a.ws.Close()
		waitFor(t, "the detach", func() bool { return !s.session("again").Peer(first.Peer).Attached })
		b := s.dial("again")
		b.write(hello)
		b.decode(b.answer(4).OK, &second)
		if first.Peer != second.Peer || first.ResumeKey != second.ResumeKey || first.Session != second.Session {
			t.Errorf("%+v, then %+v", first, second)
		}
		if n := s.session("again").Counts().Peers; n != 1 {
			t.Errorf("%d peers", n)
		}
		b.id = 4
		b.must(nil, "put", `"key":"k","value":1`) // with the generation that counts
	})
	t.Run("is the first request and said once", func(t *testing.T) {
		c := s.dial("order")
		c.fails(wire.BadRequest, "put", `"key":"k","value":1`)
		c.greet("")
		c.fails(wire.BadRequest, "hello", `"v":1`)
	})
	t.Run("refuses another version and a wrong watch", func(t *testing.T) {
		c := s.dial("form")
		c.fails(wire.BadRequest, "hello", `"v":2`)
		c.fails(wire.BadRequest, "hello", ``)
		c.fails(wire.BadRequest, "hello", `"v":1,"watch":[{"types":["weather"]}]`)
		c.fails(wire.BadRequest, "hello", `"v":1,"watch":[{"keys":["a*b"]}]`)
		c.greet("") // another may follow
	})
}

func TestSocket_ReadsAndWrites(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("verbs", "")
	var put struct{ Version, Rev uint64 }
	c.must(&put, "put", `"key":"a","value":{"n": 1.50}`)
	var got struct {
		Entry *wire.Entry
		Rev   uint64
	}
	c.must(&got, "get", `"key":"a"`)
	want := wire.Entry{
		Key: "a", Value: json.RawMessage(`{"n":1.50}`), Version: 1, Rev: put.Rev, CreatedRev: put.Rev,
		By: wire.By{Kind: "peer", Peer: c.hello.Peer}, At: got.Entry.At,
	}
	if d := cmp.Diff(&want, got.Entry); d != "" || got.Rev < put.Rev {
		t.Errorf("at %d: %s", got.Rev, d)
	}
	got.Entry = &want
	c.must(&got, "get", `"key":"nothing","consistency":"stale"`)
	if got.Entry != nil {
		t.Errorf("an absent key has the entry %+v", got.Entry)
	}
	conflict := c.fails(wire.Conflict, "put", `"key":"a","value":2,"if":{"version":7}`)
	if conflict.Details["version"] != 1.0 || conflict.Retry != wire.RetryNever {
		t.Errorf("conflict %+v", conflict)
	}
	c.must(&put, "put", fmt.Sprintf(`"key":"a","value":2,"if":{"rev":%d}`, put.Rev))
	if put.Version != 2 {
		t.Errorf("version %d", put.Version)
	}
	for i := range 5 {
		c.must(nil, "put", fmt.Sprintf(`"store":"notes","key":"n/%d","value":%d`, i, i))
	}
	var list struct {
		Entries []wire.Entry
		Rev     uint64
		Next    string
	}
	c.must(&list, "list", `"store":"notes","prefix":"n/","limit":2,"after":"n/1"`)
	if len(list.Entries) != 2 || list.Entries[0].Key != "n/2" || list.Next != "n/3" || list.Rev == 0 {
		t.Errorf("list %+v", list)
	}
	var deleted struct {
		Existed bool
		Rev     uint64
	}
	c.must(&deleted, "delete", `"key":"a"`)
	if !deleted.Existed {
		t.Error("delete found nothing")
	}
	var txn wire.TxnResult
	c.must(&txn, "txn", `"if":[{"key":"a","absent":true}],"then":[{"do":"put","key":"a","value":3},{"do":"get","key":"a"}],"else":[]`)
	if !txn.Applied || len(txn.Results) != 2 || *txn.Results[0].Version != 1 || !strings.Contains(string(txn.Results[1].Entry), `"value":3`) {
		t.Errorf("txn %+v", txn)
	}
	var peers struct{ Peers []wire.Peer }
	c.must(nil, "set_self", `"name":"Bo","data":[1]`)
	c.must(&peers, "peers", ``)
	if len(peers.Peers) != 1 || peers.Peers[0].Name != "Bo" || string(peers.Peers[0].Data) != "[1]" {
		t.Errorf("peers %+v", peers)
	}
	var pong struct {
		Rev uint64
		Now string
	}
	c.must(&pong, "ping", "")
	if pong.Rev != s.store.View().Rev() {
		t.Errorf("ping at %d, want %d", pong.Rev, s.store.View().Rev())
	}
}

func TestSocket_RefusesBadRequests(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("bad", "")
	for _, test := range []struct{ do, members, field string }{
		{"put", `"key":"k"`, "value"},
		{"put", `"value":1`, "key"},
		{"put", `"key":"k","value":1,"colour":"red"`, "colour"},
		{"put", `"key":"` + strings.Repeat("k", 300) + `","value":1`, "key"},
		{"get", `"key":"k","consistency":"none"`, "consistency"},
		{"dance", ``, "do"},
		{"append", `"key":"k"`, "values"},
		{"replace", `"data":[]`, "data"},
		{"auth", `"token":"t"`, "do"},
		{"remove_peer", ``, "peer"},
		{"remove_peer", `"peer":"a/b"`, "peer"},
		{"unwatch", ``, "watch"},
		{"watch", ``, "watch"},
		{"watch", `"watch":[{"colour":1}]`, "watch[0].colour"},
		{"cancel", ``, "request"},
		{"renew", `"key":"k"`, "fence"},
		{"list", `"limit":5000`, "limit"},
	} {
		if e := c.fails(wire.BadRequest, test.do, test.members); e.Details["field"] != test.field {
			t.Errorf("%s %s: %v, want the field %q", test.do, test.members, e.Details, test.field)
		}
	}
	c.write(`{"id":100,"do":"put","key":}`)
	if f := c.answer(100); f.Error == nil || f.Error.Code != wire.BadRequest {
		t.Errorf("malformed: %s", f.raw)
	}
	c.write(`{"id":99,"do":"ping","id":99}`)
	if f := c.answer(99); f.Error == nil || f.Error.Code != wire.BadRequest {
		t.Errorf("duplicate member: %s", f.raw)
	}
	c.id = 100
	c.must(nil, "put", `"key":"k","value":1`)
	c.id = 50
	if e := c.fails(wire.BadRequest, "put", `"key":"k","value":2`); e.Details["field"] != "id" {
		t.Errorf("an old id: %v", e)
	}
	if e := s.session("bad").Entry(defaultStore, "k"); string(e.Value) != "1" || e.Version != 1 {
		t.Errorf("entry %+v", e)
	}
	big := strings.Repeat("x", 65<<10)
	c.id = 200
	c.fails(wire.LimitExceeded, "put", `"key":"k","value":"`+big+`"`)
}

func TestSocket_ClosesWhatIsNoRequest(t *testing.T) {
	s := newSocketServer(t, Config{})
	for name, send := range map[string]func(c *wsClient) error{
		"binary frame": func(c *wsClient) error { return c.ws.WriteMessage(websocket.BinaryMessage, []byte(`{"id":2}`)) },
		"10 MB": func(c *wsClient) error {
			return c.ws.WriteMessage(websocket.TextMessage, []byte(`{"id":2,"do":"put","key":"k","value":"`+strings.Repeat("x", 10<<20)+`"}`))
		},
		"not JSON": func(c *wsClient) error { return c.ws.WriteMessage(websocket.TextMessage, []byte(`hello`)) },
		"no id":    func(c *wsClient) error { return c.ws.WriteMessage(websocket.TextMessage, []byte(`{"do":"ping"}`)) },
		"no such id": func(c *wsClient) error {
			return c.ws.WriteMessage(websocket.TextMessage, []byte(`{"id":-1,"do":"ping"}`))
		},
		"not an object": func(c *wsClient) error { return c.ws.WriteMessage(websocket.TextMessage, []byte(`[1]`)) },
	} {
		t.Run(name, func(t *testing.T) {
			other := s.join("close", `"watch":[{}]`)
			other.snapshot(1)
			c := s.join("close", "")
			if err := send(c); err != nil {
				t.Fatal(err)
			}
			s.wantClose(c, wire.CloseProtocol)
			other.must(nil, "ping", "") // nobody else notices
			other.ws.Close()
		})
	}
}

func TestSocket_Locks(t *testing.T) {
	s := newSocketServer(t, Config{})
	a, b := s.join("locks", `"name":"a"`), s.join("locks", `"name":"b"`)
	var grant struct {
		Fence     uint64
		ExpiresIn *int64 `json:"expires_in_ms"`
	}
	a.must(&grant, "acquire", `"key":"pen","ttl_ms":5000`)
	if grant.Fence == 0 || grant.ExpiresIn == nil || *grant.ExpiresIn != 5000 {
		t.Fatalf("grant %+v", grant)
	}
	fence := fmt.Sprintf(`"key":"pen","fence":%d`, grant.Fence)
	b.fails(wire.Locked, "acquire", `"key":"pen"`)
	b.fails(wire.Locked, "put", `"key":"pen","value":1`)
	b.fails(wire.StaleFence, "put", `"value":1,`+fence)
	a.must(nil, "put", `"value":1,`+fence)
	var renewed struct {
		Left int64 `json:"expires_in_ms"`
	}
	a.must(&renewed, "renew", fence)
	if renewed.Left != 5000 {
		t.Errorf("renewed for %d ms", renewed.Left)
	}
	b.fails(wire.NotHolder, "renew", fence)
	// Without a TTL there is nothing to renew, and no end to tell.
	a.must(&grant, "acquire", `"key":"chair"`)
	if f := a.do("renew", fmt.Sprintf(`"key":"chair","fence":%d`, grant.Fence)); string(f.OK) != `{}` {
		t.Errorf("renewal without a TTL: %s", f.raw)
	}
	a.must(nil, "release", fmt.Sprintf(`"key":"chair","fence":%d`, grant.Fence))
	a.must(&grant, "acquire", `"key":"pen","ttl_ms":5000`)
	var valid struct{ Valid bool }
	if b.must(&valid, "validate", fence); !valid.Valid {
		t.Error("the current fence is not valid")
	}
	if b.must(&valid, "validate", `"key":"pen","fence":1`); valid.Valid {
		t.Error("another fence is valid")
	}

	first := b.send("acquire", `"key":"pen","wait_ms":60000`)
	if f := b.answer(first); f.Waiting == nil || f.Waiting.Position != 1 {
		t.Fatalf("got %s, want a place in line", f.raw)
	}
	b.must(nil, "put", `"key":"other","value":1`) // holds back nothing
	var locks struct{ Locks []wire.Lock }
	a.must(&locks, "locks", `"key":"pen"`)
	if len(locks.Locks) != 1 || len(locks.Locks[0].Holders) != 1 || len(locks.Locks[0].Queue) != 1 ||
		locks.Locks[0].Holders[0].ExpiresInMs == nil || locks.Locks[0].Queue[0].Owner != b.hello.Peer {
		t.Errorf("locks %+v", locks)
	}
	if a.must(&locks, "locks", ""); len(locks.Locks) != 1 {
		t.Errorf("locks %+v", locks)
	}
	if a.must(&locks, "locks", `"store":"default"`); len(locks.Locks) != 1 {
		t.Errorf("locks %+v", locks)
	}
	if a.must(&locks, "locks", `"store":"defaul"`); len(locks.Locks) != 0 {
		t.Errorf("locks %+v", locks)
	}
	a.fails(wire.BadRequest, "locks", `"store":"default","prefix":"default/"`)
	if a.must(&locks, "locks", `"key":"none"`); len(locks.Locks) != 0 {
		t.Errorf("locks %+v", locks)
	}

	b.must(nil, "cancel", fmt.Sprintf(`"request":%d`, first))
	cancelled := append(b.other, b.answerKept(first)...)
	if f := cancelled[len(cancelled)-1]; f.Error == nil || f.Error.Code != wire.LockTimeout {
		t.Errorf("the cancelled acquire: %s", f.raw)
	}
	b.other = nil

	second := b.send("acquire", `"key":"pen","wait_ms":60000,"ttl_ms":9000`)
	b.answer(second)
	a.must(nil, "release", fence)
	f := b.answer(second)
	if b.decode(f.OK, &grant); grant.Fence == 0 || *grant.ExpiresIn != 9000 {
		t.Errorf("granted %s", f.raw)
	}
	a.fails(wire.NotHolder, "release", fence)
	s.store.advance(10 * time.Second)
	if l := s.session("locks").Lock(defaultStore, "pen"); l != nil {
		t.Errorf("the lease has not ended: %+v", l)
	}
}

func TestSocket_WaitEndsByTime(t *testing.T) {
	s := newSocketServer(t, Config{})
	a, b := s.join("wait", ""), s.join("wait", "")
	a.must(nil, "acquire", `"key":"pen"`)
	id := b.send("acquire", `"key":"pen","wait_ms":1000`)
	b.answer(id)
	s.store.advance(2 * time.Second)
	if f := b.answer(id); f.Error == nil || f.Error.Code != wire.LockTimeout {
		t.Errorf("got %s, want lock_timeout", f.raw)
	}
}
