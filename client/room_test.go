package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

func TestRoom_says_hello_with_what_it_is(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		joining := async(func() (*Room, error) {
			return c.Join(t.Context(), "party", JoinOptions{Name: "Ada"})
		})
		k := s.connection()
		m := k.welcome("p1", false)
		r, err := joining.wait()
		if err != nil {
			t.Fatal(err)
		}
		if m.Name != "Ada" || m.Token != "secret" || m.Client == "" || m.Observe || m.Resume != nil {
			t.Errorf("hello was %+v", m)
		}
		if r.Peer() != "p1" || r.Session() != "s1" || r.Node() != "n1" || r.State() != Attached {
			t.Errorf("the room is peer %q of session %q at node %q, %s", r.Peer(), r.Session(), r.Node(), r.State())
		}
		k.leave(r)
		if err := r.Err(); !errors.Is(err, ErrClosed) || r.State() != Ended {
			t.Errorf("after Close the room is %s with %v", r.State(), err)
		}
		if _, err := r.Get(t.Context(), "a"); !errors.Is(err, ErrClosed) {
			t.Errorf("Get after Close: %v", err)
		}
	})
}

func TestRoom_repeats_a_hello_whose_answer_was_lost(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		joining := async(func() (*Room, error) { return c.Join(t.Context(), "party", JoinOptions{}) })
		k := s.connection()
		first := k.next("hello")
		k.drop()
		// Refused as "certainly not applied", which holds for this copy alone.
		k = s.connection()
		k.refuse(k.next("hello"), wire.Errorf(wire.Unavailable, "no leader"))
		k.drop()
		k = s.connection()
		second := k.welcome("p1", false)
		if first.ID != second.ID || first.Client != second.Client {
			t.Errorf("hello %d of %s was repeated as %d of %s: it would make a second peer", first.ID, first.Client, second.ID, second.Client)
		}
		r, err := joining.wait()
		if err != nil {
			t.Fatal(err)
		}
		k.leave(r)
	})
}

// A request whose answer is lost has one answer in the end, whichever connection
// brings it; the servers see the same client, id and order.
func TestG9_unanswered_requests_are_sent_again_under_their_ids(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		var puts []*result[*Written]
		var sent []*message
		for i := range 4 {
			puts = append(puts, async(func() (*Written, error) { return r.Put(t.Context(), fmt.Sprint("k", i), i) }))
			sent = append(sent, k.next("put"))
		}
		k.ok(sent[1], `{"version":1,"rev":12}`)
		if w, err := puts[1].wait(); err != nil || w.Rev != 12 {
			t.Fatalf("the answered put: %+v, %v", w, err)
		}
		k.send(`{"rev":13}`)
		k.drop()

		k = s.connection()
		hello := k.welcome("p1", true)
		want := &wire.Resume{Session: "s1", Peer: "p1", Key: "key-p1", Rev: new(uint64(13))}
		if diff := cmp.Diff(want, hello.Resume); diff != "" {
			t.Errorf("hello resumes (-want +got):\n%s", diff)
		}
		unanswered := []*message{sent[0], sent[2], sent[3]}
		for range 10 { // the order must hold each time, not by luck
			for _, want := range unanswered {
				if got := k.next("put"); got.ID != want.ID || got.Key != want.Key || string(got.Value) != string(want.Value) {
					t.Errorf("sent again %d %s=%s, want %d %s=%s", got.ID, got.Key, got.Value, want.ID, want.Key, want.Value)
				}
			}
			k.drop()
			k = s.connection()
			hello = k.welcome("p1", true)
		}
		for _, want := range unanswered {
			k.next("put")
			k.ok(want, fmt.Sprintf(`{"version":1,"rev":%d}`, 20+want.ID))
		}
		for _, i := range []int{0, 2, 3} {
			if w, err := puts[i].wait(); err != nil || w.Rev != 20+sent[i].ID {
				t.Errorf("put %d: %+v, %v", i, w, err)
			}
		}
		another := async(func() (*Written, error) { return r.Put(t.Context(), "k", 1) })
		if m := k.next("put"); m.ID <= hello.ID {
			t.Errorf("id %d after hello %d: ids must grow over all connections", m.ID, hello.ID)
		}
		k.leave(r)
		if _, err := another.wait(); !errors.Is(err, ErrClosed) || !MayHaveApplied(err) {
			t.Errorf("a put that Close cut short: %v", err)
		}
	})
}

