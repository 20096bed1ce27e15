package sim

import (
	"context"
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
		join := &fsm.Join{Key: key, Node: p.node.ID(), Incarnation: p.node.Incarnation()}
		if k.rng.IntN(4) == 0 { // without a socket
			join = &fsm.Join{Key: key, TTL: peerTTL.Milliseconds()}
		}
		sent := k.h.Now()
		op := k.Do(&fsm.Command{
			Kind: fsm.CommandJoin, Room: room, Open: &fsm.Open{Limits: Limits, Grace: 1000}, Join: join,
		})
		if op.Outcome != Applied {
			continue
		}
		v := &visit{Client: k, room: room, session: op.Result.Session, peer: op.Result.Peer, key: key}
		k.caller = fsm.Caller{Kind: fsm.CallerPeer, Peer: v.peer, Gen: op.Result.Gen, User: k.Name}
		if v.socketless = join.TTL > 0; v.socketless {
			k.caller.Gen = 0
			v.aliveSince(sent)
		}
		for v.live() && k.rng.IntN(8) > 0 {
			k.pause()
			v.step()
		}
		k.caller.Gen = 0 // whatever became of the socket
		v.do(&fsm.Command{Kind: fsm.CommandLeave, Target: v.peer, Reason: "left"})
		// A write of a session that may be over: it must not reach the next, be it the
		// peer's or its server's.
		if k.rng.IntN(2) == 0 {
			k.caller = fsm.Caller{User: k.Name}
		}
		v.do(&fsm.Command{Kind: fsm.CommandTxn, Txn: &fsm.Txn{
			Single: true, Then: []fsm.Operation{{Kind: fsm.OpPut, Store: store, Key: "late", Value: k.value()}},
		}})
	}
}

// visit is one peer's life.
type visit struct {
	*Client
	room, session, peer, key string
	socketless               bool // it is kept alive by itself
	over                     bool // it was told that the session, or the peer, is gone
}

// peerTTL is that of peers without a socket.
const peerTTL = 1500 * time.Millisecond

func (v *visit) aliveSince(sent time.Duration) {
	v.h.addRenewal(Renewal{Room: v.room, Peer: v.peer, Sent: sent, TTL: peerTTL})
}

// keepAlive puts off the end of a peer without a socket.
func (v *visit) keepAlive() {
	_, p := v.any()
	ctx, cancel := context.WithTimeout(context.Background(), peerTTL)
	defer cancel()
	sent := v.h.Now()
	_, err := p.node.Renew(ctx, fsm.LeaseRef{Room: v.room, Session: v.session, Peer: v.peer})
	if err == nil && !p.dead() {
		v.aliveSince(sent)
	}
	if _, refused := err.(*fsm.Refusal); refused {
		v.over = true
	}
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
	if v.socketless && v.rng.IntN(3) > 0 {
		v.keepAlive()
	}
	switch v.rng.IntN(8) {
	case 0:
		if !v.socketless {
			v.reconnect()
		}
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
