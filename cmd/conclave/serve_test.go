package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"conclave/client"
)

// one makes a cluster of one node, which is not started.
func one(t *testing.T, args ...string) (*testCluster, *testNode) {
	c := &testCluster{t: t}
	return c, c.add("n1", append([]string{"--bootstrap-expect", "1"}, args...)...)
}

// serveAgain runs a second `serve` to its end and returns its exit code and output.
func serveAgain(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, append([]string{"serve"}, args...)...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("it went on: %s", out)
	}
	return exitStatus(err), string(out)
}

func TestServe_refuses_a_data_folder_in_use_or_of_another_node(t *testing.T) {
	_, n := one(t)
	n.start()
	n.ready()
	code, out := serveAgain(t, "--id", "n1", "--data", n.data, "--http", freeAddr(t), "--peer", freeAddr(t))
	if code != exitUnavailable || !strings.Contains(out, n.data) {
		t.Errorf("a second process on one folder: exit code %d: %s", code, out)
	}
	code, out = serveAgain(t, "--id", "n2", "--data", t.TempDir(), "--http", n.http, "--peer", freeAddr(t))
	if code != exitUnavailable || !strings.Contains(out, n.http) {
		t.Errorf("a port in use: exit code %d: %s", code, out)
	}
	if code := n.stop(); code != 0 {
		t.Errorf("the first exited with %d", code)
	}
	code, out = serveAgain(t, "--id", "n2", "--data", n.data, "--http", freeAddr(t), "--peer", freeAddr(t))
	if code != exitUnavailable || !strings.Contains(out, "n1") {
		t.Errorf("another node's folder: exit code %d: %s", code, out)
	}
}

// A data folder keeps its log store: another one is a mistake in the command line, which
// no restart mends, and changes nothing.
func TestServe_refuses_another_log_store(t *testing.T) {
	c, n := one(t, "--log-store", "wal")
	n.start()
	n.ready()
	c.open("kept")
	if _, err := c.http(0).Put(t.Context(), "kept", "key", "value", client.WriteParams{}); err != nil {
		t.Fatal(err)
	}
	n.kill()
	for store, want := range map[string]string{
		"bolt": "its log store is wal, not bolt; a node keeps its log store: to change it, have the node leave",
		"lsm":  `--log-store: want bolt or wal, got "lsm"`,
	} {
		code, out := serveAgain(t, "--id", "n1", "--data", n.data, "--http", n.http, "--peer", n.peer, "--log-store", store)
		if code != exitUsage || !strings.Contains(out, want) {
			t.Errorf("--log-store %s: exit code %d: %s", store, code, out)
		}
	}
	n.start()
	n.ready()
	if e, err := c.http(0).Get(t.Context(), "kept", "key", client.ReadParams{}); err != nil || string(e.Value) != `"value"` {
		t.Errorf("got %v, %v", e, err)
	}
}

// A disk that is too slow ends the node, with a reason: while it opens, or later.
func TestServe_stops_itself_when_the_disk_is_too_slow(t *testing.T) {
	_, n := one(t, "--disk-limit", "1ns")
	n.start()
	if code := n.wait(); code != exitUnavailable {
		t.Errorf("exit code %d, want %d", code, exitUnavailable)
	}
	if log := n.log.String(); !strings.Contains(log, "has not returned for 1ns") {
		t.Errorf("no reason on stderr: %s", log)
	}
}

// The second signal ends a node at once, while the first one's stop waits for a
// client that does not finish its request. Nothing acknowledged is lost.
func TestServe_second_signal_ends_at_once(t *testing.T) {
	c, n := one(t, "--stop-timeout", "10m")
	n.start()
	n.ready()
	if _, err := c.http(0).Put(t.Context(), "demo", "x", 1, client.WriteParams{Open: time.Hour}); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", n.http)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /v1/rooms/demo/stores/default/keys/y HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1")

	n.signal(syscall.SIGTERM)
	eventually(t, "the node begins to stop", func() bool { return strings.Contains(n.log.String(), "stopping") })
	eventually(t, "a second signal ends the node", func() bool {
		n.cmd.Process.Signal(syscall.SIGTERM) // an error: it has ended
		select {
		case <-n.ended:
			return true
		default:
			return false
		}
	})
	if code := n.wait(); code != -1 {
		t.Errorf("exit code %d, want an end by the second signal", code)
	}
	n.start()
	n.ready()
	e, err := c.http(0).Get(t.Context(), "demo", "x", client.ReadParams{})
	if err != nil || string(e.Value) != "1" {
		t.Errorf("after the restart: %v, %v", e, err)
	}
}
