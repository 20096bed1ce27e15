package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"conclave/client"

	"github.com/gorilla/websocket"
)

// When the lock is broken, `conclave lock` ends its command: first SIGTERM, then,
// since this one does not listen, SIGKILL.
func TestLock_ends_its_command_when_the_lock_is_lost(t *testing.T) {
	c, n := one(t)
	n.start()
	n.ready()
	dir := t.TempDir()
	script := `trap 'touch term' TERM; echo $$ >pid; touch ready; while :; do sleep 0.02; done`
	cmd := exec.Command(binary, "lock", "demo", "stage", "--server", n.url(), "--ttl", "3s", "--grace", "1s", "--", "sh", "-c", script)
	cmd.Dir = dir
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exists := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	}
	eventually(t, "the command runs", exists("ready"))
	if err := c.http(0).Break(t.Context(), "demo", "default", "stage"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command is told", exists("term"))
	if code := exitStatus(cmd.Wait()); code != exitRefused || !strings.HasPrefix(out.String(), "not_holder: ") {
		t.Errorf("exit code %d, want %d: %s", code, exitRefused, &out)
	}
	text, _ := os.ReadFile(filepath.Join(dir, "pid"))
	var pid int
	fmt.Sscan(string(text), &pid)
	if pid == 0 || alive(pid) {
		t.Errorf("the command (%d) still runs", pid)
	}
}

// The CLI's watch goes on at the next server when its own dies: every version
// once, in order.
func TestG7_the_command_line_watches_across_the_death_of_its_node(t *testing.T) {
	c := startCluster(t, 3)
	c.open("demo")
	cmd := exec.Command(binary, "watch", "demo", "spotlight", "--server", strings.Join(c.urls(1), ","), "--json", "--count", "20")
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	eventually(t, "the watch has begun", func() bool { return strings.Contains(out.String(), "snapshot") })

	h := c.http(0)
	for i := range 20 {
		if i == 10 {
			c.nodes[1].kill()
		}
		if _, err := h.Put(t.Context(), "demo", "spotlight", i, client.WriteParams{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("watch: %v: %s", err, &out)
	}
	version := uint64(0)
	for line := range strings.Lines(out.String()) {
		var u struct {
			Reset  string
			Events []struct{ Version uint64 }
		}
		if err := json.Unmarshal([]byte(line), &u); err != nil || u.Reset != "" {
			t.Errorf("%v: %s", err, line)
		}
		for _, e := range u.Events {
			if version++; e.Version != version {
				t.Errorf("version %d came in place of %d", e.Version, version)
			}
		}
	}
	if version != 20 {
		t.Errorf("%d versions came, want 20", version)
	}
}

// One socket sends puts and gets without awaiting answers, while the leader, which
// is another node, is killed. The puts take effect in the order sent, and every
// get sees all puts sent before it.
func TestG11_a_connections_writes_keep_their_order_while_the_leader_dies(t *testing.T) {
	const puts = 1500
	c := startCluster(t, 3)
	// All puts are within the burst that one peer has there.
	if _, err := c.http(0).OpenRoom(t.Context(), "order", client.OpenParams{Profile: "large"}); err != nil {
		t.Fatal(err)
	}
	leader := c.leader()
	at := c.other(leader)
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+at.http+"/v1/rooms/order/socket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"do":"hello","v":1,"client":"order-test"}`)); err != nil {
		t.Fatal(err)
	}

	// The request with id 2n is the n-th put, 2n+1 the get after it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan error, 1)
	go func() {
		for n := 1; n <= puts; n++ {
			for _, request := range []string{
				fmt.Sprintf(`{"id":%d,"do":"put","key":"k","value":%d}`, 2*n, n),
				fmt.Sprintf(`{"id":%d,"do":"get","key":"k"}`, 2*n+1),
			} {
				if err := conn.WriteMessage(websocket.TextMessage, []byte(request)); err != nil {
					sent <- err
					return
				}
			}
		}
		sent <- nil
	}()
	context.AfterFunc(ctx, func() { conn.Close() })

	answered, put := 0, 0
	for answered < 2*puts {
		conn.SetReadDeadline(time.Now().Add(patience))
		_, data, err := conn.ReadMessage()
		if err != nil {
			t.Fatalf("after %d answers: %v", answered, err)
		}
		var a struct {
			ID    int
			Error json.RawMessage
			OK    struct {
				Version uint64
				Entry   *struct{ Value, Version int }
			}
		}
		if err := json.Unmarshal(data, &a); err != nil {
			t.Fatal(err)
		}
		if a.Error != nil {
			t.Fatalf("request %d: %s", a.ID, a.Error)
		}
		if a.ID < 2 {
			continue // the hello, a bookmark
		}
		answered++
		if n := a.ID / 2; a.ID%2 == 0 {
			if put++; n != put || a.OK.Version != uint64(n) {
				t.Fatalf("put %d, answered as number %d, made version %d", n, put, a.OK.Version)
			}
		} else if e := a.OK.Entry; e == nil || e.Value < n || e.Value != e.Version {
			t.Fatalf("the get after put %d saw %+v", n, e)
		}
		if answered == puts {
			leader.signal(syscall.SIGKILL)
			leader.kill()
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// A holder is paused for longer than its lease. Another gets the lock; what the
// first one's command writes afterwards, with its fence, is refused, and it is
// ended when its holder wakes.
func TestG4_a_paused_holder_cannot_write_afterwards(t *testing.T) {
	c, n := one(t)
	n.start()
	n.ready()
	dir := t.TempDir()
	script := `trap 'touch ended; exit 0' TERM
		touch ready; until test -e go; do sleep 0.02; done
		` + binary + ` put demo stage '"late"' --server ` + n.url() + ` --fence $CONCLAVE_LOCK_FENCE --owner $CONCLAVE_LOCK_OWNER; echo $? >code
		while :; do sleep 0.02; done`
	cmd := exec.Command(binary, "lock", "demo", "stage", "--server", n.url(), "--ttl", "1s", "--", "sh", "-c", script)
	cmd.Dir = dir
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exists := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	}
	eventually(t, "the command runs", exists("ready"))
	cmd.Process.Signal(syscall.SIGSTOP) // the holder; its command runs on
	defer cmd.Process.Kill()

	next, err := c.http(0).Lock(t.Context(), "demo", "stage", client.LockParams{Wait: patience})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the late write was answered", exists("code"))
	if code, _ := os.ReadFile(filepath.Join(dir, "code")); strings.TrimSpace(string(code)) != "1" || !strings.Contains(out.String(), "stale_fence: ") {
		t.Errorf("the late write: exit code %s: %s", code, &out)
	}
	if _, err := next.Put(t.Context(), "mine"); err != nil {
		t.Errorf("the new holder's write: %v", err)
	}

	cmd.Process.Signal(syscall.SIGCONT)
	if code := exitStatus(cmd.Wait()); code == 0 || !strings.Contains(out.String(), "lock on stage lost") {
		t.Errorf("the old holder exited with %d: %s", code, &out)
	}
	if !exists("ended")() {
		t.Error("the old holder's command was not told")
	}
}
