package api

import (
	"context"
	"maps"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
	"conclave/fsm"
)

// testStore is a Store of one replica: the real state machine behind a log that
// lives in memory and commits at once. Cluster time is the test's: it stands
// still until advance, which also fires what has fallen due, as a leader would.
type testStore struct {
	t       testing.TB
	machine *fsm.Machine
	queue   chan submission
	stopped chan struct{}

	mu        sync.Mutex // guards all below, and applying
	published *sync.Cond // with mu: something was
	index     uint64
	seq       uint64
	now       int64                // cluster time, ms
	first     func(*fsm.Published) // called before the observers, if a test sets it
	observers map[int]func(*fsm.Published)
	relayed   []*cluster.Ephemeral         // that were to go to other nodes
	takers    []func([]*cluster.Ephemeral) // of those that come from other nodes
	added     int
	outcomes  []fsm.BatchOutcome // of the entry being applied
	renewed   map[fsm.LeaseRef]int64
	fault     error // answers reads and writes while set
	reasons   []string
	leader    time.Time // since when there is none
	config    uint64
	members   map[string]cluster.Member
	features  []string
}

type submission struct {
	command *fsm.Command
	done    func(*fsm.Result, error)
}

// wallStart is the wall time at which a testStore begins, so that samples stay
// the same.
var wallStart = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

const testNode = "n1"

// newTestStore makes an empty store that ends with the test.
func newTestStore(t testing.TB) *testStore {
	s := &testStore{
		t: t, queue: make(chan submission, 1024), stopped: make(chan struct{}),
		observers: map[int]func(*fsm.Published){}, renewed: map[fsm.LeaseRef]int64{}, config: 3,
		members: map[string]cluster.Member{
			"n1": {ID: "n1", PeerAddr: "127.0.0.1:7500", HTTPAddr: "127.0.0.1:7400", Voter: true, Leader: true, Healthy: true},
			"n2": {ID: "n2", PeerAddr: "127.0.0.1:7501", HTTPAddr: "127.0.0.1:7401", Voter: true, Healthy: true},
			"n3": {ID: "n3", PeerAddr: "127.0.0.1:7502", HTTPAddr: "127.0.0.1:7402", Voter: true, Healthy: true},
		},
	}
	s.published = sync.NewCond(&s.mu)
	s.machine = fsm.NewMachine(func(err error) { t.Errorf("the machine stopped: %v", err) })
	s.machine.Observe(s.observe)
	s.mu.Lock()
	s.apply(&fsm.Proposal{
		Controls: []fsm.Control{{Kind: fsm.ControlGenesis, Cluster: "c1"}},
		Batches:  []fsm.Batch{{Node: testNode, Incarnation: 1, Register: &fsm.Register{}}},
	})
	s.mu.Unlock()
	go s.run()
	t.Cleanup(func() {
		close(s.queue)
		<-s.stopped
	})
	return s
}

// run applies what was submitted, as one batch of what waits.
func (s *testStore) run() {
	defer close(s.stopped)
	for first := range s.queue {
		batch := []submission{first}
		for more := true; more && len(batch) < 256; {
			select {
			case next, open := <-s.queue:
				if more = open; open {
					batch = append(batch, next)
				}
			default:
				more = false
			}
		}
		s.commit(batch)
	}
}

// commit applies a batch and answers it, outside the lock and after publishing.
func (s *testStore) commit(batch []submission) {
	s.mu.Lock()
	fault := s.fault
	var results []fsm.Result
	if fault == nil {
		s.seq++
		b := fsm.Batch{Node: testNode, Incarnation: 1, Seq: s.seq}
		for _, sub := range batch {
			b.Commands = append(b.Commands, *sub.command)
		}
		s.apply(&fsm.Proposal{Batches: []fsm.Batch{b}})
		results = s.outcomes[0].Results
	}
	s.mu.Unlock()
	for i, sub := range batch {
		if fault != nil {
			sub.done(nil, fault)
		} else {
			sub.done(&results[i], nil)
		}
	}
}

// apply commits one entry. The caller holds mu.
func (s *testStore) apply(p *fsm.Proposal) {
	p.V, p.Time, p.Wall = fsm.FormatVersion, s.now, wallStart.UnixMilli()+s.now
	data, err := fsm.EncodeProposal(p)
	if err != nil {
		s.t.Errorf("encode a proposal: %v", err)
		return
	}
	s.index++
	s.outcomes = nil
	s.machine.ApplyBatch([]*raft.Log{{Index: s.index, Term: 1, Type: raft.LogCommand, Data: data}})
}