func TestRoom_treats_an_unknown_outcome_as_unanswered(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		put := async(func() (*Written, error) { return r.Put(t.Context(), "a", 1) })
		first := k.next("put")
		k.refuse(first, wire.Errorf(wire.UnknownOutcome, "no leader in time"))
		k.closed()
		k.drop()
		k = s.connection()
		k.welcome("p1", true)
		if m := k.next("put"); m.ID != first.ID {
			t.Errorf("repeated as %d, want %d: only the same id is applied once", m.ID, first.ID)
		}
		k.ok(first, `{"version":1,"rev":11}`)
		if _, err := put.wait(); err != nil {
			t.Error(err)
		}
		k.leave(r)
	})
}

// A repeated request that "was not applied" may have been by its first copy, so
// only its own id can be asked again.
func TestG9_a_repeat_that_was_not_applied_keeps_its_id(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		put := async(func() (*Written, error) { return r.Put(t.Context(), "a", 1) })
		first := k.next("put") // applied, but the answer is lost
		k.drop()
		k = s.connection()
		k.welcome("p1", true)
		k.refuse(k.next("put"), wire.Errorf(wire.Unavailable, "no leader"))
		k.closed()
		k.drop()
		k = s.connection()
		k.welcome("p1", true)
		if m := k.next("put"); m.ID != first.ID {
			t.Errorf("repeated as %d, want %d: it would be applied twice", m.ID, first.ID)
		}
		k.ok(first, `{"version":1,"rev":11}`)
		if w, err := put.wait(); err != nil || w.Rev != 11 {
			t.Error(w, err)
		}
		k.leave(r)
	})
}

func TestRoom_repeats_what_was_not_applied_and_returns_refusals(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		put := async(func() (*Written, error) { return r.Put(t.Context(), "a", 1, IfVersion(3)) })
		first := k.next("put")
		begun := time.Now()
		k.refuse(first, wire.Errorf(wire.RateLimited, "slowly").With("retry_after_ms", 1500))
		second := k.next("put")
		if waited := time.Since(begun); waited < 1500*time.Millisecond {
			t.Errorf("repeated after %v, though asked to wait 1.5 s", waited)
		}
		if second.ID <= first.ID {
			t.Errorf("repeated under id %d after %d: ids must grow on a connection", second.ID, first.ID)
		}
		k.refuse(second, wire.Errorf(wire.Unavailable, "no leader"))
		k.refuse(k.next("put"), wire.Errorf(wire.Conflict, "no").With("exists", true).With("version", 7).With("rev", 9))
		_, err := put.wait()
		now, ok := AsConflict(err)
		if !IsConflict(err) || !ok || now.Version != 7 || now.Rev != 9 || !now.Exists || MayHaveApplied(err) {
			t.Errorf("got %v, %+v", err, now)
		}
		k.leave(r)
	})
}

func TestRoom_tells_a_caller_that_gives_up_what_is_known(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		put := async(func() (*Written, error) { return r.Put(ctx, "a", 1) })
		get := async(func() (*wire.Entry, error) { return r.Get(ctx, "a") })
		<-k.in
		<-k.in
		if _, err := put.wait(); !errors.Is(err, context.DeadlineExceeded) || !MayHaveApplied(err) {
			t.Errorf("put: %v: it was sent", err)
		}
		if _, err := get.wait(); !errors.Is(err, context.DeadlineExceeded) || MayHaveApplied(err) {
			t.Errorf("get: %v: a read changes nothing", err)
		}
		s.setDown(true)
		k.drop()
		synctest.Wait() // the client has noticed
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Put(ctx, "a", 2); !errors.Is(err, context.DeadlineExceeded) || MayHaveApplied(err) {
			t.Errorf("put without a connection: %v: it was never sent", err)
		}
		s.setDown(false)
		k = s.connection()
		k.welcome("p1", true)
		k.silent(time.Minute / 2) // none of the three is sent again
		k.leave(r)
	})
}

