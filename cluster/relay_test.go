package cluster

import (
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// A connection that broke may bring its last requests after those of the next one.
// A node that started anew begins to count anew.
func TestRelay_IgnoresWhatAnOldConnectionBringsLate(t *testing.T) {
	r := newRelay(nil)
	var got []string
	take := func(es []*Ephemeral) { got = append(got, texts(es)...) }
	r.takers = append(r.takers, &take)
	for _, req := range []struct {
		from                string
		incarnation, number uint64
		text                string
		want                bool
	}{
		{"n1.a", 4, 7, "ada/t 1", true},
		{"n1.a", 4, 9, "ada/t 2", true},
		{"n1.a", 4, 8, "ada/t late", false},
		{"n1.a", 4, 9, "ada/t twice", false},
		{"n2.b", 1, 1, "bob/t 1", true},
		{"n1.a", 5, 1, "ada/t 3", true},
		{"n1.a", 4, 10, "ada/t of before the restart", false},
	} {
		m := []*Ephemeral{note(req.text)}
		if ok := r.take(raft.ServerID(req.from), relayRequest{Incarnation: req.incarnation, Number: req.number}, m); ok != req.want {
			t.Errorf("%s: taken %t, want %t", req.text, ok, req.want)
		}
	}
	if want := []string{"ada/t 1", "ada/t 2", "bob/t 1", "ada/t 3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Messages that are no messages are refused whole, from whomever they come.
func TestEphemeral_ChecksWhatOtherNodesSend(t *testing.T) {
	for name, spoil := range map[string]func(e *Ephemeral){
		"no room":    func(e *Ephemeral) { e.Room = "" },
		"no session": func(e *Ephemeral) { e.Session = "" },
		"no sender":  func(e *Ephemeral) { e.By.Kind = 99 },
		"no topic":   func(e *Ephemeral) { e.Message.Topic = "" },
		"no data":    func(e *Ephemeral) { e.Message.Data = nil },
		"no names":   func(e *Ephemeral) { e.Message.Refs = []string{"\xff"} },
	} {
		e := note("ada/t 1")
		if err := e.check(); err != nil {
			t.Fatal(err)
		}
		if spoil(e); e.check() == nil {
			t.Errorf("%s: is taken", name)
		}
	}
}
