package sim

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"conclave/fsm"
)

// calm is the history of a small healthy run.
func calm(t *testing.T) *History {
	t.Helper()
	var h *History
	synctest.Test(t, func(t *testing.T) {
		h = NewHistory()
		Storm{Seed: 5, Duration: 5 * time.Second, Calm: true}.Run(Start(t, Options{Seed: 5, History: h, Net: LAN, Sync: time.Millisecond}), h)
	})
	return h
}

// TestCheck_Fails shows of every checker that it can fail: a healthy history is
// spoilt in one place, and the fault is found.
func TestCheck_Fails(t *testing.T) {
	healthy := calm(t)
	if errs := healthy.Check(); len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, test := range []struct {
		name, want string
		spoil      func(t *testing.T, h *History)
	}{
		{"a node missed a write", "all nodes together", func(t *testing.T, h *History) {
			rev := somePut(t, h).Result.Rev
			for _, s := range h.Segments {
				for i, f := range s.Frames {
					if f.Rev == rev {
						s.Frames = append(s.Frames[:i:i], s.Frames[i+1:]...)
						return
					}
				}
			}
			t.Fatal("no such frame")
		}},
		{"an acknowledged write is lost everywhere", "and lost", func(t *testing.T, h *History) { dropFrame(h, somePut(t, h).Result.Rev) }},
		{"an acknowledged write has another value", "where the log has", func(t *testing.T, h *History) {
			op := somePut(t, h)
			txn := *op.Command.Txn
			txn.Then = []fsm.Operation{txn.Then[0]}
			txn.Then[0].Value = []byte(`"other"`)
			op.Command.Txn = &txn
		}},
		{"a refused write was applied", "was applied at", func(t *testing.T, h *History) {
			op := somePut(t, h)
			op.Outcome, op.Result = Refused, &fsm.Result{Rev: op.Result.Rev, Refusal: &fsm.Refusal{Code: fsm.CodeLocked}}
		}},
		{"a write that was never handed over was applied", "was applied at", func(t *testing.T, h *History) { somePut(t, h).Outcome = NotApplied }},
		{"a request was applied twice", "was written at revs", func(t *testing.T, h *History) {
			first, second := twoPuts(t, h)
			for _, s := range h.Segments {
				for i, f := range s.Frames {
					if f.Rev == second.Result.Rev {
						s.Frames[i].Frame = withValue(f.Frame, first.put().Value)
					}
				}
			}
		}},
		{"nodes disagree", "disagree", func(t *testing.T, h *History) {
			s, i := segmentWithPut(t, h)
			s.Frames[i].Frame = withValue(s.Frames[i].Frame, []byte(`"mine"`))
		}},
		{"a node publishes what nobody else has", "all nodes together", func(t *testing.T, h *History) {
			s, i := segmentWithPut(t, h)
			s.Frames = append(s.Frames[:len(s.Frames):len(s.Frames)], s.Frames[i])
		}},
		{"a stretch that nobody published", "nobody published", func(t *testing.T, h *History) {
			for _, s := range h.Segments {
				if s.Room == hall {
					s.From = max(s.From, 1000) + uint64(len(s.Node))
				}
			}
			h.Segments = append(h.Segments, &Segment{Node: "n0", Room: hall, Session: h.sessionOf(hall), From: 0, To: 500})
		}},
		{"a stale read", "stale read", func(t *testing.T, h *History) { h.Reads[len(h.Reads)-1].Rev = 1 }},
		{"an answer older than one before", "had been told", func(t *testing.T, h *History) {
			for _, op := range h.Ops {
				if op.Outcome == Refused && op.Call > 3*time.Second {
					op.Result.Rev = 1
					return
				}
			}
			t.Fatal("nothing was refused")
		}},
		{"two changes share a revision", "two changes at rev", func(t *testing.T, h *History) {
			first, second := twoPuts(t, h)
			second.Result.Rev = first.Result.Rev
		}},
		{"a read shows what never was", "read hall/", func(t *testing.T, h *History) {
			for key := range h.Reads[0].Entries {
				h.Reads[0].Entries[key] = &fsm.Entry{Rev: 1, Version: 9}
			}
		}},
		{"a read is not linearizable", "not linearizable", func(t *testing.T, h *History) {
			for _, r := range h.Reads {
				for key, e := range r.Entries {
					if e != nil && key == "a" {
						other := *e
						other.Version += 3
						r.Entries[key] = &other
						return
					}
				}
			}
			t.Fatal("nobody read a")
		}},
		{"a compare-and-set ignored its condition", "was applied on", func(t *testing.T, h *History) { *someCAS(t, h, Applied).put().If.Version += 7 }},
		{"a compare-and-set was refused wrongly", "was refused with", func(t *testing.T, h *History) {
			op := someCAS(t, h, Refused)
			*op.put().If.Version = op.Result.Refusal.Details.Version
		}},
		{"a lane was reordered", ", after lane", func(t *testing.T, h *History) {
			first, second := lanePair(t, h)
			first.Place, second.Place = second.Place, first.Place
		}},
		{"a write reached the next session", "was applied in", func(t *testing.T, h *History) {
			for _, op := range h.Ops {
				if op.put() != nil && op.Command.Session != "" && op.Outcome == Applied && op.Result.Changed {
					op.Command.Session = "another"
					return
				}
			}
			t.Fatal("no write named a session")
		}},
		{"two sessions of a room at once", "the one before ended", func(t *testing.T, h *History) {
			l, _ := h.Log()
			amid := l.between(h.sessionOf(lobby), 0, 1<<62)[1].Rev
			dropFrame(h, amid)
			h.Segments = append(h.Segments, &Segment{Node: "n1", Room: lobby, Session: "second", From: amid - 1, To: amid, Frames: []Seen{
				{Frame: &fsm.Frame{Rev: amid, Events: []*fsm.Event{{Type: fsm.EventSession, State: "started", Session: "second"}}}},
			}})
		}},
		{"a watcher missed a frame", "has 2 frames there", func(t *testing.T, h *History) {
			w, i := watchWithFrames(t, h)
			w.Items = append(w.Items[:i+1:i+1], w.Items[i+2:]...)
		}},
		{"a watcher got a frame twice", "after rev", func(t *testing.T, h *History) {
			w, i := watchWithFrames(t, h)
			w.Items = append(w.Items[:i+1:i+1], w.Items[i:]...)
		}},
		{"a watcher got another frame", "differs", func(t *testing.T, h *History) {
			w, i := watchWithFrames(t, h)
			w.Items[i].Frame = &fsm.Frame{Rev: w.Items[i].Rev}
		}},
		{"a snapshot lacks an entry", "the snapshot of rev", func(t *testing.T, h *History) {
			for _, w := range h.Watches {
				for i := range w.Items {
					for key := range w.Items[i].Entries {
						delete(w.Items[i].Entries, key)
						return
					}
				}
			}
			t.Fatal("no snapshot had entries")
		}},
		{"a snapshot goes back", "a snapshot of rev 1 after", func(t *testing.T, h *History) {
			w, i := watchWithFrames(t, h)
			w.Items = append(w.Items[:i+1:i+1], WatchItem{Rev: 1})
		}},
		{"a lock has two holders", "while", func(t *testing.T, h *History) {
			dropFrame(h, lockEvent(t, h, "released").Rev)
		}},
		{"a lock for two has three holders", "while 2 hold it", func(t *testing.T, h *History) {
			l, _ := h.Log()
			holders := 0
			for _, f := range l.Frames {
				for _, e := range f.Events {
					if e.Type != fsm.EventLock || e.Key != pool {
						continue
					}
					switch {
					case e.State == "acquired":
						holders++
					case holders == 2: // both held it: nobody lets go, and another gets it
						dropFrame(h, f.Rev)
						return
					default:
						holders--
					}
				}
			}
			t.Fatal("two never held it")
		}},
		{"somebody shares a lock that is held alone", "got library", func(t *testing.T, h *History) {
			l, _ := h.Log()
			for _, f := range l.Frames {
				for _, e := range f.Events {
					if e.Type == fsm.EventLock && e.Key == library && e.Owner.Name == keeper && e.State != "acquired" {
						dropFrame(h, f.Rev)
						return
					}
				}
			}
			t.Fatal("the keeper never let go")
		}},
		{"a fence shrinks", "after fence", func(t *testing.T, h *History) {
			e := lockEvent(t, h, "acquired")
			replaceEvent(h, e, func(c *fsm.Event) { c.Fence += 1 << 30 })
		}},
		{"what was not held ended", "which was not held", func(t *testing.T, h *History) {
			dropFrame(h, lockEvent(t, h, "acquired").Rev)
		}},
		{"somebody else wrote under the lock", "holds with fence", func(t *testing.T, h *History) {
			e := fencedPut(t, h)
			replaceEvent(h, e, func(c *fsm.Event) { c.By.User = "thief" })
		}},
		{"a lease ended early", "before the end of its lease", func(t *testing.T, h *History) {
			e := lockEvent(t, h, "released")
			replaceEvent(h, e, func(c *fsm.Event) { c.State = "expired" })
			h.Renewals = append(h.Renewals, Renewal{Room: hall, Key: stage, Fence: e.Fence, Sent: time.Minute, TTL: time.Second})
		}},
		{"somebody jumped the queue", "after who queued", func(t *testing.T, h *History) {
			h.Grants[1<<40] = fsm.Grant{Room: hall, Key: stage, Waiter: 1 << 40, Fence: 2}
		}},
		{"an entry ended early", "before its TTL", func(t *testing.T, h *History) {
			for _, op := range h.Ops {
				if put := op.put(); put != nil && put.TTL > 0 && op.Outcome == Applied {
					put.TTL *= 10
				}
			}
		}},
		{"an amount was added twice", "is in hall/sum 2 times", func(t *testing.T, h *History) {
			first, second := twoOf(t, h, fsm.OpAdd)
			second.Command.Txn.Then[0].Value = first.Command.Txn.Then[0].Value
			amount, _ := strconv.ParseInt(string(first.Command.Txn.Then[0].Value), 10, 64)
			replaceSum(h, second.Result.Rev, amount)
		}},
		{"an amount was acknowledged and not added", "was acknowledged at rev", func(t *testing.T, h *History) {
			op, _ := twoOf(t, h, fsm.OpAdd)
			op.Command.Txn.Then[0].Value = []byte("5")
		}},
		{"an item was appended that nobody appended", "nobody put it there", func(t *testing.T, h *History) {
			op, _ := twoOf(t, h, fsm.OpAppend)
			h.Ops = slices.DeleteFunc(h.Ops, func(o *Op) bool { return o == op })
		}},
		{"an item was appended that was never handed over", "is in hall/list at rev", func(t *testing.T, h *History) {
			op, _ := twoOf(t, h, fsm.OpAppend)
			op.Outcome = NotApplied
		}},
		{"an answer has another sum", "hall/sum is not linearizable", func(t *testing.T, h *History) {
			op, _ := twoOf(t, h, fsm.OpAdd)
			op.Result.Ops = slices.Clone(op.Result.Ops)
			op.Result.Ops[0].Value = []byte("1")
		}},
		{"a message was told twice", "a message was told at revs", func(t *testing.T, h *History) {
			first, second := twoOf(t, h, fsm.OpSend)
			second.sent().Data = first.sent().Data
			for _, s := range h.Segments {
				for i, f := range s.Frames {
					if f.Rev == second.Result.Rev {
						e := copyEvent(f.Events[0])
						e.Data = first.sent().Data
						s.Frames[i].Frame = &fsm.Frame{Rev: f.Rev, Events: []*fsm.Event{e}}
					}
				}
			}
		}},
		{"a message was lost", "and told at revs", func(t *testing.T, h *History) {
			op, _ := twoOf(t, h, fsm.OpSend)
			dropFrame(h, op.Result.Rev)
		}},
		{"a message was refused and told", "a message was told at rev", func(t *testing.T, h *History) {
			op, _ := twoOf(t, h, fsm.OpSend)
			op.Outcome, op.Result = Refused, &fsm.Result{Rev: op.Result.Rev, Refusal: &fsm.Refusal{Code: fsm.CodeLimitExceeded}}
		}},
		{"half a transaction was applied", "half a transaction", func(t *testing.T, h *History) {
			op := someTransaction(t, h, func(o *Op) bool { return o.Outcome == Applied && putsOf(o.branch()) == 2 })
			for _, s := range h.Segments {
				for i, f := range s.Frames {
					if f.Rev == op.Result.Rev {
						without := slices.Clone(f.Events)
						put := slices.IndexFunc(without, func(e *fsm.Event) bool { return e.Type == fsm.EventPut })
						s.Frames[i].Frame = &fsm.Frame{Rev: f.Rev, Events: slices.Delete(without, put, put+1)}
					}
				}
			}
		}},
		{"a refused transaction was applied", "a transaction was applied at rev", func(t *testing.T, h *History) {
			op := someTransaction(t, h, func(o *Op) bool { return o.Outcome == Applied && putsOf(o.branch()) > 0 })
			op.Outcome, op.Result = Refused, &fsm.Result{Rev: op.Result.Rev, Refusal: &fsm.Refusal{Code: fsm.CodeConflict}}
		}},
		{"a transaction read what was not there", "the transactions are not linearizable", func(t *testing.T, h *History) {
			op := someTransaction(t, h, func(o *Op) bool { return o.Outcome == Applied && readsSomething(o) })
			op.Result.Ops = slices.Clone(op.Result.Ops)
			for i := range op.Result.Ops {
				if e := op.Result.Ops[i].Entry; e != nil {
					other := *e
					other.Version += 2
					op.Result.Ops[i].Entry = &other
					return
				}
			}
		}},
		{"a transaction took the wrong branch", "the transactions are not linearizable", func(t *testing.T, h *History) {
			op := someTransaction(t, h, func(o *Op) bool {
				return o.Outcome == Applied && !o.Result.Applied && len(o.Command.Txn.If) > 0
			})
			op.Command.Txn.If = []fsm.Condition{{Key: desk[0]}}
		}},
		{"a reader saw half a transaction", "the transactions are not linearizable", func(t *testing.T, h *History) {
			for i := len(h.Reads) - 1; i > 0; i-- {
				r := h.Reads[i]
				if e := r.Entries[desk[0]]; e != nil {
					other := *e
					other.Version--
					r.Entries[desk[0]] = &other
					return
				}
			}
			t.Fatal("nobody read the desk")
		}},
		{"a peer left twice", "and never joined", func(t *testing.T, h *History) {
			e := peerEvent(t, h, "joined")
			replaceEvent(h, e, func(c *fsm.Event) { c.State = "left" })
		}},
		{"a peer joined twice", "joins a second time", func(t *testing.T, h *History) {
			e := peerEvent(t, h, "detached")
			replaceEvent(h, e, func(c *fsm.Event) { c.State = "joined" })
		}},
		{"an entry outlives its peer", "who has left", func(t *testing.T, h *History) {
			for _, s := range h.Segments {
				for i, f := range s.Frames {
					frame := &fsm.Frame{Rev: f.Rev}
					for _, e := range f.Events {
						if e.Type != fsm.EventDelete || e.Reason != "unbound" {
							frame.Events = append(frame.Events, copyEvent(e))
						}
					}
					s.Frames[i].Frame = frame
				}
			}
		}},
		{"an entry is bound to nobody", "who is not there", func(t *testing.T, h *History) {
			for _, s := range h.Segments {
				for i, f := range s.Frames {
					for _, e := range f.Events {
						if e.Type == fsm.EventPut && e.Entry.Bound != "" {
							e := copyEvent(e)
							entry := *e.Entry
							entry.Bound, e.Entry = "nobody", &entry
							s.Frames[i].Frame = &fsm.Frame{Rev: f.Rev, Events: []*fsm.Event{e}}
							return
						}
					}
				}
			}
			t.Fatal("nothing was bound")
		}},
		{"a peer expired early", "before the end of its TTL", func(t *testing.T, h *History) {
			e := peerEvent(t, h, "left")
			replaceEvent(h, e, func(c *fsm.Event) { c.Reason = "expired" })
			h.Renewals = append(h.Renewals, Renewal{Room: lobby, Peer: e.Peer.ID, Sent: time.Minute, TTL: time.Second})
		}},
		{"replicas differ", "differ", func(t *testing.T, h *History) {
			for _, nodes := range h.Hashes {
				if len(nodes) > 1 {
					nodes["n1"] = [32]byte{1}
					return
				}
			}
			t.Fatal("no two nodes hashed at the same index")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := healthy.clone()
			test.spoil(t, h)
			errs := h.Check()
			for _, err := range errs {
				if strings.Contains(err.Error(), test.want) {
					return
				}
			}
			t.Errorf("nobody complained of %q: %v", test.want, errs)
		})
	}
}

