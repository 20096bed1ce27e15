package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

// socketServer is a Server over a testStore, on a real port.
type socketServer struct {
	*Server
	t     testing.TB
	store *testStore
	http  *httptest.Server
}

func newSocketServer(t testing.TB, cfg Config) *socketServer {
	t.Helper()
	store := newTestStore(t)
	s := New(cfg, store)
	h := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close the server: %v", err)
		}
		h.Close()
	})
	return &socketServer{s, t, store, h}
}

// overHTTP is the same server, asked over HTTP.
func (s *socketServer) overHTTP() *testServer {
	return &testServer{Server: s.Server, t: s.t, store: s.store, http: s.http}
}

// unhurried is a configuration whose sessions refuse nobody for being too fast, for
// tests of something else.
func unhurried() Config {
	fast := builtin[standardProfile]
	fast.Limits.WritesPerS, fast.Limits.WritesBurst = 10_000, 100_000
	return Config{Profile: "unhurried", Profiles: map[string]Profile{"unhurried": fast}}
}

// wsFrame is any frame that a server sends.
type wsFrame struct {
	ID        uint64           `json:"id"`
	OK        json.RawMessage  `json:"ok"`
	Error     *wire.Error      `json:"error"`
	Waiting   *waitingNotice   `json:"waiting"`
	Events    []wire.Event     `json:"events"`
	Rev       uint64           `json:"rev"`
	Snapshot  *wire.Snapshot   `json:"snapshot"`
	For       uint64           `json:"for"`
	More      bool             `json:"more"`
	Reset     string           `json:"reset"`
	Ephemeral []wire.Ephemeral `json:"ephemeral"`
	raw       string
}

type waitingNotice struct{ Position int }

// wsClient is one socket of a test. Frames that a call was not waiting for are
// kept in other, in order.
type wsClient struct {
	t     testing.TB
	ws    *websocket.Conn
	id    uint64
	other []wsFrame
	hello helloAnswer
}

type helloAnswer struct {
	wire.Welcome
	Session string `json:"session"`
}

func (s *socketServer) dial(room string) *wsClient {
	s.t.Helper()
	return s.dialWith(room, nil, nil)
}

func (s *socketServer) dialWith(room string, header http.Header, dialer *websocket.Dialer) *wsClient {
	s.t.Helper()
	if dialer == nil {
		dialer = websocket.DefaultDialer
	}
	ws, _, err := dialer.Dial("ws"+strings.TrimPrefix(s.http.URL, "http")+"/v1/rooms/"+room+"/socket", header)
	if err != nil {
		s.t.Fatalf("dial %s: %v", room, err)
	}
	c := &wsClient{t: s.t, ws: ws}
	s.t.Cleanup(func() { ws.Close() })
	return c
}

// join dials and says hello; members are more of its members.
func (s *socketServer) join(room, members string) *wsClient {
	s.t.Helper()
	c := s.dial(room)
	c.greet(members)
	return c
}

func (c *wsClient) greet(members string) {
	c.t.Helper()
	f := c.do("hello", `"v":1,"client":"`+randomName("c")+`"`+comma(members))
	if f.Error != nil {
		c.t.Fatalf("hello: %v", f.Error)
	}
	c.decode(f.OK, &c.hello)
}

func comma(members string) string {
	if members == "" {
		return ""
	}
	return "," + members
}

func (c *wsClient) write(text string) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatalf("write %.100s: %v", text, err)
	}
}

// send sends a request and returns its id.
func (c *wsClient) send(do, members string) uint64 {
	c.t.Helper()
	c.id++
	c.write(fmt.Sprintf(`{"id":%d,"do":%q%s}`, c.id, do, comma(members)))
	return c.id
}

// do sends a request and waits for its answer.
func (c *wsClient) do(do, members string) wsFrame {
	c.t.Helper()
	return c.answer(c.send(do, members))
}

// must is do for a request that succeeds; it decodes the answer.
func (c *wsClient) must(into any, do, members string) {
	c.t.Helper()
	f := c.do(do, members)
	if f.Error != nil {
		c.t.Fatalf("%s %s: %v", do, members, f.Error)
	}
	c.decode(f.OK, into)
}

