package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
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

// answerOf finds an answer among what was read, or reads on to it.
func (c *wsClient) answerOf(id uint64) wsFrame {
	c.t.Helper()
	for i, f := range c.other {
		if f.ID == id {
			c.other = slices.Delete(c.other, i, i+1)
			return f
		}
	}
	return c.answer(id)
}

// takeEvents are the events that came before the last answer.
func (c *wsClient) takeEvents() (seen []string) {
	for _, f := range c.other {
		for _, e := range f.Events {
			seen = append(seen, e.Type+" "+e.Key)
		}
	}
	c.other = nil
	return seen
}

// small is a dialer whose connections push back before megabytes have piled up.
var small = &websocket.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err == nil {
		err = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	}
	return conn, err
}}

// find is the socket of a peer.
func (h *hub) find(peer string) (found *socket) {
	for i := range h.shards {
		h.shards[i].each(func(w watcher) {
			if k, ok := w.(*socket); ok {
				k.mu.Lock()
				defer k.mu.Unlock()
				if k.caller.Peer == peer {
					found = k
				}
			}
		})
	}
	return found
}
