package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// scripted are servers whose every frame the test decides. They listen on
// in-memory pipes, so that a test runs in a synctest bubble: then its time is
// exact, and a goroutine that outlives the test fails it.
type scripted struct {
	t      *testing.T
	server *http.Server
	conns  chan net.Conn
	joined chan *script

	mu    sync.Mutex
	down  bool     // nobody answers; guarded by mu
	dials []string // addresses dialled, in order; guarded by mu
	all   []*script
}

// inBubble runs a test in virtual time with servers and a client that knows two
// of them, n1 and n2.
func inBubble(t *testing.T, test func(t *testing.T, s *scripted, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{t: t, conns: make(chan net.Conn), joined: make(chan *script)}
		s.server = &http.Server{Handler: http.HandlerFunc(s.serve)}
		go s.server.Serve(s)
		c, err := Dial(t.Context(), s.config())
		if err != nil {
			t.Fatal(err)
		}
		defer s.server.Close()
		defer c.Close()
		defer s.drop() // what a failed test has left open
		test(t, s, c)
	})
}

func (s *scripted) config() Config {
	return Config{Servers: []string{"n1", "n2"}, DialContext: s.dial, Token: StaticToken("secret")}
}

// dial is Config.DialContext.
func (s *scripted) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	s.mu.Lock()
	down := s.down
	s.dials = append(s.dials, addr)
	s.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	ours, theirs := net.Pipe()
	select {
	case s.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *scripted) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Accept, Close and Addr make s the listener of its server.
func (s *scripted) Accept() (net.Conn, error) {
	conn, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *scripted) Close() error   { close(s.conns); return nil }
func (s *scripted) Addr() net.Addr { return &net.UnixAddr{} }

func (s *scripted) serve(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/socket") {
		fmt.Fprint(w, `{"v":1,"version":"test","node":"n1","features":[]}`)
		return
	}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	k := &script{t: s.t, ws: ws, in: make(chan []byte), ended: make(chan struct{}), heeding: map[string]bool{}}
	s.mu.Lock()
	s.all = append(s.all, k)
	s.mu.Unlock()
	go k.read()
	select {
	case s.joined <- k:
	case <-k.ended:
	}
	<-k.ended
}

// drop ends all connections.
func (s *scripted) drop() {
	s.setDown(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.all {
		k.drop()
	}
}

// connection waits for the client's next connection.
func (s *scripted) connection() *script {
	s.t.Helper()
	select {
	case k := <-s.joined:
		return k
	case <-time.After(time.Hour):
		s.t.Fatal("no connection within an hour")
		return nil
	}
}

// script is one connection as the test sees it from the server's side.
type script struct {
	t     *testing.T
	ws    *websocket.Conn
	in    chan []byte   // what the client sends; closed at its end
	code  int           // the client's close code, once in is closed
	ended chan struct{} // closed by drop
	once  sync.Once

	heeding map[string]bool // watches of the ends of locks, by id
}

// read passes on what the client sends.
func (k *script) read() {
	defer close(k.in)
	for {
		_, data, err := k.ws.ReadMessage()
		if err != nil {
			var closed *websocket.CloseError
			if errors.As(err, &closed) {
				k.code = closed.Code
			}
			return
		}
		select {
		case k.in <- data:
		case <-k.ended:
			return
		}
	}
}

// message is a request of the client, with the members that tests look at.
type message struct {
	ID      uint64          `json:"id"`
	Do      string          `json:"do"`
	Client  string          `json:"client"`
	Token   string          `json:"token"`
	Name    string          `json:"name"`
	Observe bool            `json:"observe"`
	Resume  *wire.Resume    `json:"resume"`
	Watch   json.RawMessage `json:"watch"`
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"`
	Fence   uint64          `json:"fence"`
	Request uint64          `json:"request"`
	MinRev  uint64          `json:"min_rev"`
	TTLMs   int64           `json:"ttl_ms"`
	WaitMs  int64           `json:"wait_ms"`
	Mode    string          `json:"mode"`
	Permits int             `json:"permits"`
	DelayMs int64           `json:"delay_ms"`
	Ref     string          `json:"ref"`
	Data    json.RawMessage `json:"data"`

	body string // all that was sent but the id
}

// next takes the client's next request, which must be of that verb.
func (k *script) next(do string) *message {
	k.t.Helper()
	for {
		if m := k.nextOfAny(do); !k.heeds(m, do) {
			if m.Do != do {
				k.t.Fatalf("got %s %s, want a %s", m.Do, m.body, do)
			}
			return m
		}
	}
}

// heeds answers what a room asks to hear of the end of its locks, unless the test
// waits for it.
func (k *script) heeds(m *message, want string) bool {
	switch {
	case m.Do == want:
		return false
	case m.Do == "watch" && strings.HasSuffix(string(m.Watch), `"types":["lock"]}]`):
		k.ok(m, `{"rev":10}`)
		k.heeding[fmt.Sprint(m.ID)] = true
		return true
	case m.Do == "unwatch" && k.heeding[string(m.Watch)]:
		return true
	}
	return false
}

func (k *script) nextOfAny(do string) *message {
	k.t.Helper()
	var data []byte
	select {
	case data = <-k.in:
	case <-time.After(time.Hour):
	}
	if data == nil {
		k.t.Fatalf("waiting for %s: the connection ended (%d), or an hour has passed", do, k.code)
	}
	m := new(message)
	if err := json.Unmarshal(data, m); err != nil {
		k.t.Fatalf("waiting for %s: %v in %s", do, err, data)
	}
	m.body = "{" + strings.TrimPrefix(string(data), fmt.Sprintf(`{"id":%d,`, m.ID))
	return m
}

// silent fails the test if the client sends anything, or ends, within d.
func (k *script) silent(d time.Duration) {
	k.t.Helper()
	select {
	case data, open := <-k.in:
		k.t.Fatalf("got %q (open %t), want silence", data, open)
	case <-time.After(d):
	}
}

// send sends a frame.
func (k *script) send(format string, args ...any) {
	k.t.Helper()
	if err := k.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)); err != nil {
		k.t.Fatalf("send: %v", err)
	}
}