// clone copies a history as deep as the tests spoil it.
func (h *History) clone() *History {
	c := &History{start: h.start, Renewals: slices.Clone(h.Renewals), Grants: maps.Clone(h.Grants), Hashes: map[uint64]map[string][32]byte{}}
	for _, op := range h.Ops {
		o, cmd := *op, *op.Command
		o.Command = &cmd
		if op.Result != nil {
			result := *op.Result
			o.Result = &result
		}
		if cmd.Txn != nil {
			txn := *cmd.Txn
			txn.Then = slices.Clone(txn.Then)
			for i, then := range txn.Then {
				if then.Message != nil {
					message := *then.Message
					txn.Then[i].Message = &message
				}
				if then.If != nil && then.If.Version != nil {
					version := *then.If.Version
					txn.Then[i].If = &fsm.If{Version: &version}
				}
			}
			cmd.Txn = &txn
		}
		c.Ops = append(c.Ops, &o)
	}
	for _, read := range h.Reads {
		r := *read
		r.Entries = maps.Clone(r.Entries)
		c.Reads = append(c.Reads, &r)
	}
	for _, segment := range h.Segments {
		s := *segment
		s.Frames = slices.Clone(s.Frames)
		c.Segments = append(c.Segments, &s)
	}
	for _, watch := range h.Watches {
		w := *watch
		w.Items = slices.Clone(w.Items)
		for i := range w.Items {
			w.Items[i].Entries = maps.Clone(w.Items[i].Entries)
		}
		c.Watches = append(c.Watches, &w)
	}
	for index, nodes := range h.Hashes {
		c.Hashes[index] = maps.Clone(nodes)
	}
	return c
}

