package fsm

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"conclave/lock"
)

// TestState_Replicas runs arbitrary commands and controls on two replicas, one of
// which goes through a snapshot now and then. They must give the same outcomes,
// not only the same state: whatever a snapshot leaves out shows here. And the
// state must agree with itself.
func TestState_Replicas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		other := newWorld(t)
		g := &generator{t: t, w: w}
		for range rapid.IntRange(1, 40).Draw(t, "entries") {
			p := g.proposal()
			published, hash := w.s.Publish(), w.hash()
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				other.restart()
			}
			if rapid.IntRange(0, 9).Draw(t, "new term") == 0 {
				w.term++
				other.term++
			}
			other.now = w.now
			copied := *p
			want, got := w.propose(p), other.propose(&copied)
			opts := cmp.Options{
				cmpopts.IgnoreUnexported(Event{}, Frame{}), cmpopts.EquateEmpty(),
			}
			if d := cmp.Diff(want, got, opts); d != "" {
				t.Fatalf("the replicas' outcomes differ (-first +second):\n%s", d)
			}
			if w.hash() != other.hash() {
				t.Fatal("the replicas' states differ")
			}
			if published.Hash() != hash {
				t.Fatal("a published view was changed")
			}
			for _, b := range want.Batches {
				for _, r := range b.Results {
					if r.Refusal != nil && r.Refusal.Code == CodeInternal {
						t.Fatalf("a command panicked: %+v", p)
					}
				}
			}
			g.learn(want)
			w.s.Publish().Rooms("", "", func(s *Session) bool {
				consistent(t, s)
				return true
			})
		}
	})
}

// generator draws proposals. It knows what a client would: ids and fences that
// it was told of, old ones too.
type generator struct {
	t      *rapid.T
	w      *world
	peers  []Caller
	fences []uint64
	batch  uint64
}

func (g *generator) learn(out *Outcome) {
	for _, b := range out.Batches {
		for _, r := range b.Results {
			if r.Peer != "" {
				g.peers = append(g.peers, Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen, User: "u"})
			}
			if r.Fence != 0 {
				g.fences = append(g.fences, r.Fence)
			}
		}
	}
	for _, grant := range out.Grants {
		g.fences = append(g.fences, grant.Fence)
	}
}

func (g *generator) n(label string, most int) int { return rapid.IntRange(0, most).Draw(g.t, label) }

func pick[T any](g *generator, label string, from []T) T {
	return rapid.SampledFrom(from).Draw(g.t, label)
}

func (g *generator) proposal() *Proposal {
	p := new(Proposal)
	g.w.now += int64(pick(g, "ms", []int{0, 1, 700, 4000, 40_000, 700_000}))
	g.w.s.Publish().Deadlines(func(d Deadline) {
		if d.At <= g.w.now+1000 && g.n("fire", 2) > 0 {
			d.Timer.Term = g.w.term
			p.Controls = append(p.Controls, d.Timer)
		}
	})
	if g.n("node gone", 9) == 0 {
		g.w.s.Publish().NodeUse(func(string, uint64) bool { return true }, func(ctl Control) {
			ctl.Term = g.w.term
			p.Controls = append(p.Controls, ctl)
		})
	}
	b := Batch{Node: "n1", Incarnation: 1, Seq: g.batch + 1}
	switch g.n("batch", 9) {
	case 0:
		b.Seq += uint64(g.n("seq", 2)) - 1 // a repeat or a gap
	default:
		g.batch++
	}
	if b.Seq > 0 {
		for range g.n("commands", 6) {
			b.Commands = append(b.Commands, g.command())
		}
		p.Batches = []Batch{b}
	}
	return p
}