// fails is do for a request that is refused with a code.
func (c *wsClient) fails(code wire.Code, do, members string) *wire.Error {
	c.t.Helper()
	f := c.do(do, members)
	if f.Error == nil || f.Error.Code != code {
		c.t.Fatalf("%s %s: got %s, want %s", do, members, f.raw, code)
	}
	return f.Error
}

func (c *wsClient) decode(raw []byte, into any) {
	c.t.Helper()
	if into == nil {
		return
	}
	if err := json.Unmarshal(raw, into); err != nil {
		c.t.Fatalf("decode %s: %v", raw, err)
	}
}

func (c *wsClient) answer(id uint64) wsFrame {
	c.t.Helper()
	for {
		f := c.read()
		if f.ID == id {
			return f
		}
		c.other = append(c.other, f)
	}
}

// read reads the next frame from the wire.
func (c *wsClient) read() wsFrame {
	c.t.Helper()
	f, err := c.tryRead()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return f
}

func (c *wsClient) tryRead() (f wsFrame, err error) {
	if err := c.ws.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return f, err
	}
	_, data, err := c.ws.ReadMessage()
	if err != nil {
		return f, err
	}
	f.raw = string(data)
	return f, json.Unmarshal(data, &f)
}

// next is the next frame that is no answer: kept ones first.
func (c *wsClient) next() wsFrame {
	c.t.Helper()
	if len(c.other) > 0 {
		f := c.other[0]
		c.other = c.other[1:]
		return f
	}
	return c.read()
}

// nextEvents is the next frame of events; bookmarks are passed over.
func (c *wsClient) nextEvents() wsFrame {
	c.t.Helper()
	for {
		f := c.next()
		if f.Events != nil {
			return f
		}
		if f.ID != 0 || f.Snapshot != nil || f.Reset != "" {
			c.t.Fatalf("got %s, want events", f.raw)
		}
	}
}

// snapshot reads all pages of a snapshot.
func (c *wsClient) snapshot(request uint64) (snap wire.Snapshot, rev uint64) {
	c.t.Helper()
	snap.Stores = map[string][]wire.Entry{}
	for {
		f := c.next()
		if f.Snapshot == nil || f.For != request {
			c.t.Fatalf("got %.300s, want a snapshot for %d", f.raw, request)
		}
		snap.Session = f.Snapshot.Session
		for name, entries := range f.Snapshot.Stores {
			snap.Stores[name] = append(snap.Stores[name], entries...)
		}
		snap.Peers = append(snap.Peers, f.Snapshot.Peers...)
		snap.Locks = append(snap.Locks, f.Snapshot.Locks...)
		if !f.More {
			return snap, f.Rev
		}
	}
}

// closeCode reads to the end and returns the close code, 0 for none.
func (c *wsClient) closeCode() int {
	c.t.Helper()
	for {
		f, err := c.tryRead()
		var closed *websocket.CloseError
		switch {
		case errors.As(err, &closed):
			return closed.Code
		case err != nil:
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				c.t.Fatal("the socket was not closed")
			}
			return 0
		}
		c.other = append(c.other, f)
	}
}

func (s *socketServer) wantClose(c *wsClient, want int) {
	s.t.Helper()
	if got := c.closeCode(); got != want {
		s.t.Errorf("close code %d, want %d", got, want)
	}
}

// session is the room's live session as the store has it.
func (s *socketServer) session(room string) *fsm.Session { return s.store.View().Session(room) }

// put writes past the api, as somebody else.
func (s *socketServer) put(room, key, value string) *fsm.Result {
	s.t.Helper()
	open, _ := s.opening("", 300_000)
	r, err := s.store.Do(s.t.Context(), &fsm.Command{
		Kind: fsm.CommandTxn, Room: room, Open: open,
		Txn: single(fsm.Operation{Kind: fsm.OpPut, Store: defaultStore, Key: key, Value: []byte(value)}),
	})
	if err = outcome(r, err); err != nil {
		s.t.Fatalf("put %s: %v", key, err)
	}
	return r
}

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

