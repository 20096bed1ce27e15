package fsm

import (
	"slices"
	"testing"
)

// TestEvent_For: who gets a message is a question of the event and of a peer as it
// is, so a resume is answered like a live watcher.
func TestEvent_For(t *testing.T) {
	peer := func(id, ref, role string, joined uint64) *Peer {
		return &Peer{ID: id, Ref: ref, Role: role, JoinedRev: joined}
	}
	ada, bob, nobody := peer("p1", "u1", "host", 1), peer("p2", "u2", "guest", 2), peer("p3", "", "", 3)
	late := peer("p9", "u2", "host", 9)
	everyone := []*Peer{ada, bob, nobody, late, nil}
	for _, test := range []struct {
		name string
		to   *Recipients
		want []*Peer
	}{
		{"all other events are for all", nil, everyone},
		{"a broadcast is for all but its sender and who came later", &Recipients{Sender: "p1"}, []*Peer{bob, nobody, nil}},
		{"a sender that asks gets it", &Recipients{Sender: "p1", Echo: true}, []*Peer{ada, bob, nobody, nil}},
		{"a server's message has no sender among the peers", &Recipients{}, []*Peer{ada, bob, nobody, nil}},
		{"by peer", &Recipients{Sender: "p1", Peers: []string{"p3", "p9", "p7"}}, []*Peer{nobody}},
		{"by ref", &Recipients{Sender: "p1", Refs: []string{"u2", ""}}, []*Peer{bob}},
		{"by role", &Recipients{Sender: "p2", Roles: []string{"host", ""}}, []*Peer{ada}},
		{"any of the lists", &Recipients{Sender: "p3", Peers: []string{"p1"}, Roles: []string{"guest"}}, []*Peer{ada, bob}},
		{"the sender is not an addressee unless it asks", &Recipients{Sender: "p1", Peers: []string{"p1", "p2"}}, []*Peer{bob}},
		{"who asks gets it, whoever it is for", &Recipients{Sender: "p1", Peers: []string{"p2"}, Echo: true}, []*Peer{ada, bob}},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := &Event{Type: EventMessage, Rev: 5, To: test.to}
			for _, p := range everyone {
				if got, want := e.For(p), slices.Contains(test.want, p); got != want {
					t.Errorf("%+v: %v, want %v", p, got, want)
				}
			}
		})
	}
}

// TestMessage_ReplayedToWhoResumes: a message is in the ring like any event, for a
// peer that comes back within its grace, and not for one that joined since. It is
// not stored: a snapshot knows nothing of it.
func TestMessage_ReplayedToWhoResumes(t *testing.T) {
	d := newDriven(t)
	apply := func(cmds ...Command) []Result {
		d.m.Apply(d.commands(cmds...))
		return d.last().Batches[0].Results
	}
	join := func(key string) Command {
		cmd := joinCommand("r")
		cmd.Join.Key = key
		return cmd
	}
	peers := apply(join("a"), join("b"))
	ada, bob := Caller{Kind: CallerPeer, Peer: peers[0].Peer, Gen: peers[0].Gen}, peers[1].Peer
	seen := d.m.View().Rev()
	before := d.m.View().Session("r").Counts()
	send := func(data string) Command {
		return single("r", ada, Operation{Kind: OpSend, Message: &Message{Topic: "chat", Data: []byte(data)}})
	}
	results := apply(
		Command{Kind: CommandDetach, Room: "r", Target: bob, Caller: Caller{Kind: CallerPeer, Peer: bob, Gen: peers[1].Gen}},
		send(`"one"`), single("r", ada, putOp("k", "1")), join("c"), send(`"two"`),
	)
	late := results[3].Peer
	apply(Command{Kind: CommandAttach, Room: "r", Attach: &Attach{Peer: bob, Key: "b", Node: "n1", Incarnation: 1}})

	view := d.m.View()
	got := func(peer string) (data []string) {
		frames, _, ok := d.m.Ring("r").After(seen, view.Rev(), 1<<20)
		if !ok {
			t.Fatal("the ring has a gap")
		}
		for _, f := range frames {
			for _, e := range f.Events {
				if e.Type == EventMessage && e.For(view.Session("r").Peer(peer)) {
					if e.Rev != f.Rev || e.By.Peer != ada.Peer || e.Topic != "chat" {
						t.Errorf("%+v", e)
					}
					data = append(data, string(e.Data))
				}
			}
		}
		return data
	}
	for peer, want := range map[string][]string{bob: {`"one"`, `"two"`}, late: {`"two"`}, ada.Peer: nil} {
		if data := got(peer); !slices.Equal(data, want) {
			t.Errorf("%s gets %q, want %q", peer, data, want)
		}
	}
	if after := view.Session("r").Counts(); after.Bytes != before.Bytes+2 || after.Keys != 1 {
		t.Errorf("messages are stored: %+v after %+v", after, before)
	}
}

func TestMessage_Limits(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	send := func(m Message) Result {
		return w.one(single("r", ada, Operation{Kind: OpSend, Message: &m}))
	}
	full := make([]byte, standardLimits.MessageBytes)
	if r := send(Message{Topic: "t", Data: full}); r.Refusal != nil || !r.Changed {
		t.Errorf("a message of just the limit: %+v", r.Refusal)
	}
	if r := send(Message{Topic: "t", Data: append(full, 'x')}); code(r) != CodeLimitExceeded || r.Refusal.Details.Limit != "message_bytes" ||
		r.Refusal.Details.Max != 4<<10 || r.Refusal.Details.Actual != 4<<10+1 {
		t.Errorf("a byte more: %+v", r.Refusal)
	}
	for name, m := range map[string]Message{
		"no topic": {Data: []byte("1")}, "no data": {Topic: "t"}, "an empty name": {Topic: "t", Data: []byte("1"), Roles: []string{""}},
		"a NUL": {Topic: "t\x00", Data: []byte("1")}, "no UTF-8 name": {Topic: "t", Data: []byte("1"), Refs: []string{"a\x00"}},
		"too many": {Topic: "t", Data: []byte("1"), Peers: slices.Repeat([]string{"p"}, MaxRecipients+1)},
	} {
		if r := send(m); code(r) != CodeBadRequest {
			t.Errorf("%s: %+v", name, r.Refusal)
		}
	}
	if r := w.one(single("r", ada, Operation{Kind: OpSend})); code(r) != CodeBadRequest {
		t.Errorf("no message: %+v", r.Refusal)
	}
}