func (h *History) sessionOf(room string) string {
	for _, s := range h.Segments {
		if s.Room == room {
			return s.Session
		}
	}
	return ""
}

// puts are the acknowledged puts of the register clients.
func puts(h *History) (list []*Op) {
	for _, op := range h.Ops {
		if op.put() != nil && op.Outcome == Applied && op.Lane == "" && op.Command.Room == hall && strings.HasPrefix(op.Client, "register") {
			list = append(list, op)
		}
	}
	return list
}

func somePut(t *testing.T, h *History) *Op {
	t.Helper()
	op, _ := twoPuts(t, h)
	return op
}

func twoPuts(t *testing.T, h *History) (first, second *Op) {
	t.Helper()
	list := puts(h)
	if len(list) < 10 {
		t.Fatal("too few puts")
	}
	return list[4], list[6]
}

func someCAS(t *testing.T, h *History, outcome Outcome) *Op {
	t.Helper()
	for _, op := range h.Ops {
		if put := op.put(); put != nil && put.If != nil && op.Outcome == outcome {
			return op
		}
	}
	t.Fatal("no such compare-and-set")
	return nil
}

// twoOf are two acknowledged commands of one operation.
func twoOf(t *testing.T, h *History, kind fsm.OpKind) (first, second *Op) {
	t.Helper()
	for _, op := range h.Ops {
		if txn := op.Command.Txn; txn == nil || !txn.Single || txn.Then[0].Kind != kind || op.Outcome != Applied {
			continue
		}
		if first != nil {
			return first, op
		}
		first = op
	}
	t.Fatal("too few of them")
	return nil, nil
}

