package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"conclave/lock"
)

// model is the state machine written without thought of cost, copying or
// encoding: maps of one room's entries, locks and peers. Its locks are in
// model_lock_test.go.
type model struct {
	rev     uint64
	now     int64
	session string // "" when none is live
	entries map[string]modelEntry
	locks   map[string]*modelLock
	fences  map[string]uint64 // the last fence of each key, for ever
	top     uint64            // the greatest of them
	peers   map[string]*modelPeer
}

type modelEntry struct {
	value        string
	version, rev uint64
	bound        string
	expires      int64
}

type modelPeer struct {
	gen      uint64
	attached bool
	deadline int64
}

const (
	modelGrace = 10_000
	modelRoom  = "room"
	job        = "job"
)

func (m *model) start(session string) {
	m.session = session
	m.entries, m.locks, m.peers = map[string]modelEntry{}, map[string]*modelLock{}, map[string]*modelPeer{}
}

// leave takes a peer out; lapsed if nobody saw it go.
func (m *model) leave(peer string, rev uint64, lapsed bool) {
	for _, key := range slices.Collect(maps.Keys(m.entries)) {
		if m.entries[key].bound == peer {
			delete(m.entries, key)
		}
	}
	if len(m.peers) > 1 { // else all of it ends now
		m.untie(peer, rev, lapsed, false)
	}
	delete(m.peers, peer)
	if len(m.peers) == 0 {
		m.session = ""
	}
}

// checked is the machine beside its model.
type checked struct {
	*world
	m       *model
	callers map[string]Caller
	known   map[string]int64  // deadlines that outcomes have told of, with their moment
	mirror  map[string]string // what a watcher that heard all events has
	seen    map[string]int    // operations and refusals that have occurred
	views   []*View
	hashes  [][32]byte
}

// ids are the callers of the present session, and one that is in none.
func (c *checked) ids() []string { return append(slices.Sorted(maps.Keys(c.m.peers)), job) }

func (c *checked) caller(who string) Caller {
	if who == job {
		return Caller{User: "u", Owner: job}
	}
	return c.callers[who]
}

// run applies a command and compares its answer with what the model says.
func (c *checked) run(cmd Command, want Code, changed bool) Result {
	c.t.Helper()
	results, out := c.do(cmd)
	c.learn(out)
	r := results[0]
	if got := code(r); got != want {
		c.t.Fatalf("%+v: got %q %+v, want %q", cmd, got, r.Refusal, want)
	}
	c.seen[string(want)]++
	if cmd.Txn != nil && want == "" {
		for i := range cmd.Txn.Then {
			c.seen[fmt.Sprintf("operation %d ", cmd.Txn.Then[i].Kind)]++
		}
	}
	if r.Changed != changed {
		c.t.Fatalf("%+v: changed is %v, want %v", cmd, r.Changed, changed)
	}
	rev := c.m.rev
	if changed {
		rev++
		c.m.rev = max(rev, c.m.top)
	}
	if r.Rev != rev {
		c.t.Fatalf("%+v: rev %d, want %d", cmd, r.Rev, rev)
	}
	return r
}

func timerKey(ctl Control) string {
	return fmt.Sprint(ctl.Kind, ctl.Room, ctl.Session, ctl.Store, ctl.Key, ctl.Peer, ctl.Fence, ctl.Seen)
}

func (c *checked) learn(out *Outcome) {
	for _, d := range out.Deadlines {
		c.known[timerKey(d.Timer)] = d.At
	}
	for _, f := range out.Frames {
		for _, e := range f.Frame.Events {
			if e.Rev != f.Frame.Rev || f.Frame.Rev <= f.Floor {
				c.t.Fatalf("event %+v in frame %d after %d", e, f.Frame.Rev, f.Floor)
			}
			switch {
			case e.Type == EventPut:
				c.mirror[e.Key] = string(e.Entry.Value)
			case e.Type == EventDelete:
				delete(c.mirror, e.Key)
			case e.Type == EventSession:
				clear(c.mirror)
			}
		}
	}
}

