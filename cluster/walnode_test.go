package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// A follower that was away while the others deleted what it lacks is given a snapshot,
// over a log in segments that is not empty; and goes on from its disk when it starts again.
func TestNode_ALaggingFollowerWithAWAL(t *testing.T) {
	g := startGroup(t, 0)
	dirs := map[string]*DataDir{}
	root := t.TempDir()
	mount := func(id string) {
		d, err := OpenDataDir(filepath.Join(root, id), walOptions)
		if err != nil {
			t.Fatal(err)
		}
		dirs[id] = d
		cfg := g.config(id)
		cfg.Log, cfg.Stable, cfg.Snapshots, cfg.TrailingLogs = d.Log, d.Stable, d.Snapshots, 5
		cfg.Join, cfg.BootstrapExpect = g.addrs, 3
		g.nodes[id].cfg = cfg
	}
	for i := range 3 {
		id := fmt.Sprint("n", i+1)
		listener := g.listen("127.0.0.1:0")
		g.addrs = append(g.addrs, listener.Addr().String())
		g.nodes[id] = &groupNode{addr: listener.Addr().String(), net: NewTCPNetwork(listener, TCPOptions{})}
	}
	t.Cleanup(func() {
		for id, d := range dirs {
			g.stop(id)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for id := range g.nodes {
		mount(id)
	}
	for id := range g.nodes {
		g.open(id)
	}
	g.ready()
	written := 0
	write := func(n int) {
		for range n {
			written++
			do(t, g.leader(), put("room", fmt.Sprint("key-", written), "1"))
		}
	}
	write(20)
	follower := g.follower()
	id := follower.cfg.ID
	g.stop(id)
	write(60)
	for other, n := range g.nodes {
		if other == id {
			continue
		}
		if err := n.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if first, err := dirs[other].Log.FirstIndex(); err != nil || first < 60 {
			t.Fatalf("the log of %s begins at %d, %v", other, first, err)
		}
	}
	holds := func() {
		t.Helper()
		eventually(t, "the follower has caught up", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			view, err := g.nodes[id].Read(ctx)
			return err == nil && view.Session("room").Entry("default", fmt.Sprint("key-", written)) != nil
		})
	}
	for range 2 {
		if err := dirs[id].Close(); err != nil {
			t.Fatal(err)
		}
		mount(id)
		g.open(id)
		holds()
		write(5)
		holds()
		first, err := dirs[id].Log.FirstIndex()
		if err != nil || first < 60 {
			t.Errorf("the follower's log begins at %d, %v: it was given no snapshot", first, err)
		}
		g.stop(id)
	}
}
