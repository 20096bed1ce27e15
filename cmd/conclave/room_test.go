package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"conclave/client"
	"conclave/client/wire"

	"github.com/google/go-cmp/cmp"
)

// joins makes a peer of a room that lasts as long as the test.
func (n *testNode) joins(room string, opts client.JoinOptions) *client.Room {
	n.t.Helper()
	c, err := client.Dial(n.t.Context(), client.Config{Servers: []string{n.url()}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	r, err := c.Join(n.t.Context(), room, opts)
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

// The table has what each peer says of itself, but what it says cannot break the
// table or act on the terminal.
func TestPeers_shows_who_is_in_a_room(t *testing.T) {
	c, n := one(t)
	n.start()
	n.ready()
	ada := n.joins("demo", client.JoinOptions{Name: "Ada", Ref: "u1", Data: map[string]bool{"hand": true}})
	odd := n.joins("demo", client.JoinOptions{Name: "a\tb\n\x1b[2J"})

	out, errs, code := c.conclave(c.urls(0), "peers", "demo", "--json")
	var got struct{ Peers []wire.Peer }
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitDone {
		t.Fatalf("exit code %d: %s%s %v", code, out, errs, err)
	}
	names := map[string]string{}
	for _, p := range got.Peers {
		names[p.Peer] = p.Name + p.Ref + string(p.Data)
	}
	want := map[string]string{ada.Peer(): `Adau1{"hand":true}`, odd.Peer(): "a\tb\n\x1b[2J"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("--json (-want +got):\n%s", diff)
	}

	out, errs, code = c.conclave(c.urls(0), "peers", "demo")
	if code != exitDone {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	for _, line := range []string{
		`PEER +NAME +REF +ROLE +STATE +JOINED +DATA`,
		regexp.QuoteMeta(ada.Peer()) + ` +Ada +u1 +\S+ +attached +20\S+Z +\{"hand":true\}`,
		regexp.QuoteMeta(odd.Peer()) + ` +a�b��\[2J +- +\S+ +attached +20\S+Z +-`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(out) {
			t.Errorf("no line %s in\n%s", line, out)
		}
	}
	if n := strings.Count(out, "\n"); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, out)
	}

	for _, test := range []struct {
		want string // a line
		line []string
	}{
		{ada.Peer() + "\tAda", []string{"put", "demo", "k", "1", "--bind", ""}},
		{odd.Peer() + "\ta�b��[2J", []string{"send", "demo", "chat", "1", "--to-peer", ""}},
		{"u1", []string{"send", "demo", "chat", "1", "--to-ref", ""}},
	} {
		cmd := exec.Command(binary, append([]string{"__complete"}, test.line...)...)
		cmd.Env = append(os.Environ(), "CONCLAVE_SERVER="+n.url())
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains("\n"+string(out), "\n"+test.want+"\n") {
			t.Errorf("%v completes as %q, want a line %q", test.line, out, test.want)
		}
	}

	out, _, code = c.conclave(c.urls(0), "room", "list")
	if code != exitDone || !regexp.MustCompile(`(?m)^demo +2 +20\S+Z +`+regexp.QuoteMeta(ada.Session())+`$`).MatchString(out) {
		t.Errorf("exit code %d, and the room is not listed with its peers:\n%s", code, out)
	}
}

// Who is in a room when it is ended learns that it is over.
func TestRoomEnd_tells_the_peers(t *testing.T) {
	c, n := one(t)
	n.start()
	n.ready()
	ada := n.joins("demo", client.JoinOptions{})
	if _, errs, code := c.conclave(c.urls(0), "room", "end", "demo", "--session", ada.Session()); code != exitDone {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	eventually(t, "the peer is told", func() bool { return client.IsSessionEnded(ada.Err()) })
}