// answerKept is the answer to a request, if it has not been read yet.
func (c *wsClient) answerKept(id uint64) []wsFrame {
	c.t.Helper()
	for _, f := range c.other {
		if f.ID == id {
			return nil
		}
	}
	return []wsFrame{c.answer(id)}
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

func TestSocket_EndsOfAPeer(t *testing.T) {
	s := newSocketServer(t, Config{})
	stays := s.join("ends", `"name":"stays"`)
	state := func(peer string) string {
		switch p := s.session("ends").Peer(peer); {
		case p == nil:
			return "left"
		case p.Attached:
			return "attached"
		}
		return "detached"
	}
	t.Run("a broken connection detaches", func(t *testing.T) {
		c := s.join("ends", "")
		c.ws.NetConn().Close()
		waitFor(t, "the detach", func() bool { return state(c.hello.Peer) == "detached" })
		s.store.advance(16 * time.Second)
		if got := state(c.hello.Peer); got != "left" {
			t.Errorf("%s after its grace", got)
		}
	})
	t.Run("going away detaches", func(t *testing.T) {
		c := s.join("ends", "")
		c.closeWith(websocket.CloseGoingAway)
		s.wantClose(c, websocket.CloseGoingAway)
		waitFor(t, "the detach", func() bool { return state(c.hello.Peer) == "detached" })
	})
	t.Run("a normal close leaves", func(t *testing.T) {
		c := s.join("ends", "")
		c.closeWith(websocket.CloseNormalClosure)
		s.wantClose(c, websocket.CloseNormalClosure)
		waitFor(t, "the leave", func() bool { return state(c.hello.Peer) == "left" })
	})
	t.Run("leave leaves, then the server closes", func(t *testing.T) {
		c := s.join("ends", "")
		c.must(nil, "leave", "")
		if got := state(c.hello.Peer); got != "left" {
			t.Errorf("%s when leave was answered", got)
		}
		s.wantClose(c, websocket.CloseNormalClosure)
	})
	t.Run("who is removed is told", func(t *testing.T) {
		c := s.join("ends", "")
		if _, err := s.store.Do(s.t.Context(), &fsm.Command{
			Kind: fsm.CommandLeave, Room: "ends", Target: c.hello.Peer, Reason: "removed",
		}); err != nil {
			t.Fatal(err)
		}
		s.wantClose(c, wire.CloseRemoved)
	})
	t.Run("a newer connection replaces the older", func(t *testing.T) {
		old := s.join("ends", `"watch":[{"types":["peer"]}]`)
		old.snapshot(1)
		newer := s.join("ends", old.resuming())
		if newer.hello.Peer != old.hello.Peer || !newer.hello.PeerResumed {
			t.Errorf("hello %+v", newer.hello)
		}
		s.wantClose(old, wire.CloseReplaced)
		newer.must(nil, "put", `"key":"k","value":1`)
		if got := state(newer.hello.Peer); got != "attached" {
			t.Errorf("%s, though its newer connection lives", got)
		}
	})
	t.Run("a late copy of the client's hello sends it away to come back", func(t *testing.T) {
		c := s.join("ends", "")
		client := s.session("ends").Peer(c.hello.Peer).Client
		res, err := s.store.Do(s.t.Context(), &fsm.Command{
			Kind: fsm.CommandAttach, Room: "ends", Session: c.hello.Session,
			Attach: &fsm.Attach{Peer: c.hello.Peer, Key: c.hello.ResumeKey, Node: "elsewhere", Incarnation: 1, Client: client},
		})
		if err != nil || res.Refusal != nil {
			t.Fatal(err, res.Refusal)
		}
		if _, err := s.store.Do(s.t.Context(), &fsm.Command{
			Kind: fsm.CommandDetach, Room: "ends", Target: c.hello.Peer,
			Caller: fsm.Caller{Kind: fsm.CallerPeer, Peer: c.hello.Peer, Gen: res.Gen},
		}); err != nil {
			t.Fatal(err)
		}
		s.wantClose(c, wire.CloseNoQuorum)
	})
	t.Run("a newer connection of the same client replaces the older", func(t *testing.T) {
		c := s.join("ends", "")
		if _, err := s.store.Do(s.t.Context(), &fsm.Command{
			Kind: fsm.CommandAttach, Room: "ends", Session: c.hello.Session,
			Attach: &fsm.Attach{
				Peer: c.hello.Peer, Key: c.hello.ResumeKey, Node: "elsewhere", Incarnation: 1,
				Client: s.session("ends").Peer(c.hello.Peer).Client,
			},
		}); err != nil {
			t.Fatal(err)
		}
		s.wantClose(c, wire.CloseReplaced)
	})
	t.Run("a node taken for dead sends its peers away to come back", func(t *testing.T) {
		c := s.join("ends", "")
		p := s.session("ends").Peer(c.hello.Peer)
		s.store.control(fsm.Control{
			Kind: fsm.ControlNodeGone, Term: 1, Room: "ends", Session: c.hello.Session, Node: testNode, Incarnation: 1,
			Peers: []fsm.PeerGen{{Peer: p.ID, Gen: p.Gen}},
		})
		s.wantClose(c, wire.CloseNoQuorum)
	})
	t.Run("the session's end comes as an event, then as a close", func(t *testing.T) {
		c := s.join("ends", `"watch":[{"types":["session"]}]`)
		c.snapshot(1)
		if _, err := s.store.Do(s.t.Context(), &fsm.Command{Kind: fsm.CommandEnd, Room: "ends"}); err != nil {
			t.Fatal(err)
		}
		if f := c.nextEvents(); f.Events[0].Type != "session" || f.Events[0].State != "ended" {
			t.Errorf("got %s", f.raw)
		}
		s.wantClose(c, wire.CloseSessionEnded)
		s.wantClose(stays, wire.CloseSessionEnded)
	})
}

func (c *wsClient) closeWith(code int) {
	c.t.Helper()
	if err := c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second)); err != nil {
		c.t.Fatal(err)
	}
}

