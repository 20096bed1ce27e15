package cluster

import (
	"cmp"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// trio is three plain raft nodes over the TCP network, each with a trivial FSM.
type trio struct {
	t     testing.TB
	nodes []*plainNode
}

type plainNode struct {
	self    Identity
	book    *addressBook
	network *TCPNetwork
	inner   raft.Transport
	trans   *transport
	channel Channel
	raft    *raft.Raft
	fsm     *countingFSM
}

// countingFSM remembers the newest index it applied, and tells a transport.
type countingFSM struct {
	nudge func(index, term uint64)

	mu      sync.Mutex
	applied uint64
	at      time.Time // when that was
	changed chan struct{}
}

func (f *countingFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	f.applied, f.at = l.Index, time.Now()
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	f.nudge(l.Index, l.Term)
	return nil
}

func (f *countingFSM) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("not in this test")
}
func (f *countingFSM) Restore(io.ReadCloser) error { return errors.New("not in this test") }

// wait returns once the FSM has applied index; it fails the test after the deadline.
func (f *countingFSM) wait(t testing.TB, index uint64, deadline time.Duration) {
	t.Helper()
	timeout := time.After(deadline)
	for {
		f.mu.Lock()
		applied, changed := f.applied, f.changed
		f.mu.Unlock()
		if applied >= index {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("applied %d after %s, want %d", applied, deadline, index)
		}
	}
}

// addressBook resolves server ids; it may change.
type addressBook struct {
	mu    sync.Mutex
	addrs map[raft.ServerID]string
}

func (b *addressBook) set(id raft.ServerID, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.addrs == nil {
		b.addrs = make(map[raft.ServerID]string)
	}
	b.addrs[id] = addr
}

func (b *addressBook) resolve(id raft.ServerID) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	addr, ok := b.addrs[id]
	return addr, ok
}

