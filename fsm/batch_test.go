package fsm

import (
	"fmt"
	"testing"
)

func TestState_Batches(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r") // batch 1 of n1
	batch := func(incarnation, seq uint64, value string) BatchOutcome {
		b := Batch{Node: "n1", Incarnation: incarnation, Seq: seq}
		if value != "" {
			b.Commands = []Command{single("r", ada, putOp("k", value))}
		}
		return w.propose(&Proposal{Batches: []Batch{b}}).Batches[0]
	}
	register := func(incarnation uint64) BatchStatus {
		return w.propose(&Proposal{Batches: []Batch{{Node: "n1", Incarnation: incarnation, Register: &Register{}}}}).Batches[0].Status
	}
	expect := func(what string, got, want BatchStatus) {
		t.Helper()
		if got != want {
			t.Errorf("%s: status %d, want %d", what, got, want)
		}
	}
	expect("the next number", batch(1, 2, "1").Status, BatchApplied)
	again := batch(1, 2, "2")
	expect("the same number", again.Status, BatchRepeated)
	if len(again.Results) != 1 || again.Results[0].Ops[0].Version != 1 {
		t.Errorf("a repeat answers %+v", again.Results)
	}
	rev := w.s.rev
	expect("a number too far", batch(1, 4, "3").Status, BatchGap)
	expect("a batch given up", batch(1, 3, "").Status, BatchApplied)
	expect("its first copy, late", batch(1, 3, "4").Status, BatchRepeated)
	if w.s.rev != rev {
		t.Error("what changes nothing took a revision")
	}
	expect("the same incarnation", register(1), BatchRepeated)
	expect("the number after", batch(1, 4, "5").Status, BatchApplied)
	expect("an incarnation that is not registered", batch(2, 1, "6").Status, BatchStale)
	expect("a higher incarnation", register(5), BatchApplied)
	expect("an older one's batch", batch(1, 5, "7").Status, BatchStale)
	expect("an older one's registration", register(4), BatchStale)
	expect("the first of the new", batch(5, 1, "8").Status, BatchApplied)
	if v := string(w.s.Publish().Session("r").Entry(DefaultStore, "k").Value); v != "8" {
		t.Errorf("the value is %s", v)
	}
	for seq := uint64(2); seq <= 3*BatchWindow; seq++ {
		batch(5, seq, fmt.Sprint(seq))
	}
	view := w.s.Publish()
	for seq := uint64(1); seq <= 3*BatchWindow; seq++ {
		results, last, ok := view.BatchResults("n1", 5, seq)
		if last != 3*BatchWindow || ok != (seq > 2*BatchWindow) || ok && len(results) != 1 {
			t.Errorf("batch %d: %+v, last %d, kept %v", seq, results, last, ok)
		}
	}
	w.restart()
	expect("a repeat after a restart", batch(5, 3*BatchWindow, "x").Status, BatchRepeated)
	w.propose(&Proposal{Controls: []Control{{Kind: ControlForget, Node: "n1"}}})
	expect("a node forgotten", batch(5, 3*BatchWindow+1, "x").Status, BatchStale)
}

// TestState_StoredResultsAreBounded: what the state keeps for repeats of batches
// does not grow with what the commands read.
func TestState_StoredResultsAreBounded(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	value := make([]byte, 60_000)
	for i := range value {
		value[i] = '1'
	}
	w.must(single("r", ada, putOp("big", string(value))))
	gets := make([]Operation, 30)
	for i := range gets {
		gets[i] = Operation{Kind: OpGet, Store: DefaultStore, Key: "big"}
	}
	read := Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{Then: gets}}
	results, _ := w.do(read, read, single("r", ada, putOp("k", "1")))
	for i, r := range results {
		if r.Refusal != nil {
			t.Fatalf("command %d: %v", i, r.Refusal)
		}
	}
	kept, _, ok := w.s.Publish().BatchResults("n1", 1, w.seq)
	if !ok || len(kept) != 3 || code(kept[0]) != CodeUnknownOutcome || kept[2].Rev != results[2].Rev {
		t.Errorf("kept %+v", kept)
	}
	read.Txn.Then = append(gets, gets...)
	if no := w.one(read).Refusal; no == nil || no.Details.Limit != "result_bytes" {
		t.Errorf("3.6 MB of results: %+v", no)
	}
}

// TestState_APanicIsARefusal: a session is broken from inside so that one command
// panics between two others.
func TestState_APanicIsARefusal(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	w.must(single("r", ada, putOp("a", "0")))
	c := &change{s: w.s, out: new(Outcome)}
	c.begin("r", ada)
	c.write().stores.write(w.s.gen).Set("broken", nil)
	w.seq++
	rev, index := w.s.rev, w.s.index
	broken := single("r", ada, Operation{Kind: OpPut, Store: "broken", Key: "k", Value: []byte("1")})
	out := w.propose(&Proposal{Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: w.seq, Commands: []Command{
		single("r", ada, putOp("a", "1")), broken, single("r", ada, putOp("b", "1")),
		{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{Then: []Operation{putOp("c", "1"), broken.Txn.Then[0]}}},
		single("r", ada, putOp("a", "2")),
	}}}})
	want := []Code{"", CodeInternal, "", CodeInternal, ""}
	for i, r := range out.Batches[0].Results {
		if code(r) != want[i] {
			t.Errorf("command %d: got %q, want %q", i, code(r), want[i])
		}
	}
	view := w.s.Publish()
	if view.Rev() != rev+3 || view.Index() != index+1 || len(out.Frames) != 3 {
		t.Errorf("rev %d then %d, index %d, %d frames", rev, view.Rev(), view.Index(), len(out.Frames))
	}
	s := view.Session("r")
	if e := s.Entry(DefaultStore, "a"); e.Version != 3 || s.Entry(DefaultStore, "c") != nil {
		t.Errorf("a is %+v, c is %+v", e, s.Entry(DefaultStore, "c"))
	}
}

