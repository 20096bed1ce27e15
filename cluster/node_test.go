package cluster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// group is a cluster of nodes in this process, over loopback TCP, with stores in
// memory that outlive a node.
type group struct {
	t     testing.TB
	nodes map[string]*groupNode
	addrs []string
}

type groupNode struct {
	*Node
	cfg  Config
	addr string
	net  *TCPNetwork
}

var testLimits = fsm.Limits{
	ValueBytes: 64 << 10, KeysPerStore: 1000, Stores: 32, SessionBytes: 1 << 20, Peers: 2500, PeerDataBytes: 4 << 10,
	MessageBytes: 4 << 10, Locks: 1000, LockWaiters: 1000, WritesPerS: 100, WritesBurst: 200,
}

// startGroup founds a cluster of n nodes called n1, n2, ….
func startGroup(t testing.TB, n int) *group {
	g := &group{t: t, nodes: map[string]*groupNode{}}
	for i := range n {
		id := fmt.Sprint("n", i+1)
		listener := g.listen("127.0.0.1:0")
		g.addrs = append(g.addrs, listener.Addr().String())
		g.nodes[id] = &groupNode{addr: listener.Addr().String(), cfg: g.config(id), net: NewTCPNetwork(listener, TCPOptions{})}
	}
	for id, node := range g.nodes {
		node.cfg.Join, node.cfg.BootstrapExpect = g.addrs, n
		g.open(id)
	}
	t.Cleanup(func() {
		for id := range g.nodes {
			g.stop(id)
		}
	})
	return g
}

func (g *group) listen(addr string) net.Listener {
	g.t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		g.t.Fatal(err)
	}
	return listener
}

func (g *group) config(id string) Config {
	store := raft.NewInmemStore()
	return Config{
		ID: id, Log: store, Stable: store, Snapshots: raft.NewInmemSnapshotStore(), Timeout: 300 * time.Millisecond, Version: "test",
		Fatal: func(err error) { g.t.Errorf("%s stops: %v", id, err) },
	}
}