// TestState_Model compares the machine with the model over random histories, of
// about 100,000 steps in all; -rapid.checks makes more of them.
// After each it also checks what must hold of any: that a replay, and one through
// a snapshot, gives the same hash; that views published on the way are as they
// were; that a leader was told of every deadline.
func TestState_Model(t *testing.T) {
	rounds := 11
	if testing.Short() {
		rounds = 1
	}
	var steps int
	seen := map[string]int{}
	for i := range rounds {
		t.Run(fmt.Sprint(i), rapid.MakeCheck(func(t *rapid.T) { steps += modelHistory(t, seen) }))
	}
	t.Logf("%d steps: %v", steps, seen)
	if t.Failed() || testing.Short() {
		return
	}
	for kind := OpPut; kind <= OpSend; kind++ {
		if what := fmt.Sprintf("operation %d ", kind); seen[what] < 40 {
			t.Errorf("%q succeeded %d times", what, seen[what])
		}
	}
	for _, no := range []Code{
		CodeNoSession, CodeUnavailable, CodeConflict, CodeLocked, CodeStaleFence, CodeNotHolder, CodeWrongType, CodeLimitExceeded,
	} {
		if seen[string(no)] < 40 {
			t.Errorf("%s was answered %d times", no, seen[string(no)])
		}
	}
}

// modelHistory is one random history; it returns its length.
func modelHistory(t *rapid.T, seen map[string]int) (steps int) {
	c := &checked{
		world: newWorld(t), m: &model{now: 1000, fences: map[string]uint64{}}, callers: map[string]Caller{}, known: map[string]int64{}, mirror: map[string]string{}, seen: seen,
	}
	actions := map[string]func(*rapid.T){
		"join": func(*rapid.T) { c.join() }, "write": c.write, "write again": c.write, "write on": c.write, "write more": c.write, "write yet more": c.write, "txn": c.txn, "txn again": c.txn,
		"acquire": c.acquire, "acquire again": c.acquire, "release": c.release, "leave": c.leave, "detach": c.detach,
		"attach": c.attach, "time": c.time, "term": func(*rapid.T) { c.term++ },
		"publish": func(*rapid.T) {
			c.views = append(c.views, c.s.Publish())
			c.hashes = append(c.hashes, c.hash())
		},
		"": func(*rapid.T) { steps++; c.compare() },
	}
	if rapid.IntRange(0, 3).Draw(t, "empty at first") != 3 {
		c.join()
	}
	for range 3 { // histories of about ninety steps
		t.Repeat(actions)
	}
	c.finish()
	return steps
}

func (c *checked) join() {
	cmd := joinCommand(modelRoom)
	cmd.Open.Grace, cmd.Open.Limits = modelGrace, modelLimits
	r := c.run(cmd, "", true)
	if r.Created != (c.m.session == "") {
		c.t.Fatalf("created is %v", r.Created)
	}
	if c.m.session == "" {
		c.m.start(r.Session)
	}
	c.m.peers[r.Peer] = &modelPeer{gen: r.Gen, attached: true}
	c.callers[r.Peer] = Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}
}

// who draws a caller of the live session; stale says that its socket is over.
func (c *checked) who(t *rapid.T) (who string, refusal Code) {
	who = rapid.SampledFrom(c.ids()).Draw(t, "who")
	switch p := c.m.peers[who]; {
	case c.m.session == "":
		return who, CodeNoSession
	case who != job && p.gen != c.callers[who].Gen:
		return who, CodeUnavailable
	}
	return who, ""
}

func (c *checked) leave(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "leave") != 5 {
		return // else sessions are too short for much to happen in them
	}
	who, want := c.who(t)
	if who == job {
		return
	}
	if want == "" {
		c.m.leave(who, c.m.rev+1, false)
	}
	c.run(Command{Kind: CommandLeave, Room: modelRoom, Caller: c.caller(who), Target: who}, want, want == "")
}