func (g *generator) command() Command {
	cmd := Command{
		Kind: CommandKind(g.n("kind", 10)), Room: pick(g, "room", []string{"a", "b"}), Caller: g.caller(),
	}
	switch g.n("identity", 3) {
	case 0:
		cmd.Client, cmd.Request = pick(g, "client", []string{"c1", "c2"}), uint64(g.n("request", 12)+1)
	case 1:
		cmd.Idem, cmd.Hash = pick(g, "idem", []string{"k1", "k2", "k3"}), []byte{byte(g.n("hash", 1))}
	}
	if g.n("opens", 2) == 0 {
		limits := standardLimits
		limits.Peers, limits.Locks, limits.LockWaiters, limits.KeysPerStore, limits.SessionBytes = 4, 2, 2, 3, 70
		cmd.Open = &Open{
			Limits: limits, Grace: int64(pick(g, "grace", []int{0, 5000})), Linger: int64(pick(g, "linger", []int{0, 3000})), Idle: 9000,
		}
	}
	switch cmd.Kind {
	case CommandOpen:
		if g.n("seeds", 1) == 0 {
			cmd.Txn = &Txn{Then: []Operation{putOp("a", "1"), {Kind: OpPut, Store: "plan", Key: "b", Value: []byte("2")}}}
		}
	case CommandJoin:
		cmd.Join = &Join{Key: fmt.Sprint("key", g.n("key", 3)), Peer: pick(g, "fixed", []string{"", "", "host"})}
		if g.n("socket", 3) == 0 {
			cmd.Join.TTL = 6000
		} else {
			cmd.Join.Node, cmd.Join.Incarnation = "n1", 1
		}
	case CommandAttach:
		cmd.Attach = &Attach{Peer: g.peer(), Key: fmt.Sprint("key", g.n("key", 3)), Node: "n1", Incarnation: 1}
	case CommandDetach, CommandLeave:
		cmd.Target = g.peer()
		if cmd.Caller.Peer != "" {
			cmd.Target = cmd.Caller.Peer
		}
	case CommandSetPeer:
		name := fmt.Sprint("name", g.n("name", 3))
		cmd.Target, cmd.SetPeer = g.peer(), &SetPeer{Name: &name}
	case CommandTxn:
		cmd.Txn = &Txn{}
		for range g.n("operations", 3) + 1 {
			cmd.Txn.Then = append(cmd.Txn.Then, g.operation())
		}
		cmd.Txn.Single = len(cmd.Txn.Then) == 1
		if !cmd.Txn.Single && g.n("if", 2) == 0 {
			cmd.Txn.If = []Condition{{Store: DefaultStore, Key: "a", If: If{Exists: true}, Fence: g.fence()}}
			cmd.Txn.Else = []Operation{g.operation()}
		}
	case CommandAcquire:
		cmd.Acquire = &Acquire{
			Store: DefaultStore, Key: pick(g, "key", []string{"a", "b", "c"}), Lock: g.lock(), Wait: int64(pick(g, "wait", []int{0, 2000, 60_000})),
		}
		if cmd.Caller.Kind != CallerPeer {
			cmd.Acquire.Node, cmd.Acquire.Incarnation, cmd.Acquire.Waiter = "n1", uint64(g.n("incarnation", 1)+1), fmt.Sprint(g.n("waiter", 5))
		}
	case CommandCancel:
		cmd.Cancel = &Cancel{Request: uint64(g.n("request", 12) + 1)}
		if g.n("by name", 1) == 0 {
			cmd.Cancel = &Cancel{Store: DefaultStore, Key: "a", Waiter: fmt.Sprint(g.n("waiter", 5))}
		}
	}
	return cmd
}

func (g *generator) caller() Caller {
	if g.n("caller", 3) == 0 || len(g.peers) == 0 {
		return Caller{User: "u", Owner: pick(g, "owner", []string{"", "o1", "o2"})}
	}
	c := g.peers[len(g.peers)-1-g.n("peer", len(g.peers)-1)]
	if g.n("socket", 1) == 0 {
		c.Gen = 0
	}
	return c
}

func (g *generator) peer() string {
	if len(g.peers) == 0 {
		return "nobody"
	}
	return pick(g, "peer", g.peers).Peer
}

func (g *generator) fence() uint64 {
	if len(g.fences) == 0 || g.n("no fence", 1) == 0 {
		return 0
	}
	return pick(g, "fence", g.fences)
}

func (g *generator) lock() LockRequest {
	return LockRequest{
		TTL: int64(pick(g, "lease", []int{0, 3000})), OnDetach: g.n("on detach", 3) == 0,
		Shared: g.n("shared", 3) == 0, Permits: g.n("permits", 2),
	}
}

func (g *generator) operation() Operation {
	op := Operation{
		Kind: OpKind(g.n("operation", int(OpSend)-1) + 1), Store: DefaultStore, Key: pick(g, "key", []string{"a", "b", "c", "d"}), Fence: g.fence(),
	}
	switch op.Kind {
	case OpPut:
		op.Value = []byte(pick(g, "value", []string{"1", "1.0", `"a longer value"`}))
		op.TTL = int64(pick(g, "ttl", []int{0, 0, 3000}))
		if g.n("bind", 2) == 0 {
			op.Bind = g.peer()
		}
		if g.n("if", 2) == 0 {
			op.If = &If{Value: []byte("1")}
		}
	case OpAcquire:
		l := g.lock()
		op.Lock = &l
	case OpRelease:
		op.Break = g.n("break", 3) == 0
	case OpUpdate, OpAppend, OpRemove, OpAdd, OpPatch:
		// Of good form or not, for the kind or for another: all alike on both replicas.
		op.Value = []byte(pick(g, "given", []string{
			`1`, `[1,"x"]`, `[]`, `{"x":1.0}`, `{"x":null,"y":{}}`, `[{"op":"add","path":"/x","value":2}]`, `[{"op":"copy","from":"","path":"/y"}]`,
			`[{"op":"test","path":"","value":1}]`, `{"x":1,"x":2}`, `[1`, `"`, ` `, "ÿ", `1e999999`,
		}))
		op.TTL, op.Unique, op.Steps = int64(pick(g, "ttl", []int{0, 0, 3000})), g.n("unique", 1) == 0, g.n("steps", 1) == 0
		if g.n("bind", 3) == 0 {
			op.Bind = g.peer()
		}
	case OpMerge, OpReplace, OpDeletePrefix:
		g.several(&op)
	case OpSend:
		op.Message = &Message{Topic: "chat", Data: []byte(`"hi"`), Roles: pick(g, "roles", [][]string{nil, {"host"}}), Echo: g.n("echo", 1) == 0}
	}
	return op
}