func (k *script) ok(m *message, ok string) {
	k.t.Helper()
	k.send(`{"id":%d,"ok":%s}`, m.ID, ok)
}

func (k *script) refuse(m *message, e *wire.Error) {
	k.t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		k.t.Fatal(err)
	}
	k.send(`{"id":%d,"error":%s}`, m.ID, data)
}

// welcome answers hello as for that peer at rev 10. The ping interval is 20 s,
// the grace 15 s, the window 4.
func (k *script) welcome(peer string, resumed bool) *message {
	k.t.Helper()
	m := k.next("hello")
	k.ok(m, fmt.Sprintf(`{"v":1,"features":[],"session":"s1","peer":%q,"resume_key":"key-%s","rev":10,"node":"n1",
		"peer_resumed":%t,"stream_resumed":%t,"grace_ms":15000,"ping_ms":20000,"window":4}`, peer, peer, resumed, resumed))
	return m
}

// drop breaks the connection without a word.
func (k *script) drop() {
	k.once.Do(func() {
		k.ws.NetConn().Close()
		close(k.ended)
	})
}

// bye closes with a code and waits for the client's answer.
func (k *script) bye(code int) {
	k.t.Helper()
	_ = k.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, "said the test"), time.Now().Add(time.Minute))
	k.closed()
	k.drop()
}

// closed reads up to the end of the connection and returns the client's close
// code, 0 if it sent none.
func (k *script) closed() int {
	for range k.in {
	}
	return k.code
}

// join joins a room and returns it with its first connection.
func (s *scripted) join(c *Client, opts JoinOptions) (*Room, *script) {
	s.t.Helper()
	var r *Room
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err = c.Join(s.t.Context(), "party", opts)
	}()
	k := s.connection()
	k.welcome("p1", false)
	<-done
	if err != nil {
		s.t.Fatal(err)
	}
	return r, k
}

// leave closes the room and ends its connection.
func (k *script) leave(r *Room) {
	k.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Close()
	}()
	if code := k.closed(); code != websocket.CloseNormalClosure {
		k.t.Errorf("the client closed with %d, want %d: a peer that closes leaves", code, websocket.CloseNormalClosure)
	}
	k.drop()
	<-done
}

// end closes a room whose connection something else is reading.
func (s *scripted) end(r *Room, k *script) {
	s.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Close()
	}()
	synctest.Wait()
	k.drop()
	<-done
}

// result is what a call in the background came to.
type result[T any] struct {
	value T
	err   error
	at    time.Time
	done  chan struct{}
}

// async makes a call in the background.
func async[T any](call func() (T, error)) *result[T] {
	r := &result[T]{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.value, r.err = call()
		r.at = time.Now()
	}()
	return r
}

func (r *result[T]) wait() (T, error) {
	<-r.done
	return r.value, r.err
}

// pending reports that the call has not returned though nothing more can happen
// by itself.
func (r *result[T]) pending() bool {
	synctest.Wait()
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}