func (c *checked) detach(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "detach") != 3 {
		return
	}
	who, want := c.who(t)
	if who == job {
		return
	}
	p := c.m.peers[who]
	breaks := want == "" && p.attached
	if breaks {
		p.attached, p.gen, p.deadline = false, c.m.rev+1, c.m.now+modelGrace
		c.m.untie(who, c.m.rev+1, true, true)
	}
	c.run(Command{Kind: CommandDetach, Room: modelRoom, Caller: c.caller(who), Target: who}, "", breaks)
}

func (c *checked) attach(t *rapid.T) {
	who, _ := c.who(t)
	if who == job {
		return
	}
	if c.m.peers[who].attached { // its older connection is as good as broken
		c.m.untie(who, c.m.rev+1, true, true)
	}
	r := c.run(Command{
		Kind: CommandAttach, Room: modelRoom, Attach: &Attach{Peer: who, Key: "secret", Node: "n1", Incarnation: 1},
	}, "", true)
	*c.m.peers[who] = modelPeer{gen: r.Gen, attached: true}
	c.callers[who] = Caller{Kind: CallerPeer, Peer: who, Gen: r.Gen}
}

// time passes, and what is due ends, in the order in which the state lists it.
func (c *checked) time(t *rapid.T) {
	c.now += int64(rapid.IntRange(1, 6000).Draw(t, "ms"))
	c.m.now = c.now
	var timers []Control
	c.s.Publish().Deadlines(func(d Deadline) {
		if d.At <= c.now {
			d.Timer.Term = c.term
			timers = append(timers, d.Timer)
		}
	})
	c.learn(c.propose(&Proposal{Controls: timers}))
	for _, ctl := range timers {
		c.ends(ctl)
	}
}

// ends does in the model what a due timer must do.
func (c *checked) ends(ctl Control) {
	m := c.m
	if m.session == "" {
		return
	}
	rev := m.rev + 1
	switch ctl.Kind {
	case ControlEntryEnd:
		if e, ok := m.entries[ctl.Key]; !ok || e.rev != ctl.Seen {
			return
		}
		delete(m.entries, ctl.Key)
	case ControlLeaseEnd:
		if !m.free(ctl.Key, rev, true, func(h *modelHold) bool { return h.fence == ctl.Fence }) {
			return
		}
	case ControlDelayEnd:
		if l := m.locks[ctl.Key]; l == nil || l.notBefore == 0 || l.notBefore > m.now || !m.settle(ctl.Key, rev) {
			return
		}
	case ControlWaitEnd:
		l := m.locks[ctl.Key]
		if l == nil {
			return
		}
		s := c.s.Publish().Session(modelRoom)
		at := slices.IndexFunc(l.queue, func(w modelWait) bool { return w.until <= m.now })
		if at < 0 || s != nil && s.Lock(DefaultStore, ctl.Key).Position(ctl.Seen) != 0 {
			return
		}
		l.queue = slices.Delete(l.queue, at, at+1)
		m.settle(ctl.Key, rev)
	case ControlPeerEnd:
		if p := m.peers[ctl.Peer]; p == nil || p.gen != ctl.Seen {
			return
		}
		m.leave(ctl.Peer, rev, true)
	}
	m.rev = max(rev, m.top)
}

