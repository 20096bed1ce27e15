package main

import (
	"fmt"
	"strings"
	"testing"

	"conclave/client"

	"github.com/google/go-cmp/cmp"
)

// What `send` sends comes to those whom its flags name, and to nobody else.
func TestSend_reaches_whom_its_flags_name(t *testing.T) {
	c, n := one(t)
	n.start()
	n.ready()
	ada := n.joins("demo", client.JoinOptions{Ref: "u1"})
	bob := n.joins("demo", client.JoinOptions{Ref: "u2"})
	watch := func(r *client.Room) *client.Watch {
		w, err := r.Watch(t.Context(), client.Messages())
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	ofAda, ofBob := watch(ada), watch(bob)
	for _, args := range [][]string{
		{"chat", `{"to":"all"}`},
		{"chat", "ada", "--string", "--to-peer", ada.Peer()},
		{"chat", `"bob"`, "--to-ref", "u2,u3", "--json"},
		{"chat", `"nobody"`, "--to-role", "host"},
		{"chat", `"end"`},
	} {
		out, errs, code := c.conclave(c.urls(0), append([]string{"send", "demo"}, args...)...)
		if code != exitDone || !strings.Contains(out, "rev") {
			t.Errorf("send %v: exit code %d: %s%s", args, code, out, errs)
		}
	}
	got := func(w *client.Watch) (messages []string) {
		for u, err := range w.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range u.Events {
				if string(e.Data) == `"end"` {
					return messages
				}
				messages = append(messages, fmt.Sprintf("%s %s", e.Topic, e.Data))
			}
		}
		return messages
	}
	if diff := cmp.Diff([]string{`chat {"to":"all"}`, `chat "ada"`}, got(ofAda)); diff != "" {
		t.Errorf("ada got (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`chat {"to":"all"}`, `chat "bob"`}, got(ofBob)); diff != "" {
		t.Errorf("bob got (-want +got):\n%s", diff)
	}
}
