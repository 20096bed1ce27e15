package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// trial is a cluster of processes under a load of every kind, with faults. It
// judges what the clients were told and what the watchers saw at each node:
//
//   - acknowledged puts, counters and appended items are there, once (mix, appends)
//   - each key is linearizable, requests of unknown outcome kept open (history)
//   - watchers at all nodes saw the same, without a gap but for resets (witness)
//   - fences grow, one holds a lock at a time, and only it writes there (events)
//   - all replicas hold the same, and have compared their states themselves
//
// Nothing is judged by how long it took.
type trial struct {
	*testCluster
	room     string
	rng      *rand.Rand
	mix      *mix
	history  *history
	appended atomic.Int64
	appends  []*appender
	watched  []*witness
}

// mishap is a fault. happen returns what undoes it; it has waited meanwhile for
// whatever must go on in spite of it.
type mishap struct {
	name   string
	happen func() (undo func())
}

// seed is what a trial's choices hang on.
func seed(t *testing.T) uint64 {
	s := os.Getenv("SEED")
	if s == "" {
		return rand.Uint64N(1e6)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("SEED: want a number, got %q", s)
	}
	return n
}

// comparing makes replicas compare their states often.
var comparing = []string{"--compare-interval", "2s"}

// startTrial starts the load on a cluster that serves.
func startTrial(c *testCluster) *trial {
	c.t.Helper()
	s := seed(c.t)
	c.t.Logf("SEED=%d", s)
	tr := &trial{testCluster: c, room: "trial", rng: rand.New(rand.NewPCG(s, 1))}
	c.open(tr.room)
	for i := range c.nodes {
		tr.watched = append(tr.watched, c.witness(tr.room, i))
	}
	pace := 100 * time.Millisecond
	if os.Getenv("ROUNDS") != "" {
		pace = 30 * time.Millisecond
	}
	tr.mix = c.startMix(tr.room, 1, pace)
	tr.history = c.startHistory(tr.room, pace, tr.rng.Uint64())
	for i := range c.nodes {
		tr.appends = append(tr.appends, tr.startAppender(i, pace))
	}
	tr.mix.steady("")
	return tr
}

// run makes faults one by one, in an order of the seed's: a few of them, or as many
// as ROUNDS says.
func (tr *trial) run(few int, mishaps ...mishap) {
	tr.t.Helper()
	for round := range rounds(tr.t, few) {
		if round%len(mishaps) == 0 {
			tr.rng.Shuffle(len(mishaps), func(i, j int) { mishaps[i], mishaps[j] = mishaps[j], mishaps[i] })
		}
		m := mishaps[round%len(mishaps)]
		begun, before := time.Now(), tr.mix.acked()
		undo := m.happen()
		tr.t.Logf("round %d: %s; %d writes meanwhile, in %v", round+1, m.name, tr.mix.acked()-before, time.Since(begun).Round(time.Millisecond))
		undo()
		tr.healed()
	}
	tr.finish()
}

// healed waits until all nodes serve, and all clients go on.
func (tr *trial) healed() {
	tr.t.Helper()
	for _, n := range tr.nodes {
		n.ready()
	}
	tr.mix.steady("")
}

// more waits until that many more writes were acknowledged, by whomever.
func (tr *trial) more(n int64) {
	tr.t.Helper()
	want := tr.mix.acked() + n
	eventually(tr.t, fmt.Sprintf("%d more writes are acknowledged", n), func() bool { return tr.mix.acked() >= want })
}

// without are all nodes but one.
func (tr *trial) without(n *testNode) (others []*testNode) {
	for _, o := range tr.nodes {
		if o != n {
			others = append(others, o)
		}
	}
	return others
}

// succeeded waits until the others follow somebody else, and write.
func (tr *trial) succeeded(old *testNode) {
	tr.t.Helper()
	eventually(tr.t, "another leads than "+old.id, func() bool { return tr.leader(tr.without(old)...) != old })
	tr.more(10)
}