// compare holds the state against the model.
func (c *checked) compare() {
	c.t.Helper()
	view := c.s.Publish()
	if view.Rev() != c.m.rev {
		c.t.Fatalf("rev %d, want %d", view.Rev(), c.m.rev)
	}
	s := view.Session(modelRoom)
	if (s == nil) != (c.m.session == "") {
		c.t.Fatalf("session %+v, want %q", s, c.m.session)
	}
	if s == nil {
		return
	}
	entries, bytes := map[string]modelEntry{}, 0
	s.Entries(DefaultStore, "", "", func(e *Entry) bool {
		entries[e.Key] = modelEntry{string(e.Value), e.Version, e.Rev, e.Bound, e.Expires}
		bytes += len(e.Key) + len(e.Value)
		return true
	})
	c.equal("entries", entries, c.m.entries)
	for key, value := range c.mirror {
		if c.m.entries[key].value != value || len(c.mirror) != len(c.m.entries) {
			c.t.Fatalf("the events tell of %v, the entries are %v", c.mirror, c.m.entries)
		}
	}
	locks := map[string]*modelLock{}
	s.Locks(func(_, key string, l *lock.Lock) bool {
		got := &modelLock{shared: l.Shared, permits: l.Permits, notBefore: l.NotBefore}
		for _, h := range l.Holders {
			got.holders = append(got.holders, modelHold{h.Owner.String(), h.Fence, h.Delay, h.OnDetach})
		}
		for _, w := range l.Queue {
			got.queue = append(got.queue, modelWait{w.Owner.String(), w.Until, w.Shared, w.Permits, w.Delay, w.OnDetach})
		}
		locks[key] = got
		return true
	})
	for _, l := range c.m.locks {
		if len(l.queue) == 0 {
			l.queue = nil
		}
		if len(l.holders) == 0 {
			l.holders = nil
		}
	}
	c.equal("locks", locks, c.m.locks)
	peers := map[string]*modelPeer{}
	s.Peers(func(p *Peer) bool {
		peers[p.ID] = &modelPeer{p.Gen, p.Attached, p.Deadline}
		return true
	})
	c.equal("peers", peers, c.m.peers)
	if got, want := s.Counts(), (Counts{Peers: len(peers), Stores: 1, Keys: len(entries), Bytes: bytes, Locks: len(locks)}); got != want {
		c.t.Fatalf("counts %+v, want %+v", got, want)
	}
	view.Deadlines(func(d Deadline) {
		if at, ok := c.known[timerKey(d.Timer)]; !ok || at != d.At {
			c.t.Fatalf("no outcome told of the deadline %+v (but of %d)", d, at)
		}
		if now, ok := view.Pending(d.Timer); !ok || now.At != d.At {
			c.t.Fatalf("pending %+v, listed %+v", now, d)
		}
	})
}

func (c *checked) equal(what string, got, want any) {
	c.t.Helper()
	if reflect.DeepEqual(want, got) { // most often, and much faster
		return
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(modelEntry{}, modelLock{}, modelHold{}, modelWait{}, modelPeer{})); d != "" {
		c.t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

// finish replays the history and looks back at the views.
func (c *checked) finish() {
	c.t.Helper()
	want := c.hash()
	replayed, restored := NewState(), NewState()
	for i, l := range c.log {
		replayed.Apply(uint64(i+1), l.term, l.proposal)
		if i == len(c.log)/2 {
			restored = c.throughSnapshot(restored)
		}
		restored.Apply(uint64(i+1), l.term, l.proposal)
	}
	if replayed.Publish().Hash() != want {
		c.t.Fatal("a replay gives another state")
	}
	if restored.Publish().Hash() != want || c.throughSnapshot(c.s).Publish().Hash() != want {
		c.t.Fatal("a replay through a snapshot gives another state")
	}
	for i, v := range c.views {
		if v.Hash() != c.hashes[i] {
			c.t.Fatalf("view %d of revision %d was changed after it was published", i, v.Rev())
		}
	}
}

func (c *checked) throughSnapshot(s *State) *State {
	c.t.Helper()
	var file bytes.Buffer
	if err := s.Publish().WriteSnapshot(&file); err != nil {
		c.t.Fatal(err)
	}
	restored, err := ReadSnapshot(&file)
	if err != nil {
		c.t.Fatal(err)
	}
	return restored
}
