package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// devWatcher tells the user of dev what happens in the cluster: that it is up,
// who leads, that a node which died is back. One goroutine uses it.
type devWatcher struct {
	nodes   []*devNode
	out     *prefixWriter
	data    string
	kept    bool
	restart time.Duration
	timeout time.Duration // raft's

	greeted bool
	leader  string           // the last one told; "" for none
	term    uint64           // its term
	pids    map[string]int64 // the processes that were told of, by node
}

// devPoll is how often the nodes are asked. Only a user reads the answers.
const devPoll = 200 * time.Millisecond

func (d *devWatcher) watch(ctx context.Context) {
	var clients []*client.HTTP
	for _, n := range d.nodes {
		h, err := client.NewHTTP(client.HTTPConfig{Config: client.Config{Servers: []string{"http://" + n.http}}, Patience: -1})
		if err != nil {
			d.out.say("%s: %v", n.id, err) // cannot be: the address is our own
			return
		}
		defer h.Close()
		clients = append(clients, h)
	}
	tick := time.NewTicker(devPoll)
	defer tick.Stop()
	for {
		asked := d.processes()
		answers := d.ask(ctx, clients)
		if ctx.Err() != nil {
			return
		}
		d.tell(asked, answers)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// processes are the nodes' processes, 0 for one that is dead.
func (d *devWatcher) processes() map[string]int64 {
	pids := make(map[string]int64, len(d.nodes))
	for _, n := range d.nodes {
		pids[n.id] = n.pid.Load()
	}
	return pids
}

// ask asks all nodes at once. One that has lost its leader answers late.
func (d *devWatcher) ask(ctx context.Context, clients []*client.HTTP) []*wire.Cluster {
	ctx, cancel := context.WithTimeout(ctx, d.timeout+time.Second)
	defer cancel()
	answers := make([]*wire.Cluster, len(clients))
	var asked sync.WaitGroup
	for i, h := range clients {
		asked.Go(func() { answers[i], _ = h.Cluster(ctx) }) // no answer: dead, or starting
	}
	asked.Wait()
	return answers
}

// tell compares the answers with what was told last. asked are the processes from when
// the nodes were asked.
func (d *devWatcher) tell(asked map[string]int64, answers []*wire.Cluster) {
	leader, term := d.leading(asked, answers)
	if !d.greeted {
		if leader != "" && !slices.Contains(answers, nil) {
			d.greeted, d.leader, d.term, d.pids = true, leader, term, d.processes()
			d.greet()
		}
		return
	}
	for i, n := range d.nodes {
		if pid := n.pid.Load(); pid != 0 && pid != d.pids[n.id] && answers[i] != nil && answers[i].Leader != nil {
			d.pids[n.id] = pid
			d.out.say("%s is back (pid %d)", n.id, pid)
		}
	}
	switch {
	case leader == d.leader:
	case leader == "":
		d.leader = ""
		d.out.say("nobody leads: reads and writes wait, or answer unavailable")
	case term >= d.term:
		d.leader, d.term = leader, term
		d.out.say("%s leads now (term %d)%s", leader, term, d.hint())
	}
}

// leading is who leads according to the answers. Nodes may differ for a moment:
// the highest term knows best. A leader whose process is dead, or has been started since,
// leads nobody: those that name it do not know yet.
func (d *devWatcher) leading(asked map[string]int64, answers []*wire.Cluster) (leader string, term uint64) {
	for _, a := range answers {
		if a == nil || a.Leader == nil || a.Term < term {
			continue
		}
		for _, n := range d.nodes {
			if n.id == *a.Leader && n.pid.Load() != 0 && n.pid.Load() == asked[n.id] {
				leader, term = n.id, a.Term
			}
		}
	}
	return leader, term
}

// hint is how to kill the leader.
func (d *devWatcher) hint() string {
	for _, n := range d.nodes {
		if pid := n.pid.Load(); n.id == d.leader && pid != 0 {
			return fmt.Sprintf("; kill it: kill -9 %d", pid)
		}
	}
	return ""
}

// greet prints what there is and what to try.
func (d *devWatcher) greet() {
	var b strings.Builder
	fmt.Fprintf(&b, "\nThree nodes are up; data and logs in %s", d.data)
	if !d.kept {
		b.WriteString(" (removed at the end)")
	}
	b.WriteString("\n\n")
	for _, n := range d.nodes {
		fmt.Fprintf(&b, "  %s  http://%s  pid %d", n.id, n.http, n.pid.Load())
		if n.id == d.leader {
			b.WriteString("  leads")
		}
		b.WriteString("\n")
	}
	c, first, second, third := commandName(), d.nodes[0].http, d.nodes[1].http, d.nodes[2].http
	fmt.Fprintf(&b, `
Try, in other terminals:

  %[1]s watch demo --server http://%[3]s,http://%[4]s
  %[1]s put demo spotlight '"ada"' --server http://%[2]s
  %[1]s get demo spotlight --server http://%[4]s
  curl -X PUT 'http://%[2]s/v1/rooms/demo/stores/default/keys/pinned?open_ms=300000' -d '{"text":"hello"}'
  curl -N 'http://%[3]s/v1/rooms/demo/events'
  %[1]s lock demo stage --server http://%[2]s,http://%[3]s,http://%[4]s -- sleep 5
  %[1]s cluster status --server http://%[2]s,http://%[3]s,http://%[4]s

Then kill the leader`, c, first, second, third)
	fmt.Fprintf(&b, "%s and go on: another takes over", strings.TrimPrefix(d.hint(), "; kill it"))
	if d.restart > 0 {
		fmt.Fprintf(&b, ", and the dead one is started again after %v", d.restart)
	}
	b.WriteString(".\nCtrl-C ends them all.\n")
	d.out.say("%s", b.String())
}

// commandName is how the user calls this program.
func commandName() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/conclave"
	}
	return os.Args[0]
}