// someTransaction is one over the desk that a test has a use for.
func someTransaction(t *testing.T, h *History, fits func(*Op) bool) *Op {
	t.Helper()
	for _, op := range h.Ops {
		if op.onDesk() && fits(op) {
			return op
		}
	}
	t.Fatal("no such transaction")
	return nil
}

func putsOf(branch []fsm.Operation) (n int) {
	for i := range branch {
		if branch[i].Kind == fsm.OpPut {
			n++
		}
	}
	return n
}

func readsSomething(op *Op) bool {
	return slices.ContainsFunc(op.Result.Ops, func(r fsm.OpResult) bool { return r.Entry != nil })
}

// replaceSum has every node have published another sum at a revision.
func replaceSum(h *History, rev uint64, by int64) {
	before := int64(0)
	l, _ := h.Log()
	for _, v := range l.keys[place{hall, sum}] {
		if v.rev == rev {
			break
		}
		before, _ = strconv.ParseInt(string(v.entry.Value), 10, 64)
	}
	for _, s := range h.Segments {
		for i, f := range s.Frames {
			if f.Rev == rev {
				s.Frames[i].Frame = withValue(f.Frame, strconv.AppendInt(nil, before+by, 10))
			}
		}
	}
}

// peerEvent is the first event of a state of a peer, by itself in its frame or not.
func peerEvent(t *testing.T, h *History, state string) *fsm.Event {
	t.Helper()
	for _, s := range h.Segments {
		for _, f := range s.Frames {
			for _, e := range f.Events {
				if e.Type == fsm.EventPeer && e.State == state {
					return e
				}
			}
		}
	}
	t.Fatalf("no peer was %s", state)
	return nil
}

