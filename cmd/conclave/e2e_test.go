package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// open starts a session and keeps it: a peer joins that stays to the end.
func (c *testCluster) open(room string) {
	c.t.Helper()
	if _, err := c.dial().Join(c.t.Context(), room, client.JoinOptions{Name: "keeper"}); err != nil {
		c.t.Fatal(err)
	}
}

// The leader's process is killed under load, twice. No acknowledged write is
// lost or doubled, and watchers that began at each node see every version.
func TestG1_killed_leaders_lose_no_acknowledged_write(t *testing.T) {
	c := startCluster(t, 3)
	c.open("load")
	var watchers []*watcher
	for i := range c.nodes {
		watchers = append(watchers, c.watch("load", i))
	}
	l := c.startLoad("load", 3)
	l.more(100)
	for range 2 {
		leader := c.leader()
		leader.kill()
		l.more(150) // with two of three nodes
		leader.start()
		leader.ready()
		l.more(50)
	}
	l.finish()
	l.check(c.http(0))
	for _, w := range watchers {
		for _, wr := range l.writers {
			eventually(t, w.name+" sees all of "+wr.key, func() bool { return w.reached(wr.key, uint64(wr.acked.Load())) })
		}
		w.check(t)
	}
}

// All nodes are killed at once under load. What was acknowledged is there when
// they are back.
func TestG1_killing_all_nodes_loses_no_acknowledged_write(t *testing.T) {
	withLogStores(t, killAllNodes)
}

func killAllNodes(t *testing.T, store string) {
	c := startCluster(t, 3, "--log-store", store)
	c.open("load")
	l := c.startLoad("load", 3)
	l.more(200)
	for _, n := range c.nodes {
		n.signal(syscall.SIGKILL) // all before any is waited for
	}
	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.ready()
	}
	l.more(50)
	l.finish()
	for i := range c.nodes {
		l.check(c.http(i))
	}
}

// A node whose data folder is gone joins anew, catches up and counts again: with
// one of the others killed afterwards it makes the majority, and nothing is lost.
func TestG1_a_wiped_node_joins_as_a_new_member(t *testing.T) {
	c := startCluster(t, 3)
	c.open("load")
	l := c.startLoad("load", 2)
	l.more(50)
	leader := c.leader()
	wiped := c.other(leader)
	wiped.kill()
	wiped.wipe()
	wiped.start()
	wiped.ready()
	l.more(50)
	eventually(t, wiped.id+" votes again", func() bool {
		m := leader.member(wiped.id)
		return m.Voter && m.Healthy
	})
	if got := len(leader.status().Members); got != 3 {
		t.Errorf("the cluster has %d members, want 3", got)
	}
	leader.kill()
	l.more(50)
	l.finish()
	l.check(c.http(0))
}

// Two clients on different nodes compare-and-set one key a thousand times each
// while the leader is killed. Exactly two thousand versions come of it, and
// watchers on every node saw each, in order.
func TestG3_two_clients_reach_version_2000_while_the_leader_dies(t *testing.T) {
	const each = 1000
	c := startCluster(t, 3)
	c.open("race")
	var watchers []*watcher
	for i := range c.nodes {
		watchers = append(watchers, c.watch("race", i))
	}
	var clients sync.WaitGroup
	for i, name := range []string{"a", "b"} {
		r := c.join("race", i)
		clients.Go(func() {
			if err := count(t.Context(), r, "counter", name, each); err != nil {
				t.Errorf("client %s: %v", name, err)
			}
		})
	}
	eventually(t, "a third of the versions are there", func() bool { return watchers[0].reached("counter", 2*each/3) || t.Failed() })
	leader := c.leader()
	leader.kill()
	eventually(t, "two thirds of the versions are there", func() bool {
		return watchers[0].reached("counter", 4*each/3) || t.Failed()
	})
	leader.start()
	clients.Wait()

	for i := range c.nodes {
		e, err := c.http(i).Get(t.Context(), "race", "counter", client.ReadParams{})
		if err != nil {
			t.Fatal(err)
		}
		if e.Version != 2*each {
			t.Errorf("version %d, want %d", e.Version, 2*each)
		}
		if got, want := string(e.Value), fmt.Sprintf(`{"a":%d,"b":%d}`, each, each); got != want {
			t.Errorf("value %s, want %s", got, want)
		}
	}
	for _, w := range watchers {
		eventually(t, w.name+" sees the last version", func() bool { return w.reached("counter", 2*each) })
		w.check(t)
	}
}