func TestRoom_honours_close_codes(t *testing.T) {
	for code, back := range map[int]bool{
		1001: true, wire.CloseSlow: true, wire.CloseDraining: true, wire.CloseNoQuorum: true, wire.CloseTokenExpired: true,
		wire.CloseUnauthenticated: false, wire.CloseForbidden: false, wire.CloseRemoved: false, wire.CloseSessionEnded: false,
		wire.CloseProtocol: false, wire.CloseReplaced: false, wire.CloseTooMany: false,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *scripted, c *Client) {
				r, k := s.join(c, JoinOptions{})
				put := async(func() (*Written, error) { return r.Put(t.Context(), "a", 1) })
				m := k.next("put")
				k.bye(code)
				if back {
					k = s.connection()
					k.welcome("p1", true)
					k.ok(k.next("put"), `{"version":1,"rev":11}`)
					if _, err := put.wait(); err != nil {
						t.Errorf("put %d: %v", m.ID, err)
					}
					k.leave(r)
					return
				}
				<-r.Done()
				var closed *CloseError
				if err := r.Err(); !errors.As(err, &closed) || closed.Code != code {
					t.Errorf("the room ended with %v", err)
				}
				if _, err := put.wait(); !errors.As(err, &closed) || !MayHaveApplied(err) {
					t.Errorf("the put under way ended with %v", err)
				}
				if want := code == wire.CloseSessionEnded; IsSessionEnded(r.Err()) != want {
					t.Errorf("IsSessionEnded is %t", !want)
				}
			})
		})
	}
}

func TestRoom_notices_a_dead_link_by_two_missed_pings(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		time.Sleep(39 * time.Second)
		k.send(`{"rev":11}`)
		heard := time.Now()
		k.closed()
		if d := time.Since(heard); d != 40*time.Second {
			t.Errorf("hung up %v after the last frame, want 40 s", d)
		}
		k.drop()
		k = s.connection()
		k.welcome("p1", true)
		k.leave(r)
	})
}

func TestRoom_backs_off_and_goes_round_the_servers(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		var states []State
		r, k := s.join(c, JoinOptions{OnStatus: func(st Status) { states = append(states, st.State) }})
		s.setDown(true)
		s.mu.Lock()
		before := len(s.dials)
		s.mu.Unlock()
		k.drop()
		time.Sleep(10 * time.Minute)
		s.mu.Lock()
		dials := s.dials[before:]
		s.mu.Unlock()
		// With full jitter up to 5 s it is 2.5 s on average; never more than 5 s.
		if len(dials) < 120 || len(dials) > 600 {
			t.Errorf("%d attempts in ten minutes", len(dials))
		}
		for i := 1; i < len(dials); i++ {
			if dials[i] == dials[i-1] {
				t.Fatalf("dialled %s twice in a row", dials[i])
			}
		}
		s.setDown(false)
		begun := time.Now()
		k = s.connection()
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("came back after %v", d)
		}
		k.welcome("p1", true)
		k.leave(r)
		if states[0] != Connecting || states[1] != Attached || states[2] != Backoff || states[len(states)-1] != Ended {
			t.Errorf("states were %v …", states[:3])
		}
	})
}

func TestRoom_blocks_callers_beyond_the_window(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		var puts []*result[*Written]
		for range 5 { // the window is 4
			puts = append(puts, async(func() (*Written, error) { return r.Put(t.Context(), "a", 1) }))
		}
		var sent []*message
		for range 4 {
			sent = append(sent, k.next("put"))
		}
		k.silent(time.Second)
		k.ok(sent[2], `{"version":1,"rev":11}`)
		last := k.next("put")
		for _, m := range append(sent[:2:2], sent[3], last) {
			k.ok(m, `{"version":1,"rev":12}`)
		}
		for _, p := range puts {
			if _, err := p.wait(); err != nil {
				t.Error(err)
			}
		}
		k.leave(r)
	})
}

