package fsm

import (
	"fmt"
	"testing"
)

// What users of in-call stores ask for and none of these has, where it is up to
// the state. docs/migrating.md names these tests; the guarantees' own go deeper.

func TestUsersAsk_CompareAndSet(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	seen := w.must(single("r", ada, putOp("host", `"ada"`)))
	set := putOp("host", `"bob"`)
	for name, condition := range map[string]*If{
		"rev": {Rev: &seen.Rev}, "version": {Version: &seen.Ops[0].Version}, "value": {Value: []byte(`"ada"`)},
	} {
		set.If = condition
		results, _ := w.do(single("r", ada, set), single("r", bob, set))
		if results[0].Refusal != nil || code(results[1]) != CodeConflict {
			t.Errorf("by %s: %v, %v", name, results[0].Refusal, results[1].Refusal)
		}
		w.must(single("r", ada, Operation{Kind: OpDelete, Key: "host"}))
		seen = w.must(single("r", ada, putOp("host", `"ada"`)))
	}
}

func TestUsersAsk_CreateIfAbsent(t *testing.T) {
	w := newWorld(t)
	var racers []Command
	for range 10 {
		timer := putOp("timer", `{"minutes":5}`)
		timer.If = &If{Absent: true}
		racers = append(racers, single("r", w.joined("r"), timer))
	}
	results, _ := w.do(racers...)
	for i, r := range results {
		if won := r.Refusal == nil; won != (i == 0) {
			t.Errorf("racer %d created it: %v", i, won)
		}
	}
	if v := w.s.Publish().Session("r").Entry(DefaultStore, "timer").Version; v != 1 {
		t.Errorf("created %d times", v)
	}
}

func TestUsersAsk_TransactionsOverSeveralKeys(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	w.must(single("r", ada, putOp("host", `"ada"`)))
	hand := func(by string) Command {
		return Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{
			If: []Condition{{Store: DefaultStore, Key: "host", If: If{Value: []byte(fmt.Sprintf("%q", by))}}},
			Then: []Operation{
				putOp("host", `"bob"`), putOp("spotlight", `"bob"`),
				{Kind: OpAdd, Store: DefaultStore, Key: "handovers", Value: []byte("1")},
			},
			Else: []Operation{{Kind: OpGet, Store: DefaultStore, Key: "host"}},
		}}
	}
	results, out := w.do(hand("ada"), hand("ada"))
	if !results[0].Applied || results[1].Applied || string(results[1].Ops[0].Entry.Value) != `"bob"` {
		t.Errorf("%+v", results)
	}
	if len(out.Frames) != 1 || len(out.Frames[0].Frame.Events) != 3 {
		t.Errorf("watchers get %d frames", len(out.Frames))
	}
	half := Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{Then: []Operation{
		putOp("host", `"eve"`), {Kind: OpAdd, Store: DefaultStore, Key: "spotlight", Value: []byte("1")},
	}}}
	if r := w.one(half); code(r) != CodeWrongType || *r.Refusal.Details.Index != 1 {
		t.Errorf("%+v", r.Refusal)
	}
	if got := string(w.s.Publish().Session("r").Entry(DefaultStore, "host").Value); got != `"bob"` {
		t.Errorf("half a transaction was applied: %s", got)
	}
}

// TestUsersAsk_LocksThatTheServerEnforces, with fencing tokens: who lost the lock
// cannot write any more, whatever it believes. There are never two holders, by
// nobody's clock.
func TestUsersAsk_LocksThatTheServerEnforces(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	write := func(by Caller, fence uint64) Code {
		op := putOp("k", "1")
		op.Fence = fence
		return code(w.one(single("r", by, op)))
	}
	first := w.must(acquireCommand("r", ada, 5000, 0)).Fence
	if r := w.one(acquireCommand("r", bob, 5000, 0)); code(r) != CodeLocked || r.Refusal.Details.Owner != ada.Peer {
		t.Errorf("a second holder: %+v", r.Refusal)
	}
	if got := write(bob, 0); got != CodeLocked {
		t.Errorf("past the lock: %q", got)
	}
	if got := write(ada, first); got != "" {
		t.Errorf("the holder: %q", got)
	}
	w.now += 5000
	w.due()
	second := w.must(acquireCommand("r", bob, 5000, 0)).Fence
	if got := write(ada, first); got != CodeStaleFence || second <= first {
		t.Errorf("who was too late: %q; the fence went from %d to %d", got, first, second)
	}
}