// count adds one to its own member of a shared value, times times, by
// compare-and-set. The value itself tells whether a write whose outcome is
// unknown was applied.
func count(ctx context.Context, r *client.Room, key, own string, times int) error {
	value, version := map[string]int{}, uint64(0)
	for value[own] < times {
		next := map[string]int{"a": value["a"], "b": value["b"]}
		next[own]++
		done, err := r.Put(ctx, key, next, client.IfVersion(version))
		if err == nil {
			value, version = next, done.Version
			continue
		}
		if !client.IsConflict(err) && !client.MayHaveApplied(err) {
			return err
		}
		e, err := r.Get(ctx, key)
		if client.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		mine := value[own]
		value = map[string]int{}
		if err := json.Unmarshal(e.Value, &value); err != nil {
			return err
		}
		if version = e.Version; value[own] < mine || value[own] > mine+1 {
			return fmt.Errorf("own counter went from %d to %d", mine, value[own])
		}
	}
	return nil
}

// The leader is stopped (SIGSTOP), another takes over and a write is acknowledged.
// Reads wait in the sockets of the old leader; when it wakes, none of them may be
// answered with the old value.
func TestG2_a_leader_that_wakes_serves_no_stale_read(t *testing.T) {
	c := startCluster(t, 3)
	c.open("pause")
	ctx := t.Context()
	if _, err := c.http(0).Put(ctx, "pause", "x", 1, client.WriteParams{}); err != nil {
		t.Fatal(err)
	}
	old := c.leader()

	// Connections from before the pause, so that the reads are in the leader's
	// kernel when it wakes.
	const reads = 32
	var conns []net.Conn
	for range reads {
		conn, err := net.Dial("tcp", old.http)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := rawGet(t, conn, "/v1/rooms/pause/stores/default/keys/x?raw"); got != "1" {
			t.Fatalf("read %q before the pause, want 1", got)
		}
		conns = append(conns, conn)
	}

	old.signal(syscall.SIGSTOP)
	defer old.cmd.Process.Signal(syscall.SIGCONT)
	var others []*testNode
	for _, n := range c.nodes {
		if n != old {
			others = append(others, n)
		}
	}
	eventually(t, "another leads", func() bool { return c.leader(others...) != old })
	h := newHTTP(t, patience, others[0].url(), others[1].url())
	defer h.Close()
	if _, err := h.Put(ctx, "pause", "x", 2, client.WriteParams{}); err != nil {
		t.Fatal(err)
	}
	// From here on 1 is stale.
	for _, conn := range conns {
		fmt.Fprintf(conn, "GET /v1/rooms/pause/stores/default/keys/x?raw HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	old.signal(syscall.SIGCONT)
	for i, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(patience))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("read %d: %v", i, err)
		}
		body := readBody(t, resp)
		if resp.StatusCode == http.StatusOK && body != "2" {
			t.Errorf("read %d, sent after 2 was acknowledged, got %s", i, body)
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("read %d: status %d: %s", i, resp.StatusCode, body)
		}
	}
}

func rawGet(t *testing.T, conn net.Conn, path string) string {
	t.Helper()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return readBody(t, resp)
}

func readBody(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	var b strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

// An orderly stop hands leadership over and exits with 0, and clients go on.
func TestServe_stops_in_order(t *testing.T) {
	c := startCluster(t, 3)
	c.open("load")
	l := c.startLoad("load", 2)
	l.more(20)
	leader := c.leader()
	term := leader.status().Term
	if code := leader.stop(); code != 0 {
		t.Errorf("the leader exited with %d, want 0", code)
	}
	l.more(20)
	if next := c.leader().status(); next.Term <= term {
		t.Errorf("term %d after the leader of term %d stopped", next.Term, term)
	}
	l.finish()
	l.check(c.http(0))
}

// A node without the others answers in bounded time, and honestly.
func TestG14_a_node_alone_refuses_and_serves_stale_reads(t *testing.T) {
	c := startCluster(t, 3, "--deadline", "2s")
	c.open("alone")
	ctx := t.Context()
	if _, err := c.http(0).Put(ctx, "alone", "x", 1, client.WriteParams{}); err != nil {
		t.Fatal(err)
	}
	left := c.nodes[0]
	eventually(t, "the node that will be left has the value", func() bool {
		h := left.http1()
		defer h.Close()
		_, err := h.Get(ctx, "alone", "x", client.ReadParams{Stale: true})
		return err == nil
	})
	for _, n := range c.nodes[1:] {
		n.kill()
	}
	h := left.http1()
	defer h.Close()
	for range 2 {
		_, err := h.Get(ctx, "alone", "x", client.ReadParams{})
		if !client.HasCode(err, wire.Unavailable) {
			t.Errorf("a linearizable read without a majority: %v, want unavailable", err)
		}
		_, err = h.Put(ctx, "alone", "x", 2, client.WriteParams{})
		if !client.HasCode(err, wire.Unavailable) && !client.HasCode(err, wire.UnknownOutcome) {
			t.Errorf("a write without a majority: %v, want unavailable or unknown_outcome", err)
		}
		if _, err = h.Get(ctx, "alone", "x", client.ReadParams{Stale: true}); err != nil {
			t.Errorf("a stale read without a majority: %v", err)
		}
	}
}