func TestRoom_Join_fails_as_told(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		joining := async(func() (*Room, error) { return c.Join(t.Context(), "party", JoinOptions{}) })
		k := s.connection()
		k.refuse(k.next("hello"), wire.Errorf(wire.Unavailable, "no leader"))
		k.closed()
		k.drop()
		k = s.connection()
		k.refuse(k.next("hello"), wire.Errorf(wire.LimitExceeded, "full").With("limit", "peers"))
		if r, err := joining.wait(); r != nil || !HasCode(err, wire.LimitExceeded) {
			t.Errorf("Join gave %v, %v", r, err)
		}
		k.closed()
		k.drop()

		s.setDown(true)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := c.Join(ctx, "party", JoinOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Join without servers: %v", err)
		}
		c.Close()
		if _, err := c.Join(t.Context(), "party", JoinOptions{}); !errors.Is(err, ErrClosed) {
			t.Errorf("Join on a closed client: %v", err)
		}
	})
}

func TestRoom_Leave_is_answered_and_not_come_back_from(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		leaving := async(func() (bool, error) { return true, r.Leave(t.Context()) })
		k.ok(k.next("leave"), `{}`)
		k.closed()
		k.drop()
		if _, err := leaving.wait(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // no connection() waits: a client that came back would block the bubble
	})
}

func TestRoom_observers_follow_the_room_into_its_next_session(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		observing := async(func() (*Room, error) { return c.Observe(t.Context(), "party", nil) })
		k := s.connection()
		m := k.next("hello")
		welcome := `{"session":%s,"rev":10,"node":"n1","peer_resumed":false,"stream_resumed":false,"grace_ms":0,"ping_ms":20000,"window":4}`
		k.ok(m, fmt.Sprintf(welcome, `"s1"`))
		r, err := observing.wait()
		if err != nil || !m.Observe || r.Peer() != "" {
			t.Fatalf("observe %t, peer %q, %v", m.Observe, r.Peer(), err)
		}
		k.drop()
		k = s.connection()
		m = k.next("hello")
		if m.Resume == nil || m.Resume.Session != "s1" || m.Resume.Peer != "" {
			t.Errorf("resumes %+v", m.Resume)
		}
		k.refuse(m, wire.Errorf(wire.SessionEnded, "over"))
		k.bye(wire.CloseSessionEnded)
		k = s.connection()
		if m = k.next("hello"); m.Resume != nil {
			t.Errorf("resumes %+v, which is over", m.Resume)
		}
		k.ok(m, fmt.Sprintf(welcome, "null"))
		k.leave(r)
	})
}

// A stale read on another node waits until that has what this room has seen, in
// answers as in its stream.
func TestG11_stale_reads_never_go_behind_what_was_seen(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		stale := func(want uint64) {
			t.Helper()
			get := async(func() (*wire.Entry, error) { return r.Get(t.Context(), "a", Stale()) })
			m := k.next("get")
			if m.MinRev != want {
				t.Errorf("a stale read waits for %d, want %d", m.MinRev, want)
			}
			k.ok(m, `{"entry":{"key":"a","value":1,"version":1,"rev":5},"rev":12}`)
			if _, err := get.wait(); err != nil {
				t.Error(err)
			}
		}
		stale(10) // what the hello said
		put := async(func() (*Written, error) { return r.Put(t.Context(), "a", 1) })
		k.ok(k.next("put"), `{"version":1,"rev":50}`)
		put.wait()
		stale(50)
		k.drop()
		k = s.connection()
		k.welcome("p1", true)
		stale(50)
		k.send(`{"rev":60}`)
		synctest.Wait()
		stale(60)
		k.leave(r)
	})
}

// A goodbye is short, whatever the server does meanwhile.
func TestRoom_Close_does_not_wait_for_a_server_that_goes_on(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		k.ws.SetCloseHandler(func(int, string) error { return nil }) // no answer
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for k.ws.WriteMessage(websocket.TextMessage, []byte(`{"rev":11}`)) == nil {
				time.Sleep(100 * time.Millisecond)
			}
		}()
		time.Sleep(time.Minute)
		begun := time.Now()
		r.Close()
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("Close took %v", d)
		}
		<-stop
		k.drop()
	})
}
