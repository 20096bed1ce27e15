package sim

import (
	"time"

	"conclave/fsm"
)

// Visits joins a room as a peer with a socket, writes, locks, drops the socket,
// comes back within the grace or too late, and leaves: so that sessions of the room
// begin and end all the time. Until stop.
func (k *Client) Visits(room string, stop <-chan struct{}) {
	for ; !stopped(stop); k.pause() {
		_, p := k.any()
		k.caller = fsm.Caller{User: k.Name}
		key := string(k.value())
		op := k.Do(&fsm.Command{
			Kind: fsm.CommandJoin, Room: room, Open: &fsm.Open{Limits: Limits, Grace: 1000},
			Join: &fsm.Join{Key: key, Node: p.node.ID(), Incarnation: p.node.Incarnation()},
		})
		if op.Outcome != Applied {
			continue
		}
		v := &visit{Client: k, room: room, session: op.Result.Session, peer: op.Result.Peer, key: key}
		k.caller = fsm.Caller{Kind: fsm.CallerPeer, Peer: v.peer, Gen: op.Result.Gen, User: k.Name}
		for v.live() && k.rng.IntN(8) > 0 {
			k.pause()
			v.step()
		}
		k.caller.Gen = 0 // whatever became of the socket
		v.do(&fsm.Command{Kind: fsm.CommandLeave, Target: v.peer, Reason: "left"})
		// A write of a session that may be over: it must not reach the next.
		v.do(&fsm.Command{Kind: fsm.CommandTxn, Txn: &fsm.Txn{
			Single: true, Then: []fsm.Operation{{Kind: fsm.OpPut, Store: store, Key: "late", Value: k.value()}},
		}})
	}
}

// visit is one peer's life.
type visit struct {
	*Client
	room, session, peer, key string
	over                     bool // it was told that the session, or the peer, is gone
}

func (v *visit) live() bool { return !v.over }

func (v *visit) do(cmd *fsm.Command) *Op {
	cmd.Room, cmd.Session = v.room, v.session
	op := v.Do(cmd)
	if op.Outcome == Refused {
		switch op.Result.Refusal.Code {
		case fsm.CodeSessionEnded, fsm.CodeNoSession, fsm.CodeNotFound:
			v.over = true
		}
	}
	return op
}

// step does one thing that a peer does.
func (v *visit) step() {
	switch v.rng.IntN(8) {
	case 0:
		v.reconnect()
	case 1:
		v.do(&fsm.Command{Kind: fsm.CommandTxn, Txn: &fsm.Txn{Single: true, Then: []fsm.Operation{
			{Kind: fsm.OpPut, Store: store, Key: "hand/" + v.peer, Value: v.value(), Bind: v.peer},
		}}})
	case 2:
		v.Read(v.room, "shared", "late")
	case 3, 4:
		v.sit()
	default:
		v.do(&fsm.Command{Kind: fsm.CommandTxn, Txn: &fsm.Txn{Single: true, Then: []fsm.Operation{
			{Kind: fsm.OpPut, Store: store, Key: "shared", Value: v.value()},
		}}})
	}
}

// sit takes the seat if it is free, for as long as the peer is there, writes it
// under the fence, and perhaps leaves it.
func (v *visit) sit() {
	one := func(op fsm.Operation) *Op {
		op.Store = store
		return v.do(&fsm.Command{Kind: fsm.CommandTxn, Txn: &fsm.Txn{Single: true, Then: []fsm.Operation{op}}})
	}
	op := one(fsm.Operation{Kind: fsm.OpAcquire, Key: "seat", Lock: &fsm.LockRequest{OnDetach: v.rng.IntN(2) == 0}})
	if op.Outcome != Applied {
		one(fsm.Operation{Kind: fsm.OpPut, Key: "seat", Value: v.value()})
		return
	}
	fence := op.Result.Ops[0].Fence
	one(fsm.Operation{Kind: fsm.OpPut, Key: "seat", Value: v.value(), Fence: fence})
	if v.rng.IntN(2) == 0 {
		one(fsm.Operation{Kind: fsm.OpRelease, Key: "seat", Fence: fence})
	}
}

// reconnect drops the socket and attaches a new one, perhaps too late.
func (v *visit) reconnect() {
	v.do(&fsm.Command{Kind: fsm.CommandDetach, Target: v.peer})
	time.Sleep(time.Duration(v.rng.Int64N(int64(1500 * time.Millisecond))))
	_, p := v.any()
	v.caller.Gen = 0
	op := v.do(&fsm.Command{Kind: fsm.CommandAttach, Attach: &fsm.Attach{
		Peer: v.peer, Key: v.key, Node: p.node.ID(), Incarnation: p.node.Incarnation(),
	}})
	if op.Outcome == Applied {
		v.caller.Gen = op.Result.Gen
	}
}
