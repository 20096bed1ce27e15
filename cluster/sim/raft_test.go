package sim

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
)

// The network and the disks are tested with plain raft and a state machine that
// is a list of lines, so that a fault of theirs is not taken for one of a node's.

// lines is that state machine.
type lines struct {
	mu    sync.Mutex
	lines []string
}

func (l *lines) Apply(log *raft.Log) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(log.Data))
	return nil
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *lines) Snapshot() (raft.FSMSnapshot, error) { return linesSnapshot(l.all()), nil }

func (l *lines) Restore(r io.ReadCloser) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
	if len(data) > 0 {
		l.lines = strings.Split(string(data), "\n")
	}
	return nil
}

type linesSnapshot []string

func (s linesSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := io.WriteString(sink, strings.Join(s, "\n")); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}
func (s linesSnapshot) Release() {}

// plain is a cluster of plain raft nodes on the simulated network and disks.
type plain struct {
	t     *testing.T
	net   *Network
	names []string
	disks map[string]*Disk
	rafts map[string]*raft.Raft
	fsms  map[string]*lines
	dead  []*raft.Raft
}

func (p *plain) id(name string) raft.ServerID {
	return cluster.Identity{Node: name, Dir: "d"}.ServerID()
}

func startPlain(t *testing.T, seed uint64, cond Conditions) *plain {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := &plain{
		t: t, net: NewNetwork(rng, cond), names: []string{"a", "b", "c"},
		disks: map[string]*Disk{}, rafts: map[string]*raft.Raft{}, fsms: map[string]*lines{},
	}
	for _, name := range p.names {
		p.disks[name] = NewDisk(rand.New(rand.NewPCG(seed, rng.Uint64())), time.Millisecond, 0.01)
		p.net.Host(name, name+":1")
	}
	for _, name := range p.names {
		p.start(name)
	}
	t.Cleanup(func() {
		p.net.Heal()
		for _, name := range p.names {
			p.net.Resume(name)
			p.kill(name)
		}
		for _, r := range p.dead {
			if err := r.Shutdown().Error(); err != nil {
				t.Error(err)
			}
		}
		p.net.Close()
	})
	return p
}

func (p *plain) start(name string) {
	vol := p.disks[name].Open()
	resolve := func(id raft.ServerID) (string, bool) {
		node, _, ok := strings.Cut(string(id), ".")
		return p.net.Addr(node), ok
	}
	trans, channel, err := p.net.Host(name, "").Open(cluster.Identity{Node: name, Dir: "d"}, resolve)
	if err != nil {
		p.t.Fatal(err)
	}
	channel.Handle(func(cluster.Identity, cluster.Method, []byte, func([]byte, error)) {})
	config := raft.DefaultConfig()
	config.LocalID = p.id(name)
	config.LogOutput = io.Discard
	config.SnapshotThreshold, config.TrailingLogs, config.SnapshotInterval = 50, 10, time.Second
	var servers []raft.Server
	for _, n := range p.names {
		servers = append(servers, raft.Server{ID: p.id(n), Address: raft.ServerAddress(n + ":1")})
	}
	err = raft.BootstrapCluster(config, vol, vol, vol.Snapshots(), trans, raft.Configuration{Servers: servers})
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		p.t.Fatal(err)
	}
	p.fsms[name] = &lines{}
	p.rafts[name], err = raft.NewRaft(config, p.fsms[name], vol, vol, vol.Snapshots(), trans)
	if err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the process on a host as SIGKILL would.
func (p *plain) kill(name string) {
	if p.rafts[name] == nil {
		return
	}
	p.net.Kill(name)
	p.disks[name].Crash()
	p.dead = append(p.dead, p.rafts[name])
	p.rafts[name] = nil
}

// leader waits for one.
func (p *plain) leader() (name string) {
	p.t.Helper()
	await(p.t, "a leader", func() bool {
		for _, n := range p.names {
			if r := p.rafts[n]; r != nil && r.State() == raft.Leader {
				name = n
				return true
			}
		}
		return false
	})
	return name
}

