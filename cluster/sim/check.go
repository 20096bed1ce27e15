package sim

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"time"

	"conclave/fsm"
)

// Check judges a history by every rule there is and returns what breaks one.
func (h *History) Check() []error {
	l, errs := h.Log()
	for _, check := range []func(*Log) []error{
		h.checkDurable, h.checkOnce, h.checkOrder, h.checkReads, h.checkConditions,
		h.checkLanes, h.checkSessions, h.checkPeers, h.checkExpiry, h.checkWatches, h.checkLocks,
		h.checkSums, h.checkMessages, h.checkWhole,
	} {
		errs = append(errs, check(l)...)
	}
	errs = append(errs, h.checkReplicas()...)
	errs = append(errs, h.checkLinearizable()...)
	return append(errs, h.checkTransactions()...)
}

// checkDurable (G1): what was acknowledged is in the log, as acknowledged.
func (h *History) checkDurable(l *Log) (errs []error) {
	for _, op := range h.Ops {
		if op.Outcome != Applied || !op.Result.Changed {
			continue
		}
		put := op.put()
		f, ok := l.frame(op.Result.Rev)
		switch {
		case put == nil && !ok && op.Command.Kind != fsm.CommandAcquire: // queueing has no event
			errs = append(errs, fmt.Errorf("acknowledged at rev %d, which nobody published: %v", op.Result.Rev, op))
		case put == nil:
		case !ok || f.Room != op.Command.Room:
			errs = append(errs, fmt.Errorf("acknowledged at rev %d and lost: %v", op.Result.Rev, op))
		default:
			e := l.At(op.Command.Room, put.Key, op.Result.Rev)
			if e == nil || e.Rev != op.Result.Rev || e.Version != op.Result.Ops[0].Version || !bytes.Equal(e.Value, put.Value) {
				errs = append(errs, fmt.Errorf("acknowledged at rev %d, where the log has %+v: %v", op.Result.Rev, e, op))
			}
		}
	}
	return errs
}

// checkOnce (G9): no request was applied twice, and none that was refused or
// certainly not applied at all. Every request writes a value of its own.
func (h *History) checkOnce(l *Log) (errs []error) {
	revs := map[string][]uint64{}
	for _, f := range l.Frames {
		for _, e := range f.Events {
			if e.Type == fsm.EventPut {
				value := string(e.Entry.Value)
				if n := len(revs[value]); n == 0 || revs[value][n-1] != f.Rev {
					revs[value] = append(revs[value], f.Rev)
				}
			}
		}
	}
	for value, at := range revs {
		if len(at) > 1 {
			errs = append(errs, fmt.Errorf("%s was written at revs %v", value, at))
		}
	}
	for _, op := range h.Ops {
		put := op.put()
		if put == nil || len(revs[string(put.Value)]) == 0 {
			continue
		}
		if op.Outcome == Refused || op.Outcome == NotApplied {
			errs = append(errs, fmt.Errorf("was applied at rev %v: %v", revs[string(put.Value)], op))
		}
	}
	return errs
}

// checkOrder (G2): what began after something was answered has no smaller
// revision, over all keys and rooms; a change a greater one. Every change has a
// revision of its own.
func (h *History) checkOrder(*Log) (errs []error) {
	type answer struct {
		at  time.Duration
		rev uint64
	}
	// The greatest revision told by any moment: what is called later must not be
	// answered with less.
	var answers []answer
	changes := map[uint64]*Op{}
	for _, op := range h.Ops {
		if op.Result == nil {
			continue
		}
		answers = append(answers, answer{op.Return, op.Result.Rev})
		// What a wait ended with has the revision of whatever ended it.
		if op.Outcome == Applied && op.Result.Changed && op.Result.Waiter == 0 {
			if other := changes[op.Result.Rev]; other != nil {
				errs = append(errs, fmt.Errorf("two changes at rev %d: %v and %v", op.Result.Rev, other, op))
			}
			changes[op.Result.Rev] = op
		}
	}
	for _, r := range h.Reads {
		answers = append(answers, answer{r.Return, r.Rev})
	}
	slices.SortFunc(answers, func(a, b answer) int { return int(a.at - b.at) })
	most := uint64(0)
	for i := range answers {
		most = max(most, answers[i].rev)
		answers[i].rev = most
	}
	// Answers at the very moment of a call are concurrent with it.
	known := func(call time.Duration) uint64 {
		i := sort.Search(len(answers), func(i int) bool { return answers[i].at >= call })
		if i == 0 {
			return 0
		}
		return answers[i-1].rev
	}
	for _, op := range h.Ops {
		if op.Result == nil {
			continue
		}
		before := known(op.Call)
		if op.Result.Rev < before || op.Outcome == Applied && op.Result.Changed && op.Result.Rev == before {
			errs = append(errs, fmt.Errorf("rev %d had been told before a request that got rev %d: %v", before, op.Result.Rev, op))
		}
	}
	for _, r := range h.Reads {
		if before := known(r.Call); r.Rev < before {
			errs = append(errs, fmt.Errorf("stale read: %s read rev %d on %s at %v, after rev %d had been told", r.Client, r.Rev, r.Node, r.Call, before))
		}
	}
	return errs
}