func TestUsersAsk_AFairQueue(t *testing.T) {
	w := newWorld(t)
	holder := w.joined("r")
	fence := w.must(acquireCommand("r", holder, 0, 0)).Fence
	var line []Caller
	for i := range 5 {
		line = append(line, w.joined("r"))
		if r := w.must(acquireCommand("r", line[i], 0, 60_000)); r.Waiting != i+1 {
			t.Errorf("number %d stands at %d", i+1, r.Waiting)
		}
	}
	gone := line[1] // who leaves does not hold up the line
	w.must(Command{Kind: CommandLeave, Room: "r", Caller: gone, Target: gone.Peer})
	for _, next := range []Caller{line[0], line[2], line[3], line[4]} {
		_, out := w.do(single("r", holder, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
		if l := w.s.Publish().Session("r").Lock(DefaultStore, "k"); len(out.Grants) != 1 || l.Holders[0].Owner.Peer != next.Peer {
			t.Fatalf("it is granted to %+v, the next in line is %s", l.Holders, next.Peer)
		}
		holder, fence = next, out.Grants[0].Fence
	}
}

func TestUsersAsk_ASessionEpochThatRefusesLateWrites(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	old := w.s.Publish().Session("r").ID
	w.must(Command{Kind: CommandEnd, Room: "r"})
	w.joined("r")
	late := single("r", ada, putOp("k", `"late"`))
	late.Session = old
	if r := w.one(late); code(r) != CodeSessionEnded {
		t.Errorf("a write of the last session: %v", r.Refusal)
	}
	late.Session = ""
	if r := w.one(late); r.Refusal == nil {
		t.Error("a peer of the last session writes in this one")
	}
	if got := w.s.Publish().Session("r").Counts().Keys; got != 0 {
		t.Errorf("%d keys", got)
	}
}

func TestUsersAsk_AuthorAndVersionInEvents(t *testing.T) {
	w := newWorld(t)
	join := joinCommand("r")
	join.Join.Ref, join.Caller.User = "u7", "ada@example.org"
	r := w.must(join)
	ada := Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen, User: "ada@example.org"}
	w.must(single("r", ada, putOp("k", "1")))
	results, out := w.do(single("r", ada, putOp("k", "2")), single("r", ada, Operation{Kind: OpDelete, Key: "k"}))
	put, del := out.Frames[0].Frame.Events[0], out.Frames[1].Frame.Events[0]
	if put.Entry.Version != 2 || put.Rev != results[0].Rev || put.By.Peer != r.Peer || put.By.Ref != "u7" || put.By.User != "ada@example.org" || put.At == 0 {
		t.Errorf("put by %+v, version %d", put.By, put.Entry.Version)
	}
	if del.By.Peer != r.Peer || del.Reason != "deleted" {
		t.Errorf("%s by %+v", del.Reason, del.By)
	}
}

func TestUsersAsk_IdempotentRetries(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	add := single("r", ada, Operation{Kind: OpAdd, Key: "count", Value: []byte("1")})
	add.Client, add.Request = "app", 1
	for range 3 {
		if r := w.must(add); string(r.Ops[0].Value) != "1" {
			t.Errorf("answered %s", r.Ops[0].Value)
		}
	}
	if got := string(w.s.Publish().Session("r").Entry(DefaultStore, "count").Value); got != "1" {
		t.Errorf("three copies of one increment count %s", got)
	}
}

func TestUsersAsk_AtomicAppendAndIncrement(t *testing.T) {
	w := newWorld(t)
	var racers []Command
	for i := range 50 {
		p := w.joined("r")
		racers = append(racers, single("r", p, Operation{Kind: OpAdd, Key: "count", Value: []byte("2")}),
			single("r", p, Operation{Kind: OpAppend, Key: "list", Value: []byte(fmt.Sprintf("[%d]", i))}))
	}
	w.do(racers...)
	s := w.s.Publish().Session("r")
	list, _ := splitArray(s.Entry(DefaultStore, "list").Value)
	if got := string(s.Entry(DefaultStore, "count").Value); got != "100" || len(list) != 50 {
		t.Errorf("counted %s, %d items", got, len(list))
	}
}

func TestUsersAsk_KeysThatGoWithTheirWriter(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	w.joined("r")
	hand := putOp("hand/ada", "null")
	hand.Bind = ada.Peer
	w.must(single("r", ada, hand))
	w.must(single("r", ada, putOp("pinned", `"stays"`)))
	w.must(Command{Kind: CommandDetach, Room: "r", Target: ada.Peer, Caller: ada})
	if w.s.Publish().Session("r").Entry(DefaultStore, "hand/ada") == nil {
		t.Error("a lost connection took the key along")
	}
	w.now += 15_000
	out := w.due()
	s := w.s.Publish().Session("r")
	if s.Entry(DefaultStore, "hand/ada") != nil || s.Entry(DefaultStore, "pinned") == nil {
		t.Error("not the bound key, and it alone, went with its writer")
	}
	if e := out.Frames[0].Frame.Events[0]; e.Type != EventDelete || e.Reason != "unbound" {
		t.Errorf("watchers are told %s %s", e.Type, e.Reason)
	}
}

func TestUsersAsk_KeysWithATTL(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	banner := putOp("banner", `"back in five"`)
	banner.TTL = 5000
	w.must(single("r", ada, banner))
	w.now += 4999
	w.due()
	if w.s.Publish().Session("r").Entry(DefaultStore, "banner") == nil {
		t.Fatal("gone too soon")
	}
	w.now++
	out := w.due()
	if e := out.Frames[0].Frame.Events[0]; w.s.Publish().Session("r").Entry(DefaultStore, "banner") != nil || e.Reason != "expired" {
		t.Errorf("watchers are told %s", e.Reason)
	}
}

// TestUsersAsk_StateBeforeTheFirstPeer: a server puts it there, the first peer
// finds it, and if nobody comes it goes.
func TestUsersAsk_StateBeforeTheFirstPeer(t *testing.T) {
	seed := Command{
		Kind: CommandOpen, Room: "r", Open: &Open{Limits: standardLimits, Grace: 15_000, Idle: 60_000},
		Txn: &Txn{Then: []Operation{putOp("stage", "null"), {Kind: OpPut, Store: "plan", Key: "1", Value: []byte(`["ada"]`)}}},
	}
	w := newWorld(t)
	opened := w.must(seed)
	w.now += 59_999
	w.due()
	if r := w.must(joinCommand("r")); r.Session != opened.Session || w.s.Publish().Session("r").Counts().Keys != 2 {
		t.Error("the first peer finds another session")
	}
	w.now += 600_000 // somebody came: no timeout runs any more
	w.due()
	if w.s.Publish().Session("r") == nil {
		t.Error("the idle timeout ended a session that has a peer")
	}

	w = newWorld(t)
	w.must(seed)
	w.now += 60_000
	w.due()
	if w.s.Publish().Session("r") != nil {
		t.Error("nobody came, and it is still there")
	}
}