// apply hands a line to a leader, and says whether it was acknowledged soon: a
// paused leader never answers.
func (p *plain) apply(line string) bool {
	future := p.rafts[p.leader()].Apply([]byte(line), time.Second)
	done := make(chan error, 1)
	go func() { done <- future.Error() }()
	select {
	case err := <-done:
		return err == nil
	case <-time.After(2 * time.Second):
		return false
	}
}

// TestPlainRaft runs plain raft under kills, partitions, pauses and restarts of
// everybody: every acknowledged line is in every state machine at the end, once,
// and all have the same lines.
func TestPlainRaft(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPlain(t, seed, Rough)
				rng := rand.New(rand.NewPCG(seed, 2))
				var acknowledged []string
				for i := range 400 {
					if i%20 == 10 {
						p.trouble(rng)
					}
					line := fmt.Sprint(i)
					if p.apply(line) {
						acknowledged = append(acknowledged, line)
					}
				}
				if len(acknowledged) < 200 {
					t.Errorf("only %d of 400 lines were acknowledged", len(acknowledged))
				}
				p.recover()
				p.check(acknowledged)
			})
		})
	}
}

// trouble ends the last fault and makes another.
func (p *plain) trouble(rng *rand.Rand) {
	p.recover()
	victim := p.names[rng.IntN(3)]
	switch rng.IntN(6) {
	case 0:
		p.kill(victim)
	case 1:
		p.net.Partition([]string{victim}, p.names)
	case 2:
		p.net.Cut(victim, p.names[rng.IntN(3)])
	case 3:
		p.net.Pause(victim)
		p.disks[victim].Hang()
	case 4: // a power cut for all
		for _, n := range p.names {
			p.kill(n)
		}
		p.recover()
	}
}

func (p *plain) recover() {
	p.net.Heal()
	for _, n := range p.names {
		p.net.Resume(n)
		p.disks[n].Work()
		if p.rafts[n] == nil {
			p.start(n)
		}
	}
}

func (p *plain) check(acknowledged []string) {
	p.t.Helper()
	await(p.t, "a last line", func() bool { return p.apply("last") })
	var want []string
	await(p.t, "all to have the same lines", func() bool {
		want = p.fsms[p.names[0]].all()
		return slices.Contains(want, "last") && slices.Equal(p.fsms[p.names[1]].all(), want) && slices.Equal(p.fsms[p.names[2]].all(), want)
	})
	count := map[string]int{}
	for _, line := range want {
		count[line]++
	}
	for _, line := range acknowledged {
		if count[line] != 1 {
			p.t.Errorf("acknowledged line %s is there %d times", line, count[line])
		}
	}
}

// TestPlainRaft_Snapshot shows that a node that missed more than the others keep
// in their logs catches up by a snapshot over the network.
func TestPlainRaft_Snapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPlain(t, 7, LAN)
		leader := p.leader()
		behind := "a"
		if leader == behind {
			behind = "b"
		}
		p.net.Partition([]string{behind}, p.names)
		var want []string
		for i := range 300 {
			if i%100 == 0 {
				time.Sleep(3 * time.Second) // lets snapshots happen
			}
			want = append(want, fmt.Sprint(i))
			if err := p.rafts[leader].Apply([]byte(fmt.Sprint(i)), 0).Error(); err != nil {
				t.Fatal(err)
			}
		}
		if first, _ := p.disks[leader].Open().FirstIndex(); first < 100 {
			t.Fatalf("the leader's log begins at %d: it kept all", first)
		}
		p.net.Heal()
		await(t, "the lines of "+behind, func() bool { return slices.Equal(p.fsms[behind].all(), want) })
		if metas, _ := p.disks[behind].Open().Snapshots().List(); len(metas) == 0 {
			t.Error("no snapshot was installed")
		}
	})
}
