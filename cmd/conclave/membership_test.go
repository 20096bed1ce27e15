package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// other is a running node that is not the one given.
func (c *testCluster) other(than *testNode) *testNode {
	for _, n := range c.nodes {
		if n != than && n.cmd != nil {
			return n
		}
	}
	c.t.Fatal("no other node runs")
	return nil
}

// wipe removes the node's data, as a new disk would.
func (n *testNode) wipe() {
	n.t.Helper()
	if err := os.RemoveAll(n.data); err != nil {
		n.t.Fatal(err)
	}
}

// Under load a fourth and a fifth node join by one command each, and two of the
// first three are removed, the leader among them. No client sees a failure.
func TestG15_nodes_join_and_leave_under_load(t *testing.T) {
	c := startCluster(t, 3)
	first := c.nodes[0]
	var watchers []*watcher
	c.open("load")
	for i := range c.nodes {
		watchers = append(watchers, c.watch("load", i))
	}
	l := c.startLoad("load", 2)
	l.more(20)

	start := time.Now()
	for _, id := range []string{"n4", "n5"} {
		node := c.add(id, "--join", first.peer)
		node.start()
		node.ready()
		t.Logf("%v: %s serves", time.Since(start), id)
		eventually(t, id+" votes", func() bool { return first.member(id).Voter })
		t.Logf("%v: %s votes", time.Since(start), id)
		l.more(20)
	}

	leader := c.leader()
	gone := []*testNode{leader, c.other(leader)}
	stay := c.without(gone...)
	for _, n := range gone {
		servers := []string{stay[0].url(), stay[1].url(), stay[2].url()}
		if _, stderr, code := c.conclave(servers, "cluster", "remove", n.id); code != 0 {
			t.Fatalf("remove %s: exit code %d: %s", n.id, code, stderr)
		}
		t.Logf("%v: %s is removed", time.Since(start), n.id)
		l.more(20)
		if code := n.wait(); code != 0 {
			t.Errorf("%s, removed, exited with %d", n.id, code)
		}
		t.Logf("%v: %s has ended by itself", time.Since(start), n.id)
		l.more(20)
	}
	l.finish()
	t.Logf("%v: the load has ended with %d writes", time.Since(start), l.acked())

	status := c.leader(stay...).status()
	if got := len(status.Members); got != 3 {
		t.Errorf("%d members, want 3: %+v", got, status.Members)
	}
	for _, m := range status.Members {
		if !m.Voter {
			t.Errorf("%s does not vote", m.ID)
		}
	}
	l.check(newHTTPFor(t, stay...))
	for _, w := range watchers {
		for _, wr := range l.writers {
			eventually(t, w.name+" sees all of "+wr.key, func() bool { return w.reached(wr.key, uint64(wr.acked.Load())) })
		}
		w.check(t)
	}
}

// without is all nodes but these.
func (c *testCluster) without(these ...*testNode) (rest []*testNode) {
next:
	for _, n := range c.nodes {
		for _, not := range these {
			if n == not {
				continue next
			}
		}
		rest = append(rest, n)
	}
	return rest
}

// newHTTPFor is a client that goes on among these nodes.
func newHTTPFor(t *testing.T, nodes ...*testNode) *client.HTTP {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.url())
	}
	h := newHTTP(t, patience, urls...)
	t.Cleanup(func() { h.Close() })
	return h
}

