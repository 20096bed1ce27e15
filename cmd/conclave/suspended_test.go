package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// A watch that is suspended (a laptop's lid is closed) while a room's session ends
// and its next one begins is told by a reset, and prints nothing of the first
// session behind it: whether its connection is still there when it wakes, with
// what was sent before in it, or its node has been restarted meanwhile.
func TestG10_a_suspended_watch_wakes_up_in_the_next_session(t *testing.T) {
	c, n := one(t)
	n.start()
	n.ready()
	h := c.http(0)
	const first, second = "FIRST", "SECOND"
	open := func(room, value string) string {
		t.Helper()
		info, err := h.OpenRoom(t.Context(), room, client.OpenParams{
			Idle: time.Hour, Stores: map[string]map[string]any{"default": {"pinned": value, value: value}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return info.Session
	}
	put := func(room, key, value string) {
		t.Helper()
		if _, err := h.Put(t.Context(), room, key, value, client.WriteParams{}); err != nil {
			t.Fatal(err)
		}
	}
	for room, meanwhile := range map[string]func(){
		"connected": func() {},
		"cut-off": func() {
			n.stop()
			n.start()
			n.ready()
		},
	} {
		t.Run(room, func(t *testing.T) {
			open(room, first)
			var out, errs lockedBuffer
			watch := exec.Command(binary, "watch", room, "--json", "--server", n.url())
			watch.SysProcAttr = childAttr()
			watch.Stdout, watch.Stderr = &out, &errs
			if err := watch.Start(); err != nil {
				t.Fatal(err)
			}
			defer watch.Wait()
			defer watch.Process.Kill()
			prints := func(text string) {
				t.Helper()
				eventually(t, "the watch prints "+text, func() bool { return strings.Contains(out.String(), text) })
			}
			prints(first)
			put(room, "live", first+" live")
			prints(first + " live")

			watch.Process.Signal(syscall.SIGSTOP)
			for i := range 20 {
				put(room, fmt.Sprint(first, i), first+strings.Repeat("x", 4000))
			}
			if err := h.EndRoom(t.Context(), room, ""); err != nil {
				t.Fatal(err)
			}
			session := open(room, second)
			meanwhile()
			watch.Process.Signal(syscall.SIGCONT)
			put(room, "last", second+" last")
			prints(second + " last")

			_, after, told := strings.Cut(out.String(), `{"reset":"session"`)
			if !told {
				t.Fatalf("the watch was not told by a reset: %.3000s %s", &out, &errs)
			}
			if i := strings.Index(after, first); i >= 0 {
				t.Errorf("after the reset it printed of the first session: %.200s", after[i:])
			}
			after = `{"reset":"session"` + after
			state := map[string]string{}
			for line := range strings.Lines(after) {
				var u struct {
					Snapshot *wire.Snapshot
					Events   []wire.Event
				}
				if err := json.Unmarshal([]byte(line), &u); err != nil {
					t.Fatalf("%v: %.200s", err, line)
				}
				if u.Snapshot != nil {
					if u.Snapshot.Session != session {
						t.Errorf("the reset's snapshot is of session %q, want %q", u.Snapshot.Session, session)
					}
					clear(state)
					for _, e := range u.Snapshot.Stores["default"] {
						state[e.Key] = string(e.Value)
					}
				}
				for _, e := range u.Events {
					if e.Type == "put" {
						state[e.Key] = string(e.Value)
					}
				}
			}
			if got := fmt.Sprint(state); got != `map[SECOND:"SECOND" last:"SECOND last" pinned:"SECOND"]` {
				t.Errorf("it knows %s", got)
			}
		})
	}
}