func (g *group) open(id string) {
	g.t.Helper()
	node := g.nodes[id]
	if node.net == nil {
		node.net = NewTCPNetwork(g.listen(node.addr), TCPOptions{})
	}
	node.cfg.Network, node.cfg.PeerAddr = node.net, node.addr
	opened, err := Open(node.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	node.Node = opened
}

func (g *group) stop(id string) {
	node := g.nodes[id]
	if node.Node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := node.Close(ctx); err != nil {
		g.t.Errorf("close %s: %v", id, err)
	}
	if err := node.net.Close(); err != nil {
		g.t.Errorf("close the network of %s: %v", id, err)
	}
	node.Node, node.net = nil, nil
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func (g *group) ready() {
	g.t.Helper()
	for id, node := range g.nodes {
		eventually(g.t, id+" is ready", func() bool { return node.Node == nil || len(node.Ready()) == 0 })
	}
}

// leader is the node that leads, once there is one.
func (g *group) leader() (leader *groupNode) {
	g.t.Helper()
	eventually(g.t, "a leader", func() bool {
		for _, node := range g.nodes {
			if node.Node != nil && node.leads() != nil {
				leader = node
				return true
			}
		}
		return false
	})
	return leader
}

func (g *group) follower() *groupNode {
	leader := g.leader()
	for _, node := range g.nodes {
		if node.Node != nil && node != leader {
			return node
		}
	}
	g.t.Fatal("no follower")
	return nil
}

func put(room, key, value string) *fsm.Command {
	return &fsm.Command{
		Kind: fsm.CommandTxn, Room: room, Open: &fsm.Open{Limits: testLimits, Idle: 300_000},
		Txn: &fsm.Txn{Single: true, Then: []fsm.Operation{{Kind: fsm.OpPut, Store: "default", Key: key, Value: []byte(value)}}},
	}
}

// do retries what is safe to retry.
func do(t testing.TB, n *groupNode, c *fsm.Command) *fsm.Result {
	t.Helper()
	var result *fsm.Result
	eventually(t, "a result", func() bool {
		r, err := n.Do(t.Context(), c)
		if _, unavailable := err.(*UnavailableError); unavailable {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		result = r
		return true
	})
	if result.Refusal != nil {
		t.Fatal(result.Refusal)
	}
	return result
}

func TestNode_writesOnAnyNodeAreReadOnAnyNode(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	last := uint64(0)
	for i := range 50 {
		for id, node := range g.nodes {
			value := fmt.Sprintf(`"%s-%d"`, id, i)
			r := do(t, node, put("room", "key", value))
			if r.Rev <= last {
				t.Fatalf("rev %d after %d", r.Rev, last)
			}
			last = r.Rev
			for other, reader := range g.nodes {
				view, err := reader.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got := string(view.Session("room").Entry("default", "key").Value); got != value {
					t.Fatalf("%s read %s after %s had been written on %s", other, got, value, id)
				}
			}
		}
	}
}

func TestNode_aLaneKeepsItsOrderWhileLeadersChange(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	const writes = 400
	var wg sync.WaitGroup
	for _, node := range g.nodes {
		lane := node.NewLane()
		var mu sync.Mutex
		done, last := 0, uint64(0)
		for i := range writes {
			wg.Add(1)
			lane.Submit(put("room", "key-"+node.ID(), fmt.Sprint(i)), func(r *fsm.Result, err error) {
				defer wg.Done()
				mu.Lock()
				defer mu.Unlock()
				if done != i {
					t.Errorf("outcome %d came as number %d", i, done)
				}
				done++
				if err != nil {
					t.Error(err)
					return
				}
				if r.Refusal != nil || r.Rev <= last {
					t.Errorf("write %d: refusal %v, rev %d after %d", i, r.Refusal, r.Rev, last)
					return
				}
				last = r.Rev
			})
			if i%100 == 50 {
				_ = g.leader().Transfer(t.Context(), "") // a leader may be changing already
			}
		}
	}
	wg.Wait()
	view, err := g.follower().Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id := range g.nodes {
		e := view.Session("room").Entry("default", "key-"+id)
		if e.Version != writes || string(e.Value) != fmt.Sprint(writes-1) {
			t.Errorf("key of %s: version %d, value %s", id, e.Version, e.Value)
		}
	}
}

// benchGroup is a group on disk, as in production.
func benchGroup(b *testing.B) *group {
	g := startGroup(b, 0)
	const n = 3
	for i := range n {
		id := fmt.Sprint("n", i+1)
		dir, err := OpenDataDir(b.TempDir(), DataDirOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := dir.Close(); err != nil {
				b.Error(err)
			}
		})
		listener := g.listen("127.0.0.1:0")
		g.addrs = append(g.addrs, listener.Addr().String())
		cfg := Config{
			ID: id, Log: dir.Log, Stable: dir.Stable, Snapshots: dir.Snapshots, Version: "bench",
			Fatal: func(err error) { b.Error(err) },
		}
		g.nodes[id] = &groupNode{addr: listener.Addr().String(), cfg: cfg, net: NewTCPNetwork(listener, TCPOptions{})}
	}
	b.Cleanup(func() { // runs before the directories close
		for id := range g.nodes {
			g.stop(id)
		}
	})
	for id, node := range g.nodes {
		node.cfg.Join, node.cfg.BootstrapExpect = g.addrs, n
		g.open(id)
	}
	g.ready()
	return g
}

// BenchmarkPut writes 256-byte values over three nodes on disk from as many
// callers, each with one write at a time, spread over the nodes.
func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			g := benchGroup(b)
			var nodes []*groupNode
			if callers == 1 {
				nodes = append(nodes, g.leader())
			} else {
				for _, node := range g.nodes {
					nodes = append(nodes, node)
				}
			}
			value := `"` + strings.Repeat("x", 254) + `"`
			var wg sync.WaitGroup
			var next atomic.Int64
			b.ResetTimer()
			for c := range callers {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for next.Add(1) <= int64(b.N) {
						r, err := nodes[c%len(nodes)].Do(b.Context(), put(fmt.Sprint("room", c%16), fmt.Sprint("key", c), value))
						if err != nil || r.Refusal != nil {
							b.Error(err, r)
							return
						}
					}
				}()
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}