// nobodyListens is an address where dialling is refused.
func nobodyListens(t testing.TB) string {
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// trioConfig is what a test may want otherwise.
type trioConfig struct {
	plain         bool          // without nudges
	timeout       time.Duration // heartbeat and the like; 0 means 1 s
	commitTimeout time.Duration // 0 means 10 s, so that no commit index travels by itself
	stores        func(i int) (raft.LogStore, raft.StableStore)
}

// newTrio starts three nodes.
func newTrio(t testing.TB, cfg trioConfig) *trio {
	t.Helper()
	cfg.timeout = cmp.Or(cfg.timeout, time.Second)
	cfg.commitTimeout = cmp.Or(cfg.commitTimeout, 10*time.Second)
	if cfg.stores == nil {
		cfg.stores = func(int) (raft.LogStore, raft.StableStore) {
			s := raft.NewInmemStore()
			return s, s
		}
	}
	c := &trio{t: t}
	var members []raft.Server
	for i, name := range []string{"n1", "n2", "n3"} {
		n := &plainNode{self: Identity{name, "d" + name}, book: &addressBook{}, network: NewTCPNetwork(listen(t), TCPOptions{})}
		t.Cleanup(func() { n.network.Close() })
		addr := n.network.listener.Addr().String()
		members = append(members, raft.Server{ID: n.self.ServerID(), Address: raft.ServerAddress(addr)})
		var err error
		if n.inner, n.channel, err = n.network.Open(n.self, n.book.resolve); err != nil {
			t.Fatal(err)
		}
		if n.trans, err = newTransport(n.inner, n.self.ServerID()); err != nil {
			t.Fatal(err)
		}
		n.fsm = &countingFSM{nudge: func(uint64, uint64) {}, changed: make(chan struct{})}
		if !cfg.plain {
			n.fsm.nudge = n.trans.Committed
		}
		config := raft.DefaultConfig()
		config.LocalID = n.self.ServerID()
		config.Logger = newRaftLogger(n.network.opts.Logger)
		config.HeartbeatTimeout, config.ElectionTimeout, config.LeaderLeaseTimeout = cfg.timeout, cfg.timeout, cfg.timeout
		config.CommitTimeout = cfg.commitTimeout
		log, stable := cfg.stores(i)
		n.raft, err = raft.NewRaft(config, n.fsm, log, newVoteStore(stable), raft.NewInmemSnapshotStore(), n.trans)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.raft.Shutdown().Error() })
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		for _, m := range members {
			n.book.set(m.ID, string(m.Address))
		}
		if err := n.raft.BootstrapCluster(raft.Configuration{Servers: members}).Error(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// leader waits for a node, other than those excluded, that leads and that every
// other node left knows.
func (c *trio) leader(except ...*plainNode) *plainNode {
	c.t.Helper()
	var leader *plainNode
	pollUntil(c.t, "one leader known to all", func() bool {
		leader = nil
		for _, n := range c.nodes {
			if n.raft.State() == raft.Leader && !slices.Contains(except, n) {
				leader = n
			}
		}
		if leader == nil {
			return false
		}
		for _, n := range c.nodes {
			if _, id := n.raft.LeaderWithID(); id != leader.self.ServerID() && !slices.Contains(except, n) {
				return false
			}
		}
		return true
	})
	return leader
}

// pollUntil polls a condition with a generous deadline.
func pollUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

func TestTransport_FollowersApplyAtOnceThoughRaftWouldWait(t *testing.T) {
	c := newTrio(t, trioConfig{})
	leader := c.leader()
	for range 50 {
		f := leader.raft.Apply([]byte("x"), 5*time.Second)
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			// Raft itself would tell between 10 and 20 s later.
			n.fsm.wait(t, f.Index(), 8*time.Second)
		}
	}
}

func TestTransport_LeadershipTransfers(t *testing.T) {
	c := newTrio(t, trioConfig{})
	for range 3 {
		old := c.leader()
		before := old.raft.CurrentTerm()
		to := c.nodes[0]
		if to == old {
			to = c.nodes[1]
		}
		server := raft.Server{ID: to.self.ServerID(), Address: raft.ServerAddress(to.self.ServerID())}
		if old.trans.Has(server.ID, before, old.raft.LastIndex()+1) || old.trans.Has(server.ID, before-1, 1) {
			t.Fatal("a server has what there is not")
		}
		pollUntil(t, "it has everything", func() bool { return old.trans.Has(server.ID, before, old.raft.LastIndex()) })
		if err := old.trans.Succeed(t.Context(), server); err != nil {
			t.Fatal(err)
		}
		pollUntil(t, "another leads", func() bool { return old.raft.State() != raft.Leader })
		next := c.leader()
		if next != to || next.raft.CurrentTerm() <= before {
			t.Fatalf("leader is %s in term %d, was %s in term %d", next.self, next.raft.CurrentTerm(), old.self, before)
		}
		f := next.raft.Apply([]byte("x"), 5*time.Second)
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			n.fsm.wait(t, f.Index(), 8*time.Second)
		}
	}
	old := c.leader()
	old.trans.Close()
	if err := old.trans.Succeed(t.Context(), raft.Server{ID: c.nodes[0].self.ServerID()}); !errors.Is(err, raft.ErrTransportShutdown) {
		t.Errorf("asked over a transport that is closed: %v", err)
	}
}

func TestTransport_PeersAreKnownByServerID(t *testing.T) {
	c := newTrio(t, trioConfig{})
	leader := c.leader()
	want := raft.ServerAddress(leader.self.ServerID())
	for _, n := range c.nodes {
		if addr, _ := n.raft.LeaderWithID(); addr != want {
			t.Errorf("%s calls the leader's address %q, want %q", n.self, addr, want)
		}
	}
	if got := leader.trans.DecodePeer(leader.trans.EncodePeer("n7.x", "10.0.0.7:1")); got != "n7.x" {
		t.Errorf("peer decoded as %q", got)
	}
}

