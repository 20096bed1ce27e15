package sim

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"

	"conclave/fsm"
)

// checkTransactions (G2) judges the desk as one thing: porcupine searches for one
// order of all transactions and reads of its keys that explains every answer, each
// transaction whole or, when refused, not at all.
func (h *History) checkTransactions() (errs []error) {
	clients := map[string]int{}
	number := func(name string) int {
		if _, ok := clients[name]; !ok {
			clients[name] = len(clients)
		}
		return clients[name]
	}
	byRoom := map[string][]porcupine.Operation{}
	for _, op := range h.Ops {
		if !op.onDesk() || op.Outcome == NotApplied {
			continue
		}
		p := porcupine.Operation{
			ClientId: number(op.Client), Input: deskInput{txn: op.Command.Txn}, Output: deskOutput{result: op.Result},
			Call: int64(op.Call), Return: int64(op.Return),
		}
		if op.Outcome == Unknown {
			p.Return = math.MaxInt64
		}
		byRoom[op.Command.Room] = append(byRoom[op.Command.Room], p)
	}
	for _, r := range h.Reads {
		if _, ok := r.Entries[desk[0]]; ok {
			byRoom[r.Room] = append(byRoom[r.Room], porcupine.Operation{
				ClientId: number(r.Client), Input: deskInput{}, Output: deskOutput{entries: r.Entries},
				Call: int64(r.Call), Return: int64(r.Return),
			})
		}
	}
	for room, ops := range byRoom {
		if porcupine.CheckOperationsTimeout(transactions, ops, searchLimit) == porcupine.Illegal {
			errs = append(errs, fmt.Errorf("%s: the transactions are not linearizable (%d operations)", room, len(ops)))
		}
	}
	return errs
}

// onDesk tells whether a command is a transaction over the desk.
func (o *Op) onDesk() bool {
	t := o.Command.Txn
	return t != nil && !t.Single && slices.Contains(desk[:], t.Then[0].Key)
}

type deskInput struct{ txn *fsm.Txn } // nil: a read of all

type deskOutput struct {
	result  *fsm.Result // nil: unknown
	entries map[string]*fsm.Entry
}

// deskState is what is on the desk; rev is the greatest revision that a change to
// it is known to have.
type deskState struct {
	keys [len(desk)]registerState
	rev  uint64
}

var transactions = porcupine.Model{
	Init: func() any { return deskState{} },
	Step: func(state, input, output any) (bool, any) {
		return state.(deskState).step(input.(deskInput).txn, output.(deskOutput))
	},
}

// step is the sequential desk: whether the answer is right in this state, and the
// state afterwards.
func (s deskState) step(t *fsm.Txn, out deskOutput) (bool, deskState) {
	if t == nil {
		for i, key := range desk {
			if !s.keys[i].shows(out.entries[key]) {
				return false, s
			}
		}
		return true, s
	}
	r := out.result
	if r != nil && (r.Changed && r.Rev <= s.rev || r.Rev < s.rev) {
		return false, s
	}
	ops, applied := t.Then, true
	for i := range t.If {
		if !s.holds(t.If[i].Key, &t.If[i].If) {
			ops, applied = t.Else, false
		}
	}
	if r != nil && r.Refusal == nil && r.Applied != applied {
		return false, s
	}
	next := s
	for i := range ops {
		op := &ops[i]
		at := slices.Index(desk[:], op.Key)
		k := &next.keys[at]
		if op.If != nil && !next.holds(op.Key, op.If) {
			return r == nil || r.Refusal != nil && r.Refusal.Code == fsm.CodeConflict && r.Refusal.Details.Version == k.version, s
		}
		known := r != nil && r.Refusal == nil
		switch op.Kind {
		case fsm.OpGet:
			if known && !k.shows(r.Ops[i].Entry) {
				return false, s
			}
		case fsm.OpDelete:
			if known && r.Ops[i].Existed != (k.version > 0) {
				return false, s
			}
			*k = registerState{}
		case fsm.OpPut:
			*k = registerState{version: k.version + 1, value: string(op.Value)}
			if known && r.Ops[i].Version != k.version {
				return false, s
			}
		}
	}
	if r == nil {
		return true, next
	}
	if r.Changed {
		next.rev = r.Rev
	}
	return r.Refusal == nil, next
}

// holds is a condition on a key of the desk.
func (s *deskState) holds(key string, x *fsm.If) bool {
	k := s.keys[slices.Index(desk[:], key)]
	return (x.Version == nil || *x.Version == k.version) && (!x.Exists || k.version > 0) && (!x.Absent || k.version == 0)
}

// shows tells whether an entry is what the register holds.
func (s registerState) shows(e *fsm.Entry) bool {
	if e == nil {
		return s.version == 0
	}
	return s.version == e.Version && s.value == string(e.Value)
}

// compute is what an operation makes of a value; ok is false if it refuses it. The
// workload's numbers are whole and its arrays compact.
func compute(op *fsm.Operation, value string) (string, bool) {
	switch op.Kind {
	case fsm.OpAdd:
		var old, by int64
		fmt.Sscan(value, &old)
		_, err := fmt.Sscan(string(op.Value), &by)
		return fmt.Sprint(old + by), err == nil
	case fsm.OpAppend, fsm.OpUpdate:
		if value == "" || value == "[]" {
			return string(op.Value), true
		}
		return value[:len(value)-1] + "," + string(bytes.TrimPrefix(op.Value, []byte("["))), true
	}
	return string(op.Value), true
}