// resuming are the members of a hello that resumes this socket's peer.
func (c *wsClient) resuming() string {
	return fmt.Sprintf(`"resume":{"session":%q,"peer":%q,"key":%q}`, c.hello.Session, c.hello.Peer, c.hello.ResumeKey)
}

// control applies what a leader would propose.
func (s *testStore) control(c fsm.Control) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(&fsm.Proposal{Controls: []fsm.Control{c}})
}

func TestSocket_Resume(t *testing.T) {
	s := newSocketServer(t, Config{})
	t.Run("in another session is refused and starts nothing", func(t *testing.T) {
		c := s.join("gone", "")
		c.must(nil, "leave", "")
		again := s.dial("gone")
		again.fails(wire.SessionEnded, "hello", `"v":1,`+c.resuming())
		s.wantClose(again, wire.CloseSessionEnded)
		if s.session("gone") != nil {
			t.Error("a session was started")
		}
	})
	t.Run("with another key is forbidden", func(t *testing.T) {
		c := s.join("key", "")
		c.hello.ResumeKey += "x"
		s.dial("key").fails(wire.Forbidden, "hello", `"v":1,`+c.resuming())
	})
	t.Run("after the grace joins anew", func(t *testing.T) {
		holds := s.join("late", "")
		c := s.join("late", "")
		c.ws.NetConn().Close()
		waitFor(t, "the detach", func() bool { return !s.session("late").Peer(c.hello.Peer).Attached })
		s.store.advance(20 * time.Second)
		again := s.join("late", c.resuming())
		if again.hello.PeerResumed || again.hello.Peer == c.hello.Peer || again.hello.Session != c.hello.Session {
			t.Errorf("hello %+v", again.hello)
		}
		holds.must(nil, "ping", "")
	})
}

