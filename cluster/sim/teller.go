package sim

import (
	"fmt"
	"strconv"

	"conclave/fsm"
)

// Keys of the workload whose values are computed, so that what was applied twice
// or never shows in them.
const (
	sum  = "sum"  // a number that grows by amounts of which no two are equal
	list = "list" // an array of items of which no two are equal
)

// maxList is when a list begins anew.
const maxList = 600 // bytes

// Tallies adds to the sum, appends to the list, and sends messages, each of its
// own, which nobody else adds, appends or sends. Until stop.
func (k *Client) Tallies(room string, stop <-chan struct{}) {
	for ; !stopped(stop); k.pause() {
		item := fmt.Appendf(nil, "[%s]", k.value())
		op := fsm.Operation{Kind: fsm.OpAppend, Key: list, Value: item}
		switch k.rng.IntN(6) {
		case 0, 1:
			op = fsm.Operation{Kind: fsm.OpAdd, Key: sum, Value: k.amount()}
		case 2:
			op.Kind = fsm.OpUpdate
		case 3:
			op = fsm.Operation{Kind: fsm.OpSend, Message: &fsm.Message{Topic: "chat", Data: k.value()}}
		case 4:
			k.Read(room, sum, list)
			continue
		}
		done := k.Do(single(room, op))
		if done.Outcome == Applied && op.Key == list && len(done.Result.Ops[0].Value) > maxList {
			k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: list, Value: fmt.Appendf(nil, "[%s]", k.value())}))
		}
	}
}

// amount is a number that nobody else adds.
func (k *Client) amount() []byte {
	salt := uint64(0)
	for _, b := range []byte(k.Name) {
		salt = (salt*131 + uint64(b)) % 997
	}
	return strconv.AppendUint(nil, (k.request+1)*1000+salt, 10)
}

// desk are the keys that transactions touch together.
var desk = [...]string{"x", "y", "z"}

// Transacts runs transactions over the desk: with conditions and two branches,
// reads among the writes, and some that are refused half way and must leave
// nothing. Until stop.
func (k *Client) Transacts(room string, stop <-chan struct{}) {
	seen := map[string]uint64{} // versions
	for ; !stopped(stop); k.pause() {
		order := k.rng.Perm(len(desk))
		a, b, c := desk[order[0]], desk[order[1]], desk[order[2]]
		version := seen[b]
		txn := &fsm.Txn{}
		switch k.rng.IntN(5) {
		case 0: // conditions choose the branch
			txn.If = []fsm.Condition{{Store: store, Key: a, If: fsm.If{Exists: true}}, {Store: store, Key: b, If: fsm.If{Version: &version}}}
			txn.Then = []fsm.Operation{k.sets(a, "1"), {Kind: fsm.OpGet, Key: b}, k.sets(b, "2"), {Kind: fsm.OpGet, Key: b}}
			txn.Else = []fsm.Operation{{Kind: fsm.OpGet, Key: b}, k.sets(c, "3")}
		case 1: // refused at its second step, unless nobody has been there
			second := k.sets(b, "2")
			second.If = &fsm.If{Version: &version}
			txn.Then = []fsm.Operation{k.sets(a, "1"), second, {Kind: fsm.OpGet, Key: a}}
		case 2:
			txn.Then = []fsm.Operation{{Kind: fsm.OpGet, Key: a}, {Kind: fsm.OpDelete, Key: a}, k.sets(c, "1")}
		case 3:
			txn.Then = []fsm.Operation{{Kind: fsm.OpGet, Key: a}, {Kind: fsm.OpGet, Key: b}, {Kind: fsm.OpGet, Key: c}}
		default:
			if r := k.Read(room, desk[:]...); r != nil {
				for key, e := range r.Entries {
					if seen[key] = 0; e != nil {
						seen[key] = e.Version
					}
				}
			}
			continue
		}
		for _, branch := range [][]fsm.Operation{txn.Then, txn.Else} {
			for i := range branch {
				branch[i].Store = store
			}
		}
		op := k.Do(&fsm.Command{Kind: fsm.CommandTxn, Room: room, Open: opened(), Txn: txn})
		if op.Result == nil {
			continue
		}
		if no := op.Result.Refusal; no != nil {
			if no.Code == fsm.CodeConflict {
				seen[b] = no.Details.Version
			}
			continue
		}
		for i, step := range op.branch() {
			switch {
			case step.Kind == fsm.OpGet && op.Result.Ops[i].Entry != nil:
				seen[step.Key] = op.Result.Ops[i].Entry.Version
			case step.Kind != fsm.OpGet:
				seen[step.Key] = op.Result.Ops[i].Version
			}
		}
	}
}

// sets puts a value that nobody else writes: the request's, and its part in it.
func (k *Client) sets(key, part string) fsm.Operation {
	return fsm.Operation{Kind: fsm.OpPut, Key: key, Value: fmt.Appendf(nil, `"%s.%d.%s"`, k.Name, k.request+1, part)}
}

// branch are the operations that a transaction ran, by its answer.
func (o *Op) branch() []fsm.Operation {
	if o.Result != nil && o.Result.Refusal == nil && !o.Result.Applied {
		return o.Command.Txn.Else
	}
	return o.Command.Txn.Then
}