// observe runs while apply holds mu.
func (s *testStore) observe(p *fsm.Published) {
	s.outcomes = p.Batches
	if s.first != nil {
		s.first(p)
	}
	for _, id := range slices.Sorted(maps.Keys(s.observers)) {
		s.observers[id](p)
	}
	s.published.Broadcast()
}

// advance lets cluster time pass, and proposes what falls due on the way.
func (s *testStore) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.now + d.Milliseconds()
	for {
		due, ok := s.nextDue(end)
		if !ok {
			break
		}
		s.now = max(s.now, due.At)
		due.Timer.Term = 1
		s.apply(&fsm.Proposal{Controls: []fsm.Control{due.Timer}})
	}
	s.now = end
	s.apply(&fsm.Proposal{})
}

// nextDue is the first deadline up to a time, renewals counted.
func (s *testStore) nextDue(end int64) (fsm.Deadline, bool) {
	v := s.machine.View()
	var due []fsm.Deadline
	v.Deadlines(func(d fsm.Deadline) {
		if d.At = s.extended(d); d.At <= end {
			due = append(due, d)
		}
	})
	if len(due) == 0 {
		return fsm.Deadline{}, false
	}
	sort.SliceStable(due, func(i, j int) bool { return due[i].At < due[j].At })
	return due[0], true
}

// extended is when a deadline falls, renewals counted.
func (s *testStore) extended(d fsm.Deadline) int64 {
	for ref, at := range s.renewed {
		if held, ok := s.machine.View().Lease(ref); ok && held.Timer.Key == d.Timer.Key && held.Timer.Store == d.Timer.Store &&
			held.Timer.Peer == d.Timer.Peer && held.Timer.Kind == d.Timer.Kind && held.Timer.Session == d.Timer.Session {
			return max(d.At, at+d.TTL)
		}
	}
	return d.At
}

// breakWith makes every read and write fail with err until it is mended with nil.
func (s *testStore) breakWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = err
}

func (s *testStore) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

func (s *testStore) ID() string                 { return testNode }
func (s *testStore) Incarnation() uint64        { return 1 }
func (s *testStore) View() *fsm.View            { return s.machine.View() }
func (s *testStore) Ring(room string) *fsm.Ring { return s.machine.Ring(room) }

func (s *testStore) Observe(f func(*fsm.Published)) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added++
	id := s.added
	s.observers[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.observers, id)
	}
}

func (s *testStore) Relay(e *cluster.Ephemeral) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relayed = append(s.relayed, e)
}

func (s *testStore) ObserveEphemeral(f func([]*cluster.Ephemeral)) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takers = append(s.takers, f)
	return func() {}
}

func (s *testStore) Relayed() (superseded, lost uint64) { return 2, 1 }

// receive brings ephemeral messages of another node.
func (s *testStore) receive(es ...*cluster.Ephemeral) {
	s.mu.Lock()
	takers := slices.Clone(s.takers)
	s.mu.Unlock()
	for _, f := range takers {
		f(es)
	}
}

func (s *testStore) Do(ctx context.Context, c *fsm.Command) (*fsm.Result, error) {
	type answer struct {
		r   *fsm.Result
		err error
	}
	answers := make(chan answer, 1)
	s.queue <- submission{c, func(r *fsm.Result, err error) { answers <- answer{r, err} }}
	select {
	case a := <-answers:
		return a.r, a.err
	case <-ctx.Done():
		return nil, &cluster.UnknownError{Reason: "the request was given up"}
	}
}

type testLane struct{ s *testStore }

func (s *testStore) NewLane() Lane { return testLane{s} }

func (l testLane) Submit(c *fsm.Command, done func(*fsm.Result, error)) {
	l.s.queue <- submission{c, done}
}

func (s *testStore) Read(ctx context.Context) (*fsm.View, error) {
	if err := s.broken(); err != nil {
		return nil, err
	}
	return s.View(), nil
}

func (s *testStore) Stale() (*fsm.View, error) { return s.View(), nil }

func (s *testStore) WaitRev(ctx context.Context, rev uint64) (*fsm.View, error) {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock() // not between the check below and its Wait
		defer s.mu.Unlock()
		s.published.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.machine.View().Rev() < rev {
		if ctx.Err() != nil {
			return nil, &cluster.UnavailableError{Reason: "the revision was not reached in time"}
		}
		s.published.Wait()
	}
	return s.machine.View(), nil
}

