package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"conclave/client"
)

// A disk changes what was written while a node is down: bits of its log and of its
// snapshots, or their length. The node names the file and does not start, or has
// lost nothing: never does it serve anything else. Emptied, it heals from the others.
func TestG1_faults_of_damaged_files(t *testing.T) {
	withLogStores(t, damageFiles)
}

func damageFiles(t *testing.T, store string) {
	s := seed(t)
	t.Logf("SEED=%d", s)
	rng := rand.New(rand.NewPCG(s, 2))
	c := startCluster(t, 3, append([]string{"--log-store", store, "--timeout", "300ms", "--snapshot-threshold", "20", "--trailing-logs", "10"}, comparing...)...)
	c.open("damage")
	h := c.http(0)
	want := map[string]string{}
	var rev uint64
	more := func(n int) {
		for range n {
			key, value := fmt.Sprintf("key-%d", rng.IntN(40)), strings.Repeat(fmt.Sprint(rng.Uint64()), 1+rng.IntN(50))
			w, err := h.Put(t.Context(), "damage", key, value, client.WriteParams{})
			if err != nil {
				t.Fatal(err)
			}
			want[key], rev = fmt.Sprintf("%q", value), w.Rev
		}
	}
	// holds compares what the node itself has with what was acknowledged.
	holds := func(n *testNode) {
		own := n.http1()
		defer own.Close()
		entries, err := own.List(t.Context(), "damage", client.ListParams{ReadParams: client.ReadParams{Stale: true, MinRev: rev}, Limit: 1000})
		if err != nil {
			t.Fatalf("%s: %v", n.id, err)
		}
		if len(entries.Entries) != len(want) {
			t.Errorf("%s has %d entries, want %d", n.id, len(entries.Entries), len(want))
		}
		for _, e := range entries.Entries {
			if string(e.Value) != want[e.Key] {
				t.Errorf("%s has %s = %.80s, want %.80s", n.id, e.Key, e.Value, want[e.Key])
			}
		}
	}
	more(60)
	for _, n := range c.nodes {
		eventually(t, n.id+" has a snapshot", func() bool { complete, _ := n.snapshots(); return len(complete) > 0 })
	}
	few := 3
	if store == "wal" {
		few = 1 // of the log
	}
	refused := map[string]int{}
	kinds := []string{"a hundred bits of the log", "one bit of a snapshot", "one bit of the log", "the log's length", "a snapshot's length", "a snapshot's metadata"}
	for round := range rounds(t, few) {
		kind := kinds[round%len(kinds)]
		n := c.nodes[rng.IntN(3)]
		n.kill()
		more(5) // which the damaged node has not seen
		complete, _ := n.snapshots()
		if len(complete) == 0 {
			t.Fatalf("%s has no snapshot", n.id)
		}
		snapshot := complete[len(complete)-1]
		var path string
		switch kind {
		case "one bit of the log", "a hundred bits of the log", "the log's length":
			path = filepath.Join(n.data, "raft.db")
			if segments, _ := filepath.Glob(filepath.Join(n.data, "wal", "*.wal")); len(segments) > 0 && rng.IntN(4) > 0 {
				path = segments[len(segments)-1]
			}
		case "a snapshot's metadata":
			path = filepath.Join(snapshot, "meta.json")
		default:
			path = filepath.Join(snapshot, "state.bin")
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasSuffix(kind, "length"):
			data = data[:rng.IntN(len(data))]
		case strings.HasPrefix(kind, "a hundred"):
			for range 100 { // where there is something
				for {
					if at := rng.IntN(len(data)); data[at] != 0 {
						data[at] ^= 1 << rng.IntN(8)
						break
					}
				}
			}
		default: // a segment has been given its full size
			data[rng.IntN(len(bytes.TrimRight(data, "\x00")))] ^= 1 << rng.IntN(8)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		n.start()
		served := within(patience, func() bool {
			select {
			case <-n.ended:
				return true
			default:
				return strings.Contains(n.since(), "conclave "+n.id+" ready")
			}
		})
		if !served {
			t.Fatalf("%s: %s neither serves nor ends", kind, n.id)
		}
		select {
		case <-n.ended:
			refused[kind]++
			if code := n.wait(); code != exitUnavailable || !strings.Contains(n.since(), "is damaged") || !strings.Contains(n.since(), filepath.Dir(path)) {
				t.Errorf("%s: exit code %d, and the file %s is not named:\n%s", kind, code, path, n.since())
			}
			n.wipe()
			n.start()
		default:
		}
		n.ready()
		more(5)
		holds(n)
		eventually(t, n.id+" votes again", func() bool { m := c.leader().member(n.id); return m.Voter && m.Healthy })
		eventually(t, n.id+" has a snapshot again", func() bool { complete, _ := n.snapshots(); return len(complete) > 0 })
		t.Logf("round %d: %s at %s; refused so far: %v", round+1, kind, n.id, refused)
	}
	for _, n := range c.nodes {
		holds(n)
	}
	for _, kind := range kinds[:min(2, rounds(t, few))] {
		if refused[kind] == 0 {
			t.Errorf("%s: never noticed", kind)
		}
	}
}
