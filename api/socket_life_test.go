package api

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

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