// Changes that cannot be meant are refused, and the cluster is as before.
func TestG15_refuses_changes_that_would_hurt(t *testing.T) {
	c := startCluster(t, 3)
	members := c.nodes
	before := c.leader().status()
	stranger := c.add("stranger") // runs, and waits to be added
	stranger.start()
	eventually(t, "the stranger listens", func() bool {
		h := stranger.http1()
		defer h.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := h.Info(ctx)
		return err == nil
	})
	nobody := freeAddr(t)

	refused := func(what string, want int, args ...string) {
		t.Helper()
		start := time.Now()
		stdout, stderr, code := c.conclave(c.urls(0)[:len(members)], args...)
		if code == 0 || want != 0 && code != want {
			t.Errorf("%s: exit code %d, want it refused (%d); it printed %s%s", what, code, want, stdout, stderr)
		}
		t.Logf("%s: %v: exit code %d: %s", what, time.Since(start).Round(time.Millisecond), code, stderr)
	}
	refused("an address where nobody is", 0, "cluster", "join", "n4", nobody)
	refused("an address that is none", exitUsage, "cluster", "join", "n4", "127.0.0.1:port")
	refused("the address of another node than named", exitRefused, "cluster", "join", "n4", stranger.peer)
	refused("an id that is taken", exitRefused, "cluster", "join", "n1", stranger.peer)
	refused("a member that is one already, at another's address", exitRefused, "cluster", "join", "n1", c.nodes[1].peer)
	refused("a member that is not there", exitRefused, "cluster", "remove", "n9")
	refused("a configuration that nobody saw", exitRefused, "cluster", "demote", "n1", "--if-config", fmt.Sprint(before.ConfigIndex+1))
	refused("a new leader that is no member", exitRefused, "cluster", "transfer", "n9")
	if after := c.leader(members...).status(); after.ConfigIndex != before.ConfigIndex {
		t.Errorf("the configuration changed from %d to %d: %+v", before.ConfigIndex, after.ConfigIndex, after.Members)
	}

	// With one of three dead, removing one of the others would leave a majority of
	// two of which one is dead.
	leader := c.leader(members...)
	dead := c.other(leader)
	dead.kill()
	eventually(t, dead.id+" is seen to be dead", func() bool { m := leader.member(dead.id); return m.ID != "" && !m.Healthy })
	for _, n := range members {
		if n != leader && n != dead {
			refused("a removal that loses the quorum", exitRefused, "cluster", "remove", n.id)
		}
	}
	if after := leader.status(); after.ConfigIndex != before.ConfigIndex {
		t.Errorf("the configuration changed from %d to %d: %+v", before.ConfigIndex, after.ConfigIndex, after.Members)
	}

	// Removing the dead one is right.
	if _, stderr, code := c.conclave([]string{leader.url()}, "cluster", "remove", dead.id); code != 0 {
		t.Errorf("removing the dead node: exit code %d: %s", code, stderr)
	}
}

// Leadership goes where an operator wants it; a demoted voter can be promoted.
func TestCluster_transfer_demote_promote(t *testing.T) {
	c := startCluster(t, 3)
	c.open("load")
	leader := c.leader()
	to := c.other(leader)
	eventually(t, to.id+" is seen to be alive", func() bool { return leader.member(to.id).Healthy })
	run := func(args ...string) {
		t.Helper()
		if _, stderr, code := c.conclave(c.urls(0), args...); code != 0 {
			t.Fatalf("conclave %v: exit code %d: %s", args, code, stderr)
		}
	}
	run("cluster", "transfer", to.id)
	eventually(t, to.id+" leads", func() bool { return c.leader() == to })
	run("cluster", "demote", leader.id)
	eventually(t, leader.id+" does not vote", func() bool { m := to.member(leader.id); return m.ID != "" && !m.Voter })
	run("cluster", "promote", leader.id)
	eventually(t, leader.id+" votes", func() bool { return to.member(leader.id).Voter })
	if _, err := c.http(0).Put(t.Context(), "load", "x", 1, client.WriteParams{}); err != nil {
		t.Error(err)
	}
}

// A second process under the name of a living member is not taken in, whatever
// data folder it has, and the cluster is as before.
func TestG15_a_second_node_of_one_name_stays_outside(t *testing.T) {
	c := startCluster(t, 3)
	members := c.nodes
	before := c.leader().status()
	twin := c.add("n1", "--join", members[0].peer+","+members[1].peer)
	twin.start()
	eventually(t, "the second n1 is told why it is not taken in", func() bool {
		return strings.Contains(twin.log.String(), "n1 is a member already")
	})
	h := twin.http1()
	defer h.Close()
	if _, err := h.Put(t.Context(), "demo", "x", 1, client.WriteParams{Open: time.Hour}); !client.HasCode(err, wire.Unavailable) {
		t.Errorf("a write at the second n1: %v, want unavailable", err)
	}
	if after := c.leader(members...).status(); after.ConfigIndex != before.ConfigIndex || len(after.Members) != 3 {
		t.Errorf("the configuration changed from %d to %d: %+v", before.ConfigIndex, after.ConfigIndex, after.Members)
	}
	if code := twin.stop(); code != 0 {
		t.Errorf("the second n1 exited with %d", code)
	}
}
