package fsm

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/lock"
)

func TestView_Lease(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	http := Caller{User: "u", Owner: "o"}
	fence := w.must(acquireCommand("r", http, 5000, 0)).Fence
	forLife := acquireCommand("r", ada, 0, 0)
	forLife.Acquire.Key = "life"
	life := w.must(forLife).Fence
	bot := joinCommand("r")
	bot.Join = &Join{Key: "k", TTL: 7000}
	b := w.must(bot)
	away := w.joined("r")
	w.must(Command{Kind: CommandDetach, Room: "r", Caller: away, Target: away.Peer})
	v := w.s.Publish()
	s := v.Session("r").ID
	ref := LeaseRef{Room: "r", Store: DefaultStore, Key: "k", Fence: fence, Owner: http.LockOwner()}
	tests := []struct {
		name  string
		spoil func(*LeaseRef)
		want  *Deadline
	}{
		{"of a lock", func(*LeaseRef) {}, &Deadline{At: 6000, Lease: true, TTL: 5000, Timer: Control{
			Kind: ControlLeaseEnd, Room: "r", Session: s, Store: DefaultStore, Key: "k", Fence: fence,
		}}},
		{"of a peer without a socket", func(r *LeaseRef) { *r = LeaseRef{Room: "r", Peer: b.Peer} }, &Deadline{
			At: 8000, Lease: true, TTL: 7000, Timer: Control{Kind: ControlPeerEnd, Room: "r", Session: s, Peer: b.Peer, Seen: b.Gen},
		}},
		{"of a lock that lasts as its peer does", func(r *LeaseRef) {
			*r = LeaseRef{Room: "r", Session: s, Store: DefaultStore, Key: "life", Fence: life, Owner: ada.LockOwner()}
		}, &Deadline{Lease: true, Timer: Control{
			Kind: ControlLeaseEnd, Room: "r", Session: s, Store: DefaultStore, Key: "life", Fence: life,
		}}},
		{"with another fence", func(r *LeaseRef) { r.Fence++ }, nil},
		{"of another owner", func(r *LeaseRef) { r.Owner = lock.Owner{Peer: "o"} }, nil},
		{"in another room", func(r *LeaseRef) { r.Room = "q" }, nil},
		{"in another session", func(r *LeaseRef) { r.Session = "s0" }, nil},
		{"of a peer with a socket", func(r *LeaseRef) { *r = LeaseRef{Room: "r", Peer: ada.Peer} }, &Deadline{
			Timer: Control{Kind: ControlPeerEnd, Room: "r", Session: s, Peer: ada.Peer, Seen: ada.Gen},
		}},
		{"of a peer that is detached", func(r *LeaseRef) { *r = LeaseRef{Room: "r", Peer: away.Peer} }, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := ref
			test.spoil(&r)
			d, ok := v.Lease(r)
			switch {
			case ok != (test.want != nil):
				t.Errorf("got %+v, %v", d, ok)
			case ok:
				if diff := cmp.Diff(*test.want, d); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestState_LeaseExtended: an acquire by the holder begins the lease anew, and a
// leader is told.
func TestState_LeaseExtended(t *testing.T) {
	w := newWorld(t)
	w.joined("r")
	http := Caller{User: "u", Owner: "o"}
	fence := w.must(acquireCommand("r", http, 5000, 0)).Fence
	w.now += 3000
	results, out := w.do(acquireCommand("r", http, 9000, 0))
	if r := results[0]; r.Fence != fence || r.Changed {
		t.Errorf("got %+v", r)
	}
	if len(out.Deadlines) != 1 || out.Deadlines[0].At != w.now+9000 || len(out.Frames) != 0 {
		t.Errorf("deadlines %+v, %d frames", out.Deadlines, len(out.Frames))
	}
}

// TestState_WaitByKey: a wait over HTTP is found again by its idempotency key, on
// another node too, and remembered with its end.
func TestState_WaitByKey(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	fence := w.must(acquireCommand("r", ada, 0, 0)).Fence
	wait := acquireCommand("r", Caller{User: "u", Owner: "o"}, 5000, 60_000)
	wait.Idem, wait.Hash = "key", []byte("h")
	wait.Acquire.Node, wait.Acquire.Incarnation, wait.Acquire.Waiter = "n1", 1, "first"
	first := w.must(wait)
	w.propose(&Proposal{Batches: []Batch{{Node: "n2", Incarnation: 9, Register: &Register{}}}})
	wait.Acquire.Node, wait.Acquire.Incarnation, wait.Acquire.Waiter = "n2", 9, "second"
	again := w.must(wait)
	if !again.Repeated || again.Waiter != first.Waiter || again.Waiting != 1 {
		t.Fatalf("first %+v, again %+v", first, again)
	}
	var gone []Control
	w.s.Publish().NodeUse(func(node string, _ uint64) bool { return node == "n1" }, func(ctl Control) {
		ctl.Term, ctl.Peers = w.term, nil // only the waiters
		gone = append(gone, ctl)
	})
	w.propose(&Proposal{Controls: gone})
	_, out := w.do(single("r", ada, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
	if len(out.Grants) != 1 || out.Grants[0].Waiter != first.Waiter || out.Grants[0].Refusal != nil {
		t.Fatalf("grants %+v", out.Grants)
	}
	done := w.must(wait)
	if !done.Repeated || done.Fence != out.Grants[0].Fence {
		t.Errorf("afterwards: %+v", done)
	}
	cancel := Command{
		Kind: CommandCancel, Room: "r", Caller: wait.Caller, Cancel: &Cancel{Store: DefaultStore, Key: "k", Waiter: "second"},
	}
	if r := w.must(cancel); r.Fence != done.Fence || r.Changed {
		t.Errorf("a cancel after the grant: %+v", r)
	}
	w.must(single("r", wait.Caller, Operation{Kind: OpRelease, Key: "k", Fence: done.Fence}))
	if got := code(w.one(cancel)); got != CodeLockTimeout {
		t.Errorf("a cancel after the release: %q", got)
	}
}

func TestView_Nodes(t *testing.T) {
	w := newWorld(t)
	w.propose(&Proposal{
		Controls: []Control{{Kind: ControlGenesis, Cluster: "c1"}, {Kind: ControlGenesis, Cluster: "c2"}, {Kind: ControlReplica, Node: "n0"}},
		Batches:  []Batch{{Node: "n0", Incarnation: 2, Register: &Register{PeerAddr: "p", HTTPAddr: "h", Version: "v", Features: []string{"f"}}}},
	})
	v := w.s.Publish()
	if v.Rev() != 0 || v.Cluster() != "c1" || !v.Replica("n0") || v.Replica("n1") {
		t.Errorf("rev %d, cluster %q", v.Rev(), v.Cluster())
	}
	var ids []string
	for _, n := range v.Nodes() {
		ids = append(ids, n.ID)
	}
	if n, ok := v.Node("n0"); !slices.Equal(ids, []string{"n0", "n1"}) || !ok || n.Incarnation != 2 || n.HTTPAddr != "h" {
		t.Errorf("nodes %v, n0 %+v", ids, n)
	}
	if _, ok := v.Node("n9"); ok {
		t.Error("an unknown node")
	}
	w.propose(&Proposal{Controls: []Control{{Kind: ControlReplica, Node: "n0", Off: true}}})
	if w.s.Publish().Replica("n0") || !v.Replica("n0") {
		t.Error("a replica for ever, or a view that changed")
	}
}

// TestView_Pages: lists go on after a name, within a prefix, sorted.
func TestView_Pages(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	for _, room := range []string{"rb", "ra", "s"} {
		w.joined(room)
	}
	for _, key := range []string{"poll/2", "host", "poll/1", "poll", "z"} {
		w.must(single("r", ada, putOp(key, "1")))
	}
	w.must(single("r", ada, Operation{Kind: OpPut, Store: "zoo", Key: "k", Value: []byte("123")}))
	w.must(single("r", ada, Operation{Kind: OpPut, Store: "a", Key: "k", Value: []byte("1")}))
	v := w.s.Publish()
	s := v.Session("r")
	keys := func(prefix, after string, most int) (list []string) {
		s.Entries(DefaultStore, prefix, after, func(e *Entry) bool {
			list = append(list, e.Key)
			return len(list) < most
		})
		return list
	}
	rooms := func(prefix, after string) (list []string) {
		v.Rooms(prefix, after, func(s *Session) bool {
			list = append(list, s.Room)
			return true
		})
		return list
	}
	for _, test := range []struct{ got, want []string }{
		{keys("", "", 9), []string{"host", "poll", "poll/1", "poll/2", "z"}},
		{keys("poll/", "", 9), []string{"poll/1", "poll/2"}},
		{keys("poll/", "poll/1", 9), []string{"poll/2"}},
		{keys("poll/", "a", 1), []string{"poll/1"}},
		{keys("poll/", "q", 9), nil},
		{keys("", "host", 2), []string{"poll", "poll/1"}},
		{rooms("", ""), []string{"r", "ra", "rb", "s"}},
		{rooms("r", "r"), []string{"ra", "rb"}},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
	want := []StoreInfo{{"a", 1, 2}, {DefaultStore, 5, 26}, {"zoo", 1, 4}}
	if d := cmp.Diff(want, s.Stores()); d != "" {
		t.Errorf("stores (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]StoreInfo{{Store: DefaultStore}}, v.Session("s").Stores()); d != "" {
		t.Errorf("stores of an empty session (-want +got):\n%s", d)
	}
}

func TestEvent_EncodedOnce(t *testing.T) {
	e, calls := &Event{Rev: 7}, 0
	encode := func(*Event) []byte { calls++; return []byte("x") }
	f := newFrame(7, []*Event{e})
	encodeFrame := func(f *Frame) []byte { calls++; return f.Events[0].Encoded(encode) }
	for range 3 {
		if string(f.Encoded(encodeFrame)) != "x" || string(e.Encoded(encode)) != "x" {
			t.Fatal("another encoding")
		}
	}
	if calls != 2 {
		t.Errorf("encoded %d times", calls)
	}
}