func TestSocket_NodeComesAndGoes(t *testing.T) {
	t.Run("no hello in time", func(t *testing.T) {
		s := newSocketServer(t, Config{Pace: Pace{Greeting: 50 * time.Millisecond, Ping: 200 * time.Millisecond}})
		s.wantClose(s.dial("slow"), wire.CloseProtocol)
	})
	t.Run("without a leader for long", func(t *testing.T) {
		s := newSocketServer(t, Config{Pace: Pace{Leaderless: 50 * time.Millisecond, Ping: 200 * time.Millisecond}})
		c := s.join("headless", "")
		s.store.loseLeader(time.Now())
		s.wantClose(c, wire.CloseNoQuorum)
	})
	t.Run("draining", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		c := s.join("drain", "")
		closed := make(chan error, 1)
		go func() { closed <- s.Close(t.Context()) }()
		s.wantClose(c, wire.CloseDraining)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if s.session("drain").Peer(c.hello.Peer).Attached {
			t.Error("the peer is still attached")
		}
		s.wantClose(s.dial("drain"), wire.CloseDraining)
	})
	t.Run("too many", func(t *testing.T) {
		s := newSocketServer(t, Config{MaxSockets: 2})
		a, _ := s.join("full", ""), s.join("full", "")
		s.wantClose(s.dial("full"), wire.CloseTooMany)
		a.ws.Close()
		waitFor(t, "room for one more", func() bool {
			c := s.dial("full")
			c.send("hello", `"v":1`)
			f, err := c.tryRead()
			return err == nil && f.OK != nil
		})
	})
	t.Run("from a foreign origin", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		s.wantClose(s.dialWith("origin", http.Header{"Origin": {"https://elsewhere.example"}}, nil), wire.CloseForbidden)
	})
}

func (s *testStore) loseLeader(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = at
}

func TestSocket_Heartbeat(t *testing.T) {
	s := newSocketServer(t, Config{Pace: Pace{Ping: 100 * time.Millisecond}})
	t.Run("bookmarks and pings reach an idle client, its pongs keep it", func(t *testing.T) {
		c := s.join("idle", "")
		pings := 0
		c.ws.SetPingHandler(func(data string) error {
			pings++
			return c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
		})
		for range 20 { // longer than a silent one may stay
			if f := c.read(); f.raw != fmt.Sprintf(`{"rev":%d}`, s.store.View().Rev()) {
				t.Fatalf("got %s, want a bookmark", f.raw)
			}
		}
		if pings == 0 {
			t.Error("no ping")
		}
	})
	t.Run("a client's ping is answered", func(t *testing.T) {
		c := s.join("idle", "")
		ponged := ""
		c.ws.SetPongHandler(func(data string) error { ponged = data; return nil })
		if err := c.ws.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		for ponged == "" {
			c.read()
		}
		if ponged != "are you there" {
			t.Errorf("pong %q", ponged)
		}
	})
	t.Run("a silent link is dropped and its peer detached", func(t *testing.T) {
		c := s.join("idle", "") // and never read again: no pongs
		waitFor(t, "the detach", func() bool { return !s.session("idle").Peer(c.hello.Peer).Attached })
	})
}

func TestSocket_UnavailableIsSaid(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("down", "")
	s.store.breakWith(&cluster.UnavailableError{Reason: "no leader"})
	for _, do := range []string{`put`, `get`} {
		members := `"key":"k"`
		if do == "put" {
			members += `,"value":1`
		}
		if e := c.fails(wire.Unavailable, do, members); e.Retry != wire.RetrySafe {
			t.Errorf("%s: %+v", do, e)
		}
	}
	c.must(nil, "get", `"key":"k","consistency":"stale"`)
	s.store.breakWith(&cluster.UnknownError{Reason: "no outcome in time"})
	lost := c.send("put", `"key":"lost","value":2`)
	if e := c.answer(lost).Error; e == nil || e.Code != wire.UnknownOutcome || e.Retry != wire.RetryUnknown {
		t.Errorf("an unknown outcome: %+v", e)
	}
	s.store.breakWith(nil)
	for _, want := range []string{"", "bad_request"} { // once answered for good, the id is used up
		c.write(fmt.Sprintf(`{"id":%d,"do":"put","key":"lost","value":2}`, lost))
		if e := c.answer(lost).Error; (e == nil) != (want == "") || e != nil && string(e.Code) != want {
			t.Errorf("repeated under its id: %+v, want %q", e, want)
		}
	}
	s.store.breakWith(&cluster.UnavailableError{Reason: "no leader"})
	c.fails(wire.Unavailable, "leave", "")
	c.ws.NetConn().Close() // the leave was not applied, so the end is a goodbye of its own
	s.store.breakWith(nil)
	waitFor(t, "the detach", func() bool {
		p := s.session("down").Peer(c.hello.Peer)
		return p != nil && !p.Attached
	})
}