func (s *testStore) Renew(ctx context.Context, r fsm.LeaseRef) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return 0, s.fault
	}
	v := s.machine.View()
	d, ok := v.Lease(r)
	if !ok {
		switch sess := v.Session(r.Room); {
		case r.Session != "" && (sess == nil || sess.ID != r.Session):
			return 0, &fsm.Refusal{Code: fsm.CodeSessionEnded}
		case sess == nil:
			return 0, &fsm.Refusal{Code: fsm.CodeNoSession}
		case r.Key == "":
			return 0, &fsm.Refusal{Code: fsm.CodeNotFound}
		}
		return 0, &fsm.Refusal{Code: fsm.CodeNotHolder}
	}
	s.renewed[r] = s.now
	return time.Duration(d.TTL) * time.Millisecond, nil
}

func (s *testStore) TimeLeft(ctx context.Context, refs []fsm.LeaseRef) map[fsm.LeaseRef]time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := map[fsm.LeaseRef]time.Duration{}
	for _, r := range refs {
		if d, ok := s.machine.View().Lease(r); ok {
			left[r] = time.Duration(s.extended(d)-s.now) * time.Millisecond
		}
	}
	return left
}

func (s *testStore) Ready() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reasons)
}

func (s *testStore) Features() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.features)
}

func (s *testStore) NoLeaderSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}

func (s *testStore) Status(ctx context.Context) cluster.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.machine.View()
	st := cluster.Status{
		Cluster: v.Cluster(), ID: testNode, Leader: "n1", Term: 1, ConfigIndex: s.config,
		Applied: v.Index(), Commit: s.index, Rev: v.Rev(),
	}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		st.Members = append(st.Members, s.members[id])
	}
	if !s.leader.IsZero() {
		st.Leader = ""
	}
	return st
}

// changeMember runs one change of the membership if the caller saw the present
// one.
func (s *testStore) changeMember(id string, ifConfig uint64, change func(m *cluster.Member) *fsm.Refusal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.members[id]
	switch {
	case s.fault != nil:
		return s.fault
	case ifConfig != 0 && ifConfig != s.config:
		return &fsm.Refusal{Code: fsm.CodeConflict, Message: "the configuration has changed", Details: fsm.Details{Rev: s.config}}
	case !ok:
		return &fsm.Refusal{Code: fsm.CodeNotFound}
	}
	if no := change(&m); no != nil {
		return no
	}
	s.config++
	s.members[id] = m
	if m.ID == "" {
		delete(s.members, id)
	}
	return nil
}

func (s *testStore) AddMember(ctx context.Context, id, peerAddr string, replica bool, ifConfig uint64) error {
	s.mu.Lock()
	if _, ok := s.members[id]; !ok {
		s.members[id] = cluster.Member{ID: "new"}
	}
	s.mu.Unlock()
	return s.changeMember(id, ifConfig, func(m *cluster.Member) *fsm.Refusal {
		if m.ID != "new" {
			return &fsm.Refusal{Code: fsm.CodeConflict, Message: "a member already"}
		}
		*m = cluster.Member{ID: id, PeerAddr: peerAddr, Voter: !replica}
		return nil
	})
}

func (s *testStore) RemoveMember(ctx context.Context, id string, force bool, ifConfig uint64) error {
	return s.changeMember(id, ifConfig, func(m *cluster.Member) *fsm.Refusal {
		if m.Leader && !force {
			return &fsm.Refusal{Code: fsm.CodeConflict, Message: "would lose quorum"}
		}
		*m = cluster.Member{}
		return nil
	})
}

func (s *testStore) Promote(ctx context.Context, id string, ifConfig uint64) error {
	return s.changeMember(id, ifConfig, func(m *cluster.Member) *fsm.Refusal { m.Voter = true; return nil })
}

func (s *testStore) Demote(ctx context.Context, id string, ifConfig uint64) error {
	return s.changeMember(id, ifConfig, func(m *cluster.Member) *fsm.Refusal { m.Voter = false; return nil })
}

func (s *testStore) Transfer(ctx context.Context, to string) error {
	if to == "" {
		to = "n2"
	}
	err := s.changeMember(to, 0, func(m *cluster.Member) *fsm.Refusal { m.Leader = true; return nil })
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.config--
		for id, m := range s.members {
			m.Leader = id == to
			s.members[id] = m
		}
	}
	return err
}

// waitFor polls until a condition holds.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waitUpTo(t, 10*time.Second, what, ok)
}

func waitUpTo(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