// checkReads (G2, G10): a read shows the state as of its revision.
func (h *History) checkReads(l *Log) (errs []error) {
	for _, r := range h.Reads {
		for key, got := range r.Entries {
			if want := l.At(r.Room, key, r.Rev); !same(got, want) {
				errs = append(errs, fmt.Errorf("%s read %s/%s at rev %d on %s: got %+v, want %+v", r.Client, r.Room, key, r.Rev, r.Node, got, want))
			}
		}
	}
	return errs
}

func same(a, b *fsm.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Rev == b.Rev && a.Version == b.Version && bytes.Equal(a.Value, b.Value)
}

// checkConditions (G3): a conditional put was applied on what it expected, and
// refused on something else, which it was told.
func (h *History) checkConditions(l *Log) (errs []error) {
	for _, op := range h.Ops {
		put := op.put()
		if put == nil || put.If == nil || put.If.Version == nil || op.Result == nil {
			continue
		}
		// A change was made to what the revision before it shows; a refusal speaks of
		// the state at its revision.
		rev := op.Result.Rev
		if op.Outcome == Applied {
			rev--
		}
		found := uint64(0)
		if e := l.At(op.Command.Room, put.Key, rev); e != nil {
			found = e.Version
		}
		switch {
		case op.Outcome == Applied && found != *put.If.Version:
			errs = append(errs, fmt.Errorf("expected version %d, was applied on %d: %v", *put.If.Version, found, op))
		case op.Outcome == Refused && op.Result.Refusal.Code == fsm.CodeConflict &&
			(found == *put.If.Version || found != op.Result.Refusal.Details.Version):
			errs = append(errs, fmt.Errorf("expected version %d, was refused with %d on %d: %v", *put.If.Version, op.Result.Refusal.Details.Version, found, op))
		}
	}
	return errs
}

// checkLanes (G11): the puts of one lane that were applied, whatever their
// clients know of it, were applied in the order of Submit.
func (h *History) checkLanes(l *Log) (errs []error) {
	place := map[string]*Op{} // by value
	for _, op := range h.Ops {
		if op.Lane != "" {
			place[string(op.put().Value)] = op
		}
	}
	last := map[string]*Op{} // by lane
	for _, f := range l.Frames {
		for _, e := range f.Events {
			if e.Type != fsm.EventPut {
				continue
			}
			op := place[string(e.Entry.Value)]
			if op == nil {
				continue
			}
			if before := last[op.Lane]; before != nil && before.Place > op.Place {
				errs = append(errs, fmt.Errorf("applied at rev %d, after %v: %v", f.Rev, before, op))
			}
			last[op.Lane] = op
		}
	}
	return errs
}

// checkSessions (G10): a room's sessions follow one another, and what names a
// session is applied within it or not at all.
func (h *History) checkSessions(l *Log) (errs []error) {
	until := map[string]uint64{}
	for _, life := range l.lives {
		if end, ok := until[life.room]; ok && (end == 0 || end > life.from) {
			errs = append(errs, fmt.Errorf("session %s of %s began at rev %d, the one before ended at rev %d", life.session, life.room, life.from, end))
		}
		until[life.room] = life.to
	}
	for _, f := range l.Frames {
		if alive := l.session(f.Room, f.Rev); alive != f.Session && alive != "" {
			errs = append(errs, fmt.Errorf("rev %d is of session %s while %s is live", f.Rev, f.Session, alive))
		}
	}
	for _, op := range h.Ops {
		if op.Command.Session == "" || op.Outcome != Applied || !op.Result.Changed {
			continue
		}
		if f, ok := l.frame(op.Result.Rev); ok && f.Session != op.Command.Session {
			errs = append(errs, fmt.Errorf("names session %s, was applied in %s: %v", op.Command.Session, f.Session, op))
		}
	}
	return errs
}

// checkExpiry: an entry did not end by itself before its TTL had passed since its
// put was asked for. Times are logged in whole milliseconds.
func (h *History) checkExpiry(l *Log) (errs []error) {
	puts := map[uint64]*Op{}
	for _, op := range h.Ops {
		if put := op.put(); put != nil && put.TTL > 0 && op.Outcome == Applied {
			puts[op.Result.Rev] = op
		}
	}
	for _, f := range l.Frames {
		for _, e := range f.Events {
			if e.Type != fsm.EventDelete || e.Reason != "expired" {
				continue
			}
			old := l.At(f.Room, e.Key, f.Rev-1)
			if old == nil || old.Expires == 0 {
				errs = append(errs, fmt.Errorf("rev %d: %s expired, which was %+v", f.Rev, e.Key, old))
				continue
			}
			op := puts[old.Rev]
			if op == nil { // nobody was told of the put
				continue
			}
			if lived := f.At - op.Call; lived < time.Duration(op.put().TTL-1)*time.Millisecond {
				errs = append(errs, fmt.Errorf("rev %d: %s expired after %v, before its TTL: %v", f.Rev, e.Key, lived, op))
			}
		}
	}
	return errs
}

// checkReplicas: states at the same raft index are equal on all nodes.
func (h *History) checkReplicas() (errs []error) {
	for index, nodes := range h.Hashes {
		var want [32]byte
		var from string
		for node, hash := range nodes {
			if from != "" && hash != want {
				errs = append(errs, fmt.Errorf("the states of %s and %s at index %d differ", from, node, index))
			}
			from, want = node, hash
		}
	}
	return errs
}
