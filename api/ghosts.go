package api

import (
	"time"

	"conclave/fsm"
)

// settleTime is how long after an unknown outcome a command can no longer be
// applied, with plenty to spare: the store gives up on it after a few seconds.
const settleTime = 15 * time.Second

// haunt sees to a join or an attach with an unknown outcome. Its socket does not
// serve the peer; if it was applied all the same, and the client does not come
// back for it, the peer would stay attached to this node for ever. So once the
// outcome is settled, the peer is detached unless a socket serves it.
func (h *hub) haunt(c *fsm.Command, after time.Duration) {
	time.AfterFunc(after, func() {
		if h.ctx.Err() != nil {
			return // the node goes, and the cluster detaches what it served
		}
		v, err := h.node.Read(h.ctx)
		if err != nil {
			h.haunt(c, after)
			return
		}
		if p := ghost(v.Session(c.Room), c); p != nil && h.servedHere(p) && !h.serves(c.Room, p) {
			h.goodbye(h.node.NewLane(), &fsm.Command{
				Kind: fsm.CommandDetach, Room: c.Room, Target: p.ID,
				Caller: fsm.Caller{Kind: fsm.CallerPeer, Peer: p.ID, Gen: p.Gen},
			})
		}
	})
}

// ghost is the peer that the command made or attached, if there is one. A new
// peer is known by the key that was drawn for it.
func ghost(session *fsm.Session, c *fsm.Command) (found *fsm.Peer) {
	switch {
	case session == nil:
		return nil
	case c.Attach != nil:
		return session.Peer(c.Attach.Peer)
	}
	session.Peers(func(p *fsm.Peer) bool {
		if p.Key == c.Join.Key {
			found = p
		}
		return found == nil
	})
	return found
}

// servedHere reports whether the log says that this node serves the peer.
func (h *hub) servedHere(p *fsm.Peer) bool {
	return p.Attached && p.Node == h.node.ID() && p.Incarnation == h.node.Incarnation()
}

// serves reports whether a socket serves this attachment of the peer.
func (h *hub) serves(room string, p *fsm.Peer) bool {
	s := h.shard(room)
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.rooms[room] {
		if k, ok := w.(*socket); ok && k.serves(p) {
			return true
		}
	}
	return false
}

func (k *socket) serves(p *fsm.Peer) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.joined && k.caller.Peer == p.ID && k.caller.Gen == p.Gen
}
