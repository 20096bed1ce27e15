package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"conclave/fsm"
)

// checkSums (G9): what was added and appended is in the sum and the list as often
// as it should be: once if it was acknowledged, never if it was refused or never
// handed over, at most once if nobody knows. It compares each value with the one
// before it: what is there and was not is what was done.
func (h *History) checkSums(l *Log) (errs []error) {
	done := map[place]map[string][]uint64{} // revisions, by what was added or appended
	for at, versions := range l.keys {
		if at.key != sum && at.key != list {
			continue
		}
		done[at] = map[string][]uint64{}
		before := ""
		for _, v := range versions {
			now := ""
			if v.entry != nil {
				now = string(v.entry.Value)
			}
			for _, what := range difference(at.key, before, now) {
				done[at][what] = append(done[at][what], v.rev)
			}
			before = now
		}
	}
	for _, op := range h.Ops {
		t := op.Command.Txn
		if t == nil || !t.Single || t.Then[0].Key != sum && t.Then[0].Key != list {
			continue
		}
		at := place{op.Command.Room, t.Then[0].Key}
		what := strings.Trim(string(t.Then[0].Value), "[]")
		revs := done[at][what]
		delete(done[at], what)
		switch {
		case len(revs) > 1:
			errs = append(errs, fmt.Errorf("%s is in %s/%s %d times, at revs %v: %v", what, at.room, at.key, len(revs), revs, op))
		case op.Outcome == Applied && !slices.Equal(revs, []uint64{op.Result.Rev}):
			errs = append(errs, fmt.Errorf("%s was acknowledged at rev %d, and is in %s/%s at revs %v: %v", what, op.Result.Rev, at.room, at.key, revs, op))
		case len(revs) > 0 && (op.Outcome == Refused || op.Outcome == NotApplied):
			errs = append(errs, fmt.Errorf("%s is in %s/%s at rev %d: %v", what, at.room, at.key, revs[0], op))
		}
	}
	for at, rest := range done {
		for what, revs := range rest {
			errs = append(errs, fmt.Errorf("%s is in %s/%s at revs %v, and nobody put it there", what, at.room, at.key, revs))
		}
	}
	return errs
}

// difference is what a change of a key did: the amount that was added, the items
// that are there and were not.
func difference(key, before, now string) []string {
	if key == sum {
		old, _ := strconv.ParseInt(before, 10, 64)
		next, _ := strconv.ParseInt(now, 10, 64)
		return []string{strconv.FormatInt(next-old, 10)}
	}
	had := strings.Split(strings.Trim(before, "[]"), ",")
	var items []string
	for _, item := range strings.Split(strings.Trim(now, "[]"), ",") {
		if i := slices.Index(had, item); i >= 0 {
			had = slices.Delete(had, i, i+1)
		} else {
			items = append(items, item)
		}
	}
	return items
}

// sent is the message of a command that sends one, nil if it does something else.
func (o *Op) sent() *fsm.Message {
	if t := o.Command.Txn; t != nil && t.Single && t.Then[0].Kind == fsm.OpSend {
		return t.Then[0].Message
	}
	return nil
}

// checkMessages (G9): a message that was acknowledged was told once, at its
// revision, one that was refused or never handed over not at all, and no other
// twice.
func (h *History) checkMessages(l *Log) (errs []error) {
	told := map[string][]uint64{} // revisions, by content
	for _, f := range l.Frames {
		for _, e := range f.Events {
			if e.Type == fsm.EventMessage {
				told[string(e.Data)] = append(told[string(e.Data)], f.Rev)
			}
		}
	}
	for _, op := range h.Ops {
		m := op.sent()
		if m == nil {
			continue
		}
		revs := told[string(m.Data)]
		switch {
		case len(revs) > 1:
			errs = append(errs, fmt.Errorf("a message was told at revs %v: %v", revs, op))
		case op.Outcome == Applied && !slices.Equal(revs, []uint64{op.Result.Rev}):
			errs = append(errs, fmt.Errorf("a message was acknowledged at rev %d and told at revs %v: %v", op.Result.Rev, revs, op))
		case len(revs) > 0 && (op.Outcome == Refused || op.Outcome == NotApplied):
			errs = append(errs, fmt.Errorf("a message was told at rev %d: %v", revs[0], op))
		}
	}
	return errs
}

// checkWhole (G2): a transaction's writes are all there, at its revision, or none
// of them is.
func (h *History) checkWhole(l *Log) (errs []error) {
	at := map[string][]uint64{} // revisions of put events, by value
	for _, f := range l.Frames {
		for _, e := range f.Events {
			if e.Type == fsm.EventPut {
				at[string(e.Entry.Value)] = append(at[string(e.Entry.Value)], f.Rev)
			}
		}
	}
	for _, op := range h.Ops {
		if !op.onDesk() {
			continue
		}
		for _, branch := range [][]fsm.Operation{op.Command.Txn.Then, op.Command.Txn.Else} {
			var revs, missing []uint64
			for i := range branch {
				if branch[i].Kind != fsm.OpPut {
					continue
				}
				if found := at[string(branch[i].Value)]; len(found) > 0 {
					revs = append(revs, found...)
				} else {
					missing = append(missing, uint64(i))
				}
			}
			revs = slices.Compact(revs)
			switch ran := op.Outcome == Applied && len(branch) > 0 && len(op.branch()) > 0 && &op.branch()[0] == &branch[0]; {
			case len(revs) > 1:
				errs = append(errs, fmt.Errorf("a transaction was applied at revs %v: %v", revs, op))
			case len(revs) == 1 && len(missing) > 0:
				errs = append(errs, fmt.Errorf("half a transaction was applied at rev %d, without its steps %v: %v", revs[0], missing, op))
			case ran && len(missing) > 0:
				errs = append(errs, fmt.Errorf("a transaction was acknowledged at rev %d and lost: %v", op.Result.Rev, op))
			case ran && len(revs) == 1 && revs[0] != op.Result.Rev:
				errs = append(errs, fmt.Errorf("a transaction was acknowledged at rev %d and applied at rev %d: %v", op.Result.Rev, revs[0], op))
			case !ran && len(revs) > 0 && op.Outcome != Unknown:
				errs = append(errs, fmt.Errorf("a transaction was applied at rev %d, or its other branch: %v", revs[0], op))
			}
		}
	}
	return errs
}