// finish ends the load and judges everything.
func (tr *trial) finish() {
	tr.t.Helper()
	tr.mix.check(tr.http(0))
	tr.checkAppends()
	tr.history.check()
	before := tr.leader().gauge("conclave_raft_applied_index")
	final := tr.mark()
	for _, w := range tr.watched {
		eventually(tr.t, w.name+" sees the end", func() bool { return w.reached(final) })
	}
	checkWitnesses(tr.t, tr.watched)
	tr.checkReplicas(final)

	last := time.Now()
	for _, n := range tr.nodes {
		eventually(tr.t, n.id+" agrees with the others on the state", func() bool {
			if time.Since(last) > 2*time.Second { // an idle cluster does not compare again
				last = time.Now()
				tr.mark()
			}
			return n.gauge("conclave_state_agreed_index") > before
		})
	}
	for _, n := range tr.nodes {
		if got := n.gauge("conclave_state_divergence_total"); got != 0 {
			tr.t.Errorf("%s found %v states that differ", n.id, got)
		}
	}
	tr.t.Logf("%d puts, %d adds, %d compare-and-sets, %d writes under the lock, %d appends, %s",
		tr.mix.acked(), tr.mix.adds.Load(), tr.mix.sets.Load(), len(tr.mix.fences.seen), tr.appended.Load(), tr.history)
}

// mark writes once more and returns its revision.
func (tr *trial) mark() uint64 {
	tr.t.Helper()
	w, err := tr.http(0).Put(tr.t.Context(), tr.room, "mark", "here", client.WriteParams{})
	if err != nil {
		tr.t.Fatal(err)
	}
	return w.Rev
}

// checkReplicas compares what every node itself holds.
func (tr *trial) checkReplicas(rev uint64) {
	tr.t.Helper()
	var want []byte
	for i, n := range tr.nodes {
		h := n.http1()
		var all []wire.Entry
		p := client.ListParams{ReadParams: client.ReadParams{Stale: true, MinRev: rev}}
		for e, err := range h.AllEntries(tr.t.Context(), tr.room, p) {
			if err != nil {
				tr.t.Fatalf("list the entries of %s: %v", n.id, err)
			}
			all = append(all, e)
		}
		h.Close()
		got, err := json.Marshal(all)
		if err != nil {
			tr.t.Fatal(err)
		}
		if i == 0 {
			want = got
		} else if !bytes.Equal(got, want) {
			tr.t.Errorf("%s holds\n%.3000s\nand %s\n%.3000s", tr.nodes[0].id, want, n.id, got)
		}
	}
}

// appender appends numbers of its own to lists that it shares with all others, over
// HTTP: repeats carry an Idempotency-Key, so that each number comes once.
type appender struct {
	id    int
	acked map[string][]int // by list
	open  map[string]int   // the one without an answer, if any
}

// perList bounds how long a list grows.
const perList = 300

func listKey(n int) string { return fmt.Sprintf("list-%d", n/perList) }

func (tr *trial) startAppender(i int, pace time.Duration) *appender {
	a := &appender{id: i, acked: map[string][]int{}, open: map[string]int{}}
	h, ctx := tr.http(i), tr.mix.ctx
	tr.mix.done.Go(func() {
		for n := 0; ctx.Err() == nil; pause(ctx, pace) {
			item := n*100 + i
			key := listKey(n)
			if _, err := h.Append(ctx, tr.room, key, []int{item}, false, client.WriteParams{}); err != nil {
				a.open[key] = item
				if ctx.Err() == nil {
					err = fmt.Errorf("append %d: %w", item, err)
					tr.mix.failed.CompareAndSwap(nil, &err)
				}
				return
			}
			tr.appended.Add(1)
			a.acked[key] = append(a.acked[key], item)
			n++
		}
	})
	return a
}

func (tr *trial) checkAppends() {
	tr.t.Helper()
	lists := map[string]map[int][]int{} // the items of each list, by appender, in order
	for _, a := range tr.appends {
		for key := range a.acked {
			if lists[key] != nil {
				continue
			}
			e, err := tr.http(0).Get(tr.t.Context(), tr.room, key, client.ReadParams{})
			if err != nil {
				tr.t.Errorf("%s: %v", key, err)
				continue
			}
			var items []int
			if err := json.Unmarshal(e.Value, &items); err != nil {
				tr.t.Errorf("%s: %v", key, err)
			}
			lists[key] = map[int][]int{}
			for _, item := range items {
				lists[key][item%100] = append(lists[key][item%100], item)
			}
		}
	}
	for _, a := range tr.appends {
		for key, acked := range a.acked {
			got := lists[key][a.id]
			if item, ok := a.open[key]; ok && len(got) == len(acked)+1 && got[len(acked)] == item {
				got = got[:len(acked)]
			}
			if fmt.Sprint(got) != fmt.Sprint(acked) {
				tr.t.Errorf("%s has of appender %d\n%v\nand acknowledged was\n%v", key, a.id, got, acked)
			}
		}
	}
}