func TestState_Limits(t *testing.T) {
	limits := Limits{
		ValueBytes: 10, KeysPerStore: 3, Stores: 2, SessionBytes: 40, Peers: 2, PeerDataBytes: 8, Locks: 2, LockWaiters: 1,
	}
	w := newWorld(t)
	join := joinCommand("r")
	join.Open.Limits = limits
	r := w.must(join)
	ada := Caller{Kind: CallerPeer, Peer: r.Peer}
	bob := w.joined("r")
	put := func(store, key, value string) Command {
		return single("r", ada, Operation{Kind: OpPut, Store: store, Key: key, Value: []byte(value)})
	}
	acquire := func(by Caller, key string, wait int64) Command {
		cmd := acquireCommand("r", by, 0, wait)
		cmd.Acquire.Key = key
		return cmd
	}
	data := joinCommand("r")
	data.Join.Data = []byte(`"123456789"`)
	steps := []struct {
		name    string
		cmd     Command
		limit   string
		max, is int64
	}{
		{"a value", put("default", "a", "12345678901"), "value_bytes", 10, 11},
		{"a value that fits", put("default", "a", "1234567890"), "", 0, 0},
		{"a second store", put("two", "a", "1"), "", 0, 0},
		{"a third store", put("three", "a", "1"), "stores", 2, 3},
		{"keys", put("default", "b", "1"), "", 0, 0},
		{"more keys", put("default", "c", "1"), "", 0, 0},
		{"a key too many", put("default", "d", "1"), "keys_per_store", 3, 4},
		{"an old key", put("default", "c", "2"), "", 0, 0},
		{"bytes", put("two", "long key", "1234567890"), "", 0, 0},
		{"bytes too many", put("two", "a", "1234567"), "session_bytes", 40, 41},
		{"a peer", joinCommand("r"), "peers", 2, 3},
		{"peer data", data, "peer_data_bytes", 8, 11},
		{"a lock", acquire(ada, "x", 0), "", 0, 0},
		{"another", acquire(ada, "y", 0), "", 0, 0},
		{"a third", acquire(ada, "z", 0), "locks", 2, 3},
		{"a waiter", acquire(bob, "x", 1000), "", 0, 0},
	}
	for _, step := range steps {
		before := w.s.Publish().Session("r").Counts()
		no := w.one(step.cmd).Refusal
		switch {
		case step.limit == "" && no != nil:
			t.Errorf("%s: %v %+v", step.name, no, no.Details)
		case step.limit == "":
		case no == nil || no.Details.Limit != step.limit || no.Details.Max != step.max:
			t.Errorf("%s: got %+v", step.name, no)
		case no.Details.Actual != step.is:
			t.Errorf("%s: actual %d, want %d", step.name, no.Details.Actual, step.is)
		case w.s.Publish().Session("r").Counts() != before:
			t.Errorf("%s was refused and changed something", step.name)
		}
	}
}

func TestCommand_Check(t *testing.T) {
	ok := single("r", Caller{}, putOp("k", "1"))
	long := string(make([]byte, 300))
	for name, spoil := range map[string]func(*Command){
		"no room":           func(c *Command) { c.Room = "" },
		"a long room":       func(c *Command) { c.Room = long },
		"a NUL in a key":    func(c *Command) { c.Txn.Then[0].Key = "a\x00b" },
		"a long key":        func(c *Command) { c.Txn.Then[0].Key = long },
		"no store":          func(c *Command) { c.Txn.Then[0].Store = "" },
		"no value":          func(c *Command) { c.Txn.Then[0].Value = nil },
		"a negative TTL":    func(c *Command) { c.Txn.Then[0].TTL = -1 },
		"an endless TTL":    func(c *Command) { c.Txn.Then[0].TTL = 1 << 62 },
		"no operation":      func(c *Command) { c.Txn.Then = nil },
		"129 operations":    func(c *Command) { c.Txn = &Txn{Then: make([]Operation, 129)} },
		"no transaction":    func(c *Command) { c.Txn = nil },
		"another operation": func(c *Command) { c.Txn.Then[0].Kind = 77 },
		"another kind":      func(c *Command) { c.Kind = 77 },
		"no acquire":        func(c *Command) { c.Kind = CommandAcquire },
		"no join":           func(c *Command) { c.Kind = CommandJoin },
		"no attach":         func(c *Command) { c.Kind = CommandAttach },
		"no cancel":         func(c *Command) { c.Kind = CommandCancel },
		"no target":         func(c *Command) { c.Kind = CommandLeave },
		"a peer of nobody":  func(c *Command) { c.Caller.Peer = "p1" },
		"an endless room":   func(c *Command) { c.Open = &Open{} },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := ok
			cmd.Txn = &Txn{Single: true, Then: []Operation{ok.Txn.Then[0]}}
			spoil(&cmd)
			w := newWorld(t)
			w.joined("r")
			before := w.s.Publish().Rev()
			if got := code(w.one(cmd)); got != CodeBadRequest || w.s.rev != before {
				t.Errorf("got %q", got)
			}
		})
	}
	if no := ok.Check(); no != nil {
		t.Errorf("a good command: %+v", no)
	}
}