// A node that was cut off and comes back asks for pre-votes only, so the term
// stays and the leader too.
func TestTransport_PreVoteIsActive(t *testing.T) {
	c := newTrio(t, trioConfig{timeout: 300 * time.Millisecond})
	leader := c.leader()
	term := leader.raft.CurrentTerm()
	var cut *plainNode
	for _, n := range c.nodes {
		if n != leader {
			cut = n
		}
	}
	asked := make(chan raft.Observation, 64)
	leader.raft.RegisterObserver(raft.NewObserver(asked, false, func(o *raft.Observation) bool {
		_, pre := o.Data.(raft.RequestPreVoteRequest)
		_, real := o.Data.(raft.RequestVoteRequest)
		return pre || real
	}))
	// The leader's requests no longer arrive, the other's own still do.
	addr, _ := leader.book.resolve(cut.self.ServerID())
	leader.book.set(cut.self.ServerID(), nobodyListens(t))
	pollUntil(t, "the cut off node asks for a vote", func() bool {
		leader.inner.(*raft.NetworkTransport).CloseStreams()
		select {
		case o := <-asked:
			if _, ok := o.Data.(raft.RequestPreVoteRequest); !ok {
				t.Fatalf("the cut off node sent %T first, want a pre-vote", o.Data)
			}
			return true
		default:
			return false
		}
	})
	leader.book.set(cut.self.ServerID(), addr)
	pollUntil(t, "the node follows again", func() bool {
		_, id := cut.raft.LeaderWithID()
		return id == leader.self.ServerID()
	})
	if now := leader.raft.CurrentTerm(); now != term || leader.raft.State() != raft.Leader {
		t.Errorf("term %d %v, was %d and leader", now, leader.raft.State(), term)
	}
}

// Raft's own votes come to rest as pairs, in the way that voteStore expects.
func TestVoteStore_HoldsWhatRaftWrites(t *testing.T) {
	var disks [3]*raft.InmemStore
	c := newTrio(t, trioConfig{stores: func(i int) (raft.LogStore, raft.StableStore) {
		disks[i] = raft.NewInmemStore()
		return disks[i], disks[i]
	}})
	leader := c.leader()
	want := vote{leader.raft.CurrentTerm(), string(leader.self.ServerID())}
	i := slices.Index(c.nodes, leader)
	if got := readVote(t, newVoteStore(disks[i])); got != want {
		t.Errorf("the leader voted for %v, want itself in its term: %v", got, want)
	}
	for i, disk := range disks {
		if got := readVote(t, disk); got != (vote{}) {
			t.Errorf("node %d keeps %v under raft's own keys", i, got)
		}
	}
}

func onDisk(b *testing.B) func(int) (raft.LogStore, raft.StableStore) {
	return func(int) (raft.LogStore, raft.StableStore) {
		d := mustOpen(b, b.TempDir())
		return d.Log, d.Stable
	}
}

// BenchmarkTransport commits one entry after the other and measures how much
// later than the leader its followers apply.
func BenchmarkTransport(b *testing.B) {
	for _, c := range []struct {
		name string
		cfg  func(*testing.B) trioConfig
	}{
		{"nudge/memory", func(*testing.B) trioConfig { return trioConfig{} }},
		{"nudge/bolt", func(b *testing.B) trioConfig { return trioConfig{stores: onDisk(b)} }},
		{"raft50ms/bolt", func(b *testing.B) trioConfig {
			return trioConfig{plain: true, commitTimeout: 50 * time.Millisecond, stores: onDisk(b)}
		}},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkTrio(b, newTrio(b, c.cfg(b))) })
	}
}

func benchmarkTrio(b *testing.B, c *trio) {
	leader := c.leader()
	entry := make([]byte, 256)
	var apply, delay []time.Duration
	for b.Loop() {
		start := time.Now()
		f := leader.raft.Apply(entry, 5*time.Second)
		if err := f.Error(); err != nil {
			b.Fatal(err)
		}
		apply = append(apply, time.Since(start))
		for _, n := range c.nodes {
			n.fsm.wait(b, f.Index(), 30*time.Second)
			if n != leader {
				delay = append(delay, n.fsm.at.Sub(leader.fsm.at))
			}
		}
	}
	report := func(name string, d []time.Duration) {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), name+"-p99-µs")
	}
	report("apply", apply)
	report("follower", delay)
}

// BenchmarkTransport_ManyCallers shows what nudges cost when there is much to do.
func BenchmarkTransport_ManyCallers(b *testing.B) {
	for _, plain := range []bool{false, true} {
		b.Run(map[bool]string{false: "nudge", true: "raft50ms"}[plain], func(b *testing.B) {
			c := newTrio(b, trioConfig{plain: plain, commitTimeout: 50 * time.Millisecond, stores: onDisk(b)})
			leader := c.leader()
			entry := make([]byte, 256)
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := leader.raft.Apply(entry, 5*time.Second).Error(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
