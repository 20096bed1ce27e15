package client

import (
	"fmt"
	"testing"

	"conclave/client/wire"
)

func TestRoom_Send_says_whom_a_message_is_for(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		ctx := t.Context()
		r, k := s.join(c, JoinOptions{})
		for _, test := range []struct {
			opts []SendOption
			want string
		}{
			{nil, `{"do":"send","data":{"x":1},"topic":"chat"}`},
			{[]SendOption{Echo()}, `{"do":"send","data":{"x":1},"topic":"chat","echo":true}`},
			{
				[]SendOption{ToPeers("p2", "p3"), ToRefs("r"), ToRoles("host"), ToPeers("p4")},
				`{"do":"send","data":{"x":1},"topic":"chat","to":{"peers":["p2","p3","p4"],"refs":["r"],"roles":["host"]}}`,
			},
		} {
			sending := async(func() (uint64, error) { return r.Send(ctx, "chat", map[string]int{"x": 1}, test.opts...) })
			m := k.next("send")
			if m.body != test.want {
				t.Errorf("sent %s\nwant %s", m.body, test.want)
			}
			k.ok(m, `{"rev":30}`)
			if rev, err := sending.wait(); err != nil || rev != 30 {
				t.Errorf("answered %d, %v", rev, err)
			}
		}
		// An empty list of recipients must not become everybody.
		if _, err := r.Send(ctx, "chat", 1, ToPeers()); !HasCode(err, wire.BadRequest) {
			t.Errorf("a message for nobody: %v", err)
		}
		k.leave(r)
	})
}

func TestRoom_RemovePeer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		removing := async(func() (bool, error) { return true, r.RemovePeer(t.Context(), "p2") })
		m := k.next("remove_peer")
		if want := `{"do":"remove_peer","peer":"p2"}`; m.body != want {
			t.Errorf("sent %s\nwant %s", m.body, want)
		}
		k.refuse(m, wire.Errorf(wire.NotFound, "no peer p2"))
		if _, err := removing.wait(); !IsNotFound(err) {
			t.Errorf("answered %v", err)
		}
		k.leave(r)
	})
}

// What a peer has said of itself since it joined is what it joins with anew; what
// was refused, or not said, is not.
func TestRoom_SetSelf_holds_for_the_next_peer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		ctx := t.Context()
		r, k := s.join(c, JoinOptions{Name: "Ada", Ref: "u1", Data: 1})
		setting := async(func() (bool, error) {
			return true, r.SetSelf(ctx, Self{Name: new(""), Data: map[string]int{"hand": 2}})
		})
		m := k.next("set_self")
		if want := `{"do":"set_self","name":"","data":{"hand":2}}`; m.body != want {
			t.Errorf("sent %s\nwant %s", m.body, want)
		}
		k.ok(m, `{"rev":12}`)
		if _, err := setting.wait(); err != nil {
			t.Error(err)
		}
		setting = async(func() (bool, error) { return true, r.SetSelf(ctx, Self{Ref: new("u2")}) })
		k.refuse(k.next("set_self"), wire.Errorf(wire.Forbidden, "not yours"))
		if _, err := setting.wait(); !HasCode(err, wire.Forbidden) {
			t.Errorf("a refusal came as %v", err)
		}
		k.drop()
		k = s.connection()
		if m := k.welcome("p2", false); m.Name != "" || m.Ref != "u1" || string(m.Data) != `{"hand":2}` {
			t.Errorf("joined anew as %q, %q with %s", m.Name, m.Ref, m.Data)
		}
		k.leave(r)
	})
}

// The servers remember the answer to a request that reached the peer before this
// one; it says nothing of this one.
func TestRoom_SetSelf_is_asked_again_of_a_new_peer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{Name: "Ada"})
		setting := async(func() (bool, error) { return true, r.SetSelf(t.Context(), Self{Name: new("Bob")}) })
		first := k.next("set_self") // applied, but the answer is lost, and the peer's grace runs out
		k.drop()
		k = s.connection()
		k.welcome("p2", false)
		repeated := k.next("set_self")
		if repeated.ID != first.ID {
			t.Errorf("repeated as %d, want %d", repeated.ID, first.ID)
		}
		k.ok(repeated, fmt.Sprintf(`{"rev":%d}`, 12))
		again := k.next("set_self")
		if again.ID <= first.ID || again.body != first.body {
			t.Errorf("asked %d %s, want what %d said as a new request", again.ID, again.body, first.ID)
		}
		if !setting.pending() {
			t.Error("SetSelf has returned though the new peer may not have the name")
		}
		k.ok(again, `{"rev":13}`)
		if _, err := setting.wait(); err != nil {
			t.Error(err)
		}
		k.leave(r)
	})
}
