package fsm

// tester is what the harness needs of a test; rapid's has it too.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// standardLimits are those of the standard profile.
var standardLimits = Limits{
	ValueBytes: 64 << 10, KeysPerStore: 1000, Stores: 32, SessionBytes: 1 << 20, Peers: 2500, PeerDataBytes: 4 << 10,
	MessageBytes: 4 << 10, Locks: 1000, LockWaiters: 1000, WritesPerS: 100, WritesBurst: 200,
}

// world is a State with a leader around it: it stamps proposals, numbers the
// batches of a node n1, and keeps every proposal for a replay.
type world struct {
	t           tester
	s           *State
	index, term uint64
	now         int64
	seq         uint64
	log         []logged
}

type logged struct {
	term     uint64
	proposal *Proposal
}

func newWorld(t tester) *world {
	w := &world{t: t, s: NewState(), term: 1, now: 1000}
	w.propose(&Proposal{Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{Version: "test"}}}})
	return w
}

// propose applies one entry, after a trip through the codec.
func (w *world) propose(p *Proposal) *Outcome {
	w.t.Helper()
	p.V, p.Time, p.Wall = FormatVersion, w.now, 1_700_000_000_000+w.now
	data, err := EncodeProposal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	if p, err = DecodeProposal(data); err != nil {
		w.t.Fatal(err)
	}
	w.log = append(w.log, logged{w.term, p})
	w.index++
	return w.s.Apply(w.index, w.term, p)
}

// do applies commands as one batch.
func (w *world) do(cmds ...Command) ([]Result, *Outcome) {
	w.t.Helper()
	w.seq++
	out := w.propose(&Proposal{Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: w.seq, Commands: cmds}}})
	if got := out.Batches[0].Status; got != BatchApplied {
		w.t.Fatalf("batch %d: status %d", w.seq, got)
	}
	for _, r := range out.Batches[0].Results {
		if r.Refusal != nil && r.Refusal.Code == CodeInternal {
			w.t.Fatalf("a command panicked: %+v", cmds)
		}
	}
	return out.Batches[0].Results, out
}

// one applies a single command.
func (w *world) one(cmd Command) Result {
	w.t.Helper()
	results, _ := w.do(cmd)
	return results[0]
}

// must applies a single command that is not refused.
func (w *world) must(cmd Command) Result {
	w.t.Helper()
	r := w.one(cmd)
	if r.Refusal != nil {
		w.t.Fatalf("refused: %v %+v", r.Refusal, r.Refusal.Details)
	}
	return r
}

// due proposes, as a leader would, every timer whose moment has come.
func (w *world) due() *Outcome {
	w.t.Helper()
	var timers []Control
	w.s.Publish().Deadlines(func(d Deadline) {
		if d.At <= w.now {
			d.Timer.Term = w.term
			timers = append(timers, d.Timer)
		}
	})
	return w.propose(&Proposal{Controls: timers})
}

// joined adds a peer with a socket on n1 and returns it as a caller.
func (w *world) joined(room string) Caller {
	w.t.Helper()
	r := w.must(joinCommand(room))
	return Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}
}

func joinCommand(room string) Command {
	return Command{
		Kind: CommandJoin, Room: room, Open: &Open{Profile: "standard", Limits: standardLimits, Grace: 15_000},
		Join: &Join{Key: "secret", Node: "n1", Incarnation: 1},
	}
}

// single is a write of one operation.
func single(room string, caller Caller, op Operation) Command {
	if op.Store == "" {
		op.Store = DefaultStore
	}
	return Command{Kind: CommandTxn, Room: room, Caller: caller, Txn: &Txn{Single: true, Then: []Operation{op}}}
}

func putOp(key, value string) Operation {
	return Operation{Kind: OpPut, Store: DefaultStore, Key: key, Value: []byte(value)}
}

// hash is the hash of the state now.
func (w *world) hash() [32]byte { return w.s.Publish().Hash() }

func code(r Result) Code {
	if r.Refusal == nil {
		return ""
	}
	return r.Refusal.Code
}