func (g *generator) several(op *Operation) {
	op.Store = pick(g, "store", []string{DefaultStore, "plan"})
	for _, key := range []string{"a", "b", "c", "d"} {
		switch g.n("what", 3) {
		case 0:
			op.Set = append(op.Set, KeyValue{key, []byte(pick(g, "value", []string{"1", "1.0", "ÿ"}))})
		case 1:
			if op.Kind == OpMerge {
				op.Delete = append(op.Delete, key)
			}
		}
		if f := g.fence(); f != 0 && g.n("name it", 2) == 0 {
			op.Fences = append(op.Fences, KeyFence{key, f})
		}
	}
	if op.Kind == OpDeletePrefix {
		op.Key, op.Set = pick(g, "prefix", []string{"", "a"}), nil
	}
}

// consistent checks what must be true of any session: its sums and indices are
// those of its contents, its limits hold, and nothing refers to who is gone.
func consistent(t *rapid.T, s *Session) {
	keys, bytes, timed, bound, ties := 0, 0, 0, 0, map[string]bool{}
	for _, info := range s.Stores() {
		n, b := 0, 0
		s.Entries(info.Store, "", "", func(e *Entry) bool {
			n, b = n+1, b+len(e.Key)+len(e.Value)
			if e.Expires != 0 {
				timed++
			}
			if e.Bound != "" {
				bound++
				if s.Peer(e.Bound) == nil {
					t.Fatalf("entry %s is bound to %s, who is gone", e.Key, e.Bound)
				}
			}
			return true
		})
		if info.Keys != n || info.Bytes != b || n > s.Limits.KeysPerStore {
			t.Fatalf("%+v, counted %d keys, %d bytes", info, n, b)
		}
		keys, bytes = keys+n, bytes+b
	}
	s.Locks(func(store, key string, l *lock.Lock) bool {
		if !l.Held() || len(l.Queue) > s.Limits.LockWaiters {
			t.Fatalf("lock %s: %+v", key, l)
		}
		if !l.Shared && len(l.Holders) > max(1, l.Permits) {
			t.Fatalf("lock %s has %d holders", key, len(l.Holders))
		}
		note := func(o lock.Owner) {
			if o.Peer != "" {
				ties[place(o.Peer, place(store, key))] = true
				if s.Peer(o.Peer) == nil {
					t.Fatalf("lock %s is tied to %s, who is gone", key, o.Peer)
				}
			}
		}
		for _, h := range l.Holders {
			note(h.Owner)
		}
		for _, w := range l.Queue {
			note(w.Owner)
		}
		return true
	})
	c := s.Counts()
	if c.Keys != keys || c.Bytes != bytes || s.timed.len() != timed || s.bound.len() != bound || s.ties.len() != len(ties) {
		t.Fatalf("%+v: %d keys, %d bytes; indices %d/%d timed, %d/%d bound, %d/%d ties", c, keys, bytes,
			s.timed.len(), timed, s.bound.len(), bound, s.ties.len(), len(ties))
	}
	if c.Peers > s.Limits.Peers || c.Locks > s.Limits.Locks || c.Bytes > s.Limits.SessionBytes {
		t.Fatalf("over the limits: %+v", c)
	}
	remembered := 0
	s.memory.clients.scan("", "", func(key string, m *client) bool {
		size := 0
		for i := range m.answers {
			size += m.answers[i].size()
		}
		if size != m.bytes {
			t.Fatalf("client %q counts %d bytes, has %d", key, m.bytes, size)
		}
		remembered += size
		return true
	})
	if remembered != s.memory.bytes || len(s.memory.idemOrder) != s.memory.idems.len() {
		t.Fatalf("memory counts %d bytes, has %d; %d keys in order, %d kept", s.memory.bytes, remembered, len(s.memory.idemOrder), s.memory.idems.len())
	}
	if c.Peers == 0 && s.joined && s.emptySince == 0 {
		t.Fatal("an empty session that nothing ends")
	}
}