func lanePair(t *testing.T, h *History) (first, second *Op) {
	t.Helper()
	for _, op := range h.Ops {
		if op.Lane == "" || op.Outcome != Applied {
			continue
		}
		if first != nil && first.Lane == op.Lane {
			return first, op
		}
		first = op
	}
	t.Fatal("no lane has two puts")
	return nil, nil
}

func segmentWithPut(t *testing.T, h *History) (*Segment, int) {
	t.Helper()
	for _, s := range h.Segments {
		for i, f := range s.Frames {
			if f.Events[0].Type == fsm.EventPut {
				return s, i
			}
		}
	}
	t.Fatal("no put")
	return nil, 0
}

func watchWithFrames(t *testing.T, h *History) (*Watch, int) {
	t.Helper()
	for _, w := range h.Watches {
		for i := 1; i+2 < len(w.Items); i++ {
			if w.Room == hall && w.Items[i-1].Frame != nil && w.Items[i].Frame != nil && w.Items[i+1].Frame != nil && w.Items[i+2].Frame != nil {
				return w, i
			}
		}
	}
	t.Fatal("no watcher had frames")
	return nil, 0
}

// lockEvent is the first event of a state of the lock in the hall.
func lockEvent(t *testing.T, h *History, state string) *fsm.Event {
	t.Helper()
	for _, s := range h.Segments {
		for _, f := range s.Frames {
			for _, e := range f.Events {
				if e.Type == fsm.EventLock && e.Key == stage && e.State == state {
					return e
				}
			}
		}
	}
	t.Fatalf("nothing was %s", state)
	return nil
}

