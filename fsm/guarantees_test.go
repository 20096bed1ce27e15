package fsm

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestG3_OneOfManyRacersWins(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	seen := w.must(single("r", ada, putOp("k", "0"))).Rev
	for round := range 20 {
		racers := make([]Command, 50)
		for i := range racers {
			op := putOp("k", fmt.Sprint(round*100+i))
			op.If = &If{Rev: &seen}
			racers[i] = single("r", ada, op)
		}
		results, _ := w.do(racers...)
		winner := results[0]
		if winner.Refusal != nil {
			t.Fatalf("round %d: nobody won: %v", round, winner.Refusal)
		}
		for _, r := range results[1:] {
			if code(r) != CodeConflict {
				t.Fatalf("round %d: two won, or %v", round, r.Refusal)
			}
			if d := r.Refusal.Details; d.Rev != winner.Rev || d.Version != winner.Ops[0].Version || string(d.Value) != fmt.Sprint(round*100) {
				t.Errorf("a loser learns %+v", d)
			}
		}
		seen = winner.Rev
	}
}

func TestG4_AWriteNeedsTheCurrentFenceOfItsOwner(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	http := Caller{User: "u", Owner: ada.Peer} // a name that looks like a peer
	write := func(by Caller, fence uint64) Code {
		op := putOp("k", "1")
		op.Fence = fence
		return code(w.one(single("r", by, op)))
	}
	fence := uint64(0)
	for i := range 5 {
		r := w.must(acquireCommand("r", ada, 5000, 0))
		if r.Fence <= fence {
			t.Fatalf("the fence went from %d to %d", fence, r.Fence)
		}
		old := fence
		fence = r.Fence
		for _, test := range []struct {
			by    Caller
			fence uint64
			want  Code
		}{
			{ada, fence, ""},
			{ada, 0, CodeLocked},
			{bob, 0, CodeLocked},
			{bob, fence, CodeStaleFence},
			{http, fence, CodeStaleFence},
			{ada, fence + 1, CodeStaleFence},
			{ada, old, map[bool]Code{true: CodeLocked, false: CodeStaleFence}[old == 0]},
		} {
			if got := write(test.by, test.fence); got != test.want {
				t.Errorf("by %+v with fence %d: got %q, want %q", test.by, test.fence, got, test.want)
			}
		}
		if i%2 == 0 { // the lock goes by release, and by the end of its lease
			w.must(single("r", ada, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
		} else {
			w.now += 5000
			w.due()
		}
		if got := write(ada, fence); got != CodeStaleFence {
			t.Errorf("after the end: %q", got)
		}
		w.restart()
	}
}

// acquireCommand asks for the lock on k.
func acquireCommand(room string, by Caller, ttl, wait int64) Command {
	return Command{
		Kind: CommandAcquire, Room: room, Caller: by,
		Acquire: &Acquire{Store: DefaultStore, Key: "k", Wait: wait, Lock: LockRequest{TTL: ttl}},
	}
}

// restart goes through a snapshot.
func (w *world) restart() {
	w.t.Helper()
	var file bytes.Buffer
	if err := w.s.Publish().WriteSnapshot(&file); err != nil {
		w.t.Fatal(err)
	}
	s, err := ReadSnapshot(&file)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.Publish().Hash() != w.hash() {
		w.t.Fatal("a restored state is another")
	}
	w.s = s
}

func TestG6_OneReleaseWakesOneWaiter(t *testing.T) {
	w := newWorld(t)
	holder := w.joined("r")
	fence := w.must(acquireCommand("r", holder, 5000, 0)).Fence
	var waiting []Caller
	for range 10 {
		waiting = append(waiting, w.joined("r"))
		w.must(acquireCommand("r", waiting[len(waiting)-1], 5000, 60_000))
	}
	for i, next := range waiting {
		_, out := w.do(single("r", holder, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
		if len(out.Grants) != 1 || out.Grants[0].Refusal != nil {
			t.Fatalf("release %d: grants %+v", i, out.Grants)
		}
		l := w.s.Publish().Session("r").Lock(DefaultStore, "k")
		if l.Holders[0].Owner.Peer != next.Peer || l.Waiting() != len(waiting)-1-i {
			t.Fatalf("release %d: held by %+v", i, l.Holders)
		}
		holder, fence = next, out.Grants[0].Fence
	}
}

func TestG9_ARepeatedRequestIsAppliedOnce(t *testing.T) {
	big := putOp("big", `"`+string(bytes.Repeat([]byte("x"), 1000))+`"`)
	never := uint64(99)
	refused := putOp("a", "1")
	refused.If = &If{Rev: &never}
	tests := map[string]func(by Caller) Command{
		"put":    func(by Caller) Command { return single("r", by, putOp("a", "1")) },
		"delete": func(by Caller) Command { return single("r", by, Operation{Kind: OpDelete, Key: "seed"}) },
		"a refusal": func(by Caller) Command {
			return single("r", by, refused)
		},
		"a transaction with its reads": func(by Caller) Command {
			return Command{Kind: CommandTxn, Room: "r", Caller: by, Txn: &Txn{Then: []Operation{
				big, {Kind: OpGet, Store: DefaultStore, Key: "big"}, {Kind: OpGet, Store: DefaultStore, Key: "none"},
			}}}
		},
		"acquire": func(by Caller) Command { return acquireCommand("r", by, 5000, 0) },
		"a change of a peer": func(by Caller) Command {
			name := "x"
			return Command{Kind: CommandSetPeer, Room: "r", Caller: by, Target: by.Peer, SetPeer: &SetPeer{Name: &name}}
		},
	}
	for name, command := range tests {
		for _, identity := range []string{"client", "idem"} {
			t.Run(name+" by "+identity, func(t *testing.T) {
				w := newWorld(t)
				ada := w.joined("r")
				w.must(single("r", ada, putOp("seed", "1")))
				cmd := command(ada)
				if identity == "client" {
					cmd.Client, cmd.Request = "c", 7
				} else {
					cmd.Idem, cmd.Hash = "key", []byte("h")
				}
				first := w.one(cmd)
				w.must(single("r", ada, putOp("a", "2"))) // others go on meanwhile
				rev := w.s.rev
				w.restart()
				again := w.one(cmd)
				if !again.Repeated || w.s.rev != rev {
					t.Fatalf("applied again: %+v, rev %d then %d", again, rev, w.s.rev)
				}
				again.Repeated = false
				if d := cmp.Diff(first, again); d != "" {
					t.Errorf("another answer (-first +again):\n%s", d)
				}
			})
		}
	}
}

func TestG9_WhatIsForgottenIsNotAppliedAgain(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	fence := w.must(acquireCommand("r", w.joined("r"), 5000, 0)).Fence
	wait := acquireCommand("r", ada, 5000, 60_000)
	wait.Client, wait.Request = "c", 1
	w.must(wait)
	const n = 2000
	put := func(id uint64) Command {
		cmd := single("r", ada, putOp("a", "1"))
		cmd.Client, cmd.Request = "c", id
		return cmd
	}
	for id := uint64(2); id <= n; id++ {
		w.must(put(id))
	}
	rev := w.s.rev
	for id := uint64(2); id <= n; id++ {
		r := w.one(put(id))
		if w.s.rev != rev {
			t.Fatalf("request %d was applied again", id)
		}
		switch code(r) {
		case "":
		case CodeUnknownOutcome:
			if id > n-rememberedResults {
				t.Fatalf("request %d of %d is forgotten", id, n)
			}
		default:
			t.Fatal(r.Refusal)
		}
	}
	if got := w.one(put(2)).Refusal; got == nil || got.Details.Reason != "forgotten" {
		t.Errorf("the oldest: %+v", got)
	}
	if r := w.must(wait); r.Waiting != 1 {
		t.Errorf("a waiting acquire aged out: %+v", r)
	}
	if r := w.must(single("r", ada, putOp("b", "1"))); !r.Changed {
		t.Errorf("a request without an identity: %+v", r)
	}
	w.now += 5000
	w.due()
	if r := w.must(wait); r.Fence <= fence {
		t.Errorf("the wait that ended answers %+v", r)
	}
}

func TestG9_AFullMemoryRefusesNewClients(t *testing.T) {
	w := newWorld(t)
	join := joinCommand("r")
	join.Open.Limits.Peers = 2
	r := w.must(join)
	ada := Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}
	most := clientsPerPeer*2 + extraClients
	put := func(client string) Command {
		cmd := single("r", ada, putOp("a", "1"))
		cmd.Client, cmd.Request = client, 1
		return cmd
	}
	for i := range most {
		w.must(put(fmt.Sprint("client ", i)))
	}
	no := w.one(put("one too many")).Refusal
	if no == nil || no.Code != CodeLimitExceeded || no.Details.Limit != "request_memory" {
		t.Fatalf("got %+v", no)
	}
	if r := w.must(put("client 0")); !r.Repeated {
		t.Error("the first client was forgotten")
	}
	// Their peer is still there, so nobody is forgotten, however long it takes.
	w.now += 10 * rememberFor
	if code(w.one(put("one too many"))) != CodeLimitExceeded {
		t.Error("a client was forgotten whose peer is in the session")
	}
	bob := w.joined("r")
	w.must(Command{Kind: CommandLeave, Room: "r", Caller: ada, Target: ada.Peer})
	w.now += sweepEvery
	cmd := single("r", bob, putOp("a", "2"))
	cmd.Client, cmd.Request = "bob's", 1
	w.must(cmd)
	if n := w.s.Publish().Session("r").memory.clients.len(); n != 1 {
		t.Errorf("%d clients are kept", n)
	}
}

func TestG9_IdempotencyKeys(t *testing.T) {
	w := newWorld(t)
	by := Caller{User: "u"}
	cmd := single("r", by, putOp("a", "1"))
	cmd.Open = &Open{Limits: standardLimits, Idle: 100 * rememberFor}
	cmd.Idem, cmd.Hash = "key", []byte("one")
	first := w.must(cmd)
	if !first.Created {
		t.Fatal("no session was opened")
	}
	t.Run("the same key with another request is refused", func(t *testing.T) {
		other := cmd
		other.Hash = []byte("two")
		if got := code(w.one(other)); got != CodeBadRequest {
			t.Errorf("got %q", got)
		}
	})
	t.Run("the same key of another subject is another key", func(t *testing.T) {
		other := cmd
		other.Caller.User, other.Hash = "v", []byte("two")
		if r := w.must(other); r.Repeated {
			t.Error("answered another's request")
		}
	})
	t.Run("it is remembered for ten minutes and then gone", func(t *testing.T) {
		w.now += rememberFor - 1
		if r := w.must(cmd); !r.Repeated || r.Rev != first.Rev {
			t.Errorf("after nearly ten minutes: %+v", r)
		}
		w.now++
		if r := w.must(cmd); r.Repeated || r.Ops[0].Version != 3 {
			t.Errorf("after ten minutes: %+v", r)
		}
		if m := &w.s.Publish().Session("r").memory; m.idems.len() != 1 || len(m.idemOrder) != 1 {
			t.Errorf("%d keys are kept, %v", m.idems.len(), m.idemOrder)
		}
	})
}

func TestG10_NothingOfAnEndedSessionLivesOn(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	old := w.s.Publish().Session("r").ID
	w.must(single("r", ada, putOp("a", "1")))
	ttl := putOp("ttl", "1")
	ttl.TTL = 5000
	w.must(single("r", ada, ttl))
	fence := w.must(acquireCommand("r", ada, 5000, 0)).Fence
	var timers []Control
	w.s.Publish().Deadlines(func(d Deadline) {
		d.Timer.Term = w.term
		timers = append(timers, d.Timer)
	})
	_, out := w.do(Command{Kind: CommandEnd, Room: "r", Client: "c", Request: 9})
	if f := out.Frames[0]; !f.Ended || f.Frame.Events[0].State != "ended" {
		t.Fatalf("frame %+v", f)
	}
	bob := w.joined("r")
	s := w.s.Publish().Session("r")
	if got, want := s.Counts(), (Counts{Peers: 1, Stores: 1}); got != want {
		t.Errorf("the next session begins with %+v", got)
	}
	guarded := putOp("k", "1")
	guarded.Fence = fence
	for name, cmd := range map[string]Command{
		"a write of the old peer":   single("r", ada, putOp("a", "2")),
		"a write naming the old":    {Kind: CommandTxn, Room: "r", Session: old, Caller: bob, Txn: &Txn{Then: []Operation{putOp("a", "2")}}},
		"a resume of the old peer":  {Kind: CommandAttach, Room: "r", Attach: &Attach{Peer: ada.Peer, Key: "secret", Node: "n1", Incarnation: 1}},
		"an end naming the old":     {Kind: CommandEnd, Room: "r", Session: old},
		"an entry bound to the old": single("r", bob, Operation{Kind: OpPut, Key: "a", Value: []byte("1"), Bind: ada.Peer}),
	} {
		if got := code(w.one(cmd)); got != CodeSessionEnded {
			t.Errorf("%s: got %q, want session_ended", name, got)
		}
	}
	if got := code(w.one(single("r", bob, guarded))); got != CodeStaleFence {
		t.Errorf("an old fence: %q", got)
	}
	w.now += 60_000
	rev := w.s.rev
	w.propose(&Proposal{Controls: timers})
	if w.s.rev != rev {
		t.Error("a timer of the old session changed the next")
	}
	if r := w.must(Command{Kind: CommandEnd, Room: "r", Client: "c", Request: 9}); !r.Repeated || w.s.Publish().Session("r") == nil {
		t.Errorf("the repeated end ended the next session: %+v", r)
	}
	w.restart()
	w.now += rememberFor
	if r := w.must(Command{Kind: CommandEnd, Room: "r", Client: "c", Request: 9}); r.Repeated {
		t.Error("the end is remembered for ever")
	}
}
