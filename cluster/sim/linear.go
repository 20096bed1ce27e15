package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"conclave/fsm"
)

// searchLimit bounds one search: with many requests of unknown outcome it may not
// end. What it has not found by then counts as right; the other checkers have
// judged the same history by the nodes' word.
const searchLimit = 20 * time.Second

// checkLinearizable (G2) judges each key by what its clients saw alone, without
// the nodes' word for it: porcupine searches for one order of all requests that
// explains every answer. Requests of unknown outcome may take effect at any time
// after they were called, or never: they stay open to the end.
func (h *History) checkLinearizable() (errs []error) {
	byKey := map[place][]porcupine.Operation{}
	clients := map[string]int{}
	number := func(name string) int {
		if _, ok := clients[name]; !ok {
			clients[name] = len(clients)
		}
		return clients[name]
	}
	rooms := map[string]bool{} // of server clients: a session's end would empty the key
	brief := map[place]bool{}  // keys that end by themselves
	for _, op := range h.Ops {
		t := op.Command.Txn
		if t == nil || op.Command.Session != "" || op.Lane != "" || op.Outcome == NotApplied || op.onDesk() || op.sent() != nil {
			continue
		}
		rooms[op.Command.Room] = true
		for i := range t.Then {
			at := place{op.Command.Room, t.Then[i].Key}
			brief[at] = brief[at] || t.Then[i].TTL > 0
			byKey[at] = append(byKey[at], write(op, i, number(op.Client)))
		}
	}
	for _, r := range h.Reads {
		for key, entry := range r.Entries {
			if at := (place{r.Room, key}); rooms[r.Room] && !slices.Contains(desk[:], key) {
				byKey[at] = append(byKey[at], porcupine.Operation{
					ClientId: number(r.Client), Input: registerInput{}, Output: registerOutput{entry: entry},
					Call: int64(r.Call), Return: int64(r.Return),
				})
			}
		}
	}
	for at, ops := range byKey {
		if !brief[at] && porcupine.CheckOperationsTimeout(register, ops, searchLimit) == porcupine.Illegal {
			errs = append(errs, fmt.Errorf("%s/%s is not linearizable (%d operations)", at.room, at.key, len(ops)))
		}
	}
	return errs
}

// write is one operation of a command as porcupine sees it.
func write(op *Op, i, client int) porcupine.Operation {
	out := porcupine.Operation{
		ClientId: client, Input: registerInput{op: &op.Command.Txn.Then[i]},
		Output: registerOutput{unknown: op.Outcome == Unknown}, Call: int64(op.Call), Return: math.MaxInt64,
	}
	if op.Outcome == Unknown {
		return out
	}
	out.Return = int64(op.Return)
	got := registerOutput{refusal: op.Result.Refusal, rev: op.Result.Rev}
	if got.refusal == nil {
		got.result = op.Result.Ops[i]
	}
	out.Output = got
	return out
}

type registerInput struct{ op *fsm.Operation } // nil: a read

type registerOutput struct {
	unknown bool
	entry   *fsm.Entry // of a read
	refusal *fsm.Refusal
	result  fsm.OpResult
	rev     uint64
}

// registerState is a key: absent when version is 0. rev is 0 when the last write
// was one whose answer nobody got.
type registerState struct {
	version uint64
	value   string
	rev     uint64
}

var register = porcupine.Model{
	Init: func() any { return registerState{} },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(registerState), input.(registerInput).op, output.(registerOutput))
	},
	DescribeOperation: func(input, output any) string {
		op, out := input.(registerInput).op, output.(registerOutput)
		if op == nil {
			return fmt.Sprintf("get %+v", out.entry)
		}
		return fmt.Sprintf("%d %s → %+v", op.Kind, op.Value, out)
	},
}

// step is the sequential register: whether the answer is right in this state,
// and the state afterwards.
func step(s registerState, op *fsm.Operation, out registerOutput) (bool, registerState) {
	if op == nil {
		if out.entry == nil {
			return s.version == 0, s
		}
		ok := s.version == out.entry.Version && s.value == string(out.entry.Value) && (s.rev == 0 || s.rev == out.entry.Rev)
		s.rev = out.entry.Rev
		return ok, s
	}
	fits := op.If == nil || op.If.Version == nil || *op.If.Version == s.version
	switch {
	case out.refusal != nil && out.refusal.Code == fsm.CodeConflict:
		return !fits && out.refusal.Details.Version == s.version, s
	case out.refusal != nil: // locks are another checker's matter
		return true, s
	case !fits:
		return out.unknown, s
	case op.Kind == fsm.OpDelete:
		return out.unknown || out.result.Existed == (s.version > 0), registerState{}
	case op.Kind == fsm.OpAcquire, op.Kind == fsm.OpRelease:
		return true, s
	}
	value, ok := compute(op, s.value)
	next := registerState{version: s.version + 1, value: value, rev: out.rev}
	switch {
	case !ok:
		return false, s
	case out.unknown:
		return true, next
	case op.Kind != fsm.OpPut && string(out.result.Value) != value:
		return false, s
	}
	return out.result.Version == next.version && (s.rev == 0 || out.rev > s.rev), next
}