func fencedPut(t *testing.T, h *History) *fsm.Event {
	t.Helper()
	for _, s := range h.Segments {
		for _, f := range s.Frames {
			for _, e := range f.Events {
				if e.Type == fsm.EventPut && e.Key == stage && strings.HasPrefix(e.By.User, "locker") {
					return e
				}
			}
		}
	}
	t.Fatal("nothing was written under the lock")
	return nil
}

// dropFrame has nobody have published a revision.
func dropFrame(h *History, rev uint64) {
	for _, s := range h.Segments {
		for i, f := range s.Frames {
			if f.Rev == rev {
				s.Frames = append(s.Frames[:i:i], s.Frames[i+1:]...)
				break
			}
		}
	}
}

// replaceEvent has every node have published another event instead.
func replaceEvent(h *History, old *fsm.Event, change func(*fsm.Event)) {
	for _, s := range h.Segments {
		for i, f := range s.Frames {
			if f.Rev != old.Rev {
				continue
			}
			frame := &fsm.Frame{Rev: f.Rev}
			for _, e := range f.Events {
				e := copyEvent(e)
				if e.Type == old.Type && e.Key == old.Key && e.State == old.State && e.Fence == old.Fence {
					change(e)
				}
				frame.Events = append(frame.Events, e)
			}
			s.Frames[i].Frame = frame
		}
	}
}

// withValue is a frame whose puts have another value.
func withValue(f *fsm.Frame, value []byte) *fsm.Frame {
	frame := &fsm.Frame{Rev: f.Rev}
	for _, e := range f.Events {
		e := copyEvent(e)
		if e.Entry != nil {
			entry := *e.Entry
			entry.Value = value
			e.Entry = &entry
		}
		frame.Events = append(frame.Events, e)
	}
	return frame
}

// copyEvent copies what an event says, not its cached encoding.
func copyEvent(e *fsm.Event) *fsm.Event {
	return &fsm.Event{
		Type: e.Type, Rev: e.Rev, At: e.At, By: e.By, Store: e.Store, Key: e.Key, Entry: e.Entry, State: e.State,
		Owner: e.Owner, Fence: e.Fence, Waiting: e.Waiting, Peer: e.Peer, Session: e.Session, Reason: e.Reason,
		Topic: e.Topic, Data: e.Data,
	}
}
