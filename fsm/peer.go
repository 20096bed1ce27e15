package fsm

import "bytes"

// join makes a peer, or takes over the one with the token's fixed id. A join
// that is repeated attaches the peer that it made, under the resume key that it
// was given then.
func (c *change) join(cmd *Command, r *Result) *Refusal {
	j := cmd.Join
	if n := len(j.Data); n > c.ses.Limits.PeerDataBytes {
		return overLimit("peer_data_bytes", c.ses.Limits.PeerDataBytes, n)
	}
	p := &Peer{ID: j.Peer, JoinedAt: c.wall, JoinedRev: c.rev}
	if p.ID == "" {
		p.ID = peerID(c.rev)
	}
	state := "joined"
	if old := c.ses.Peer(c.rejoins); old != nil {
		c.takeOver(old)
		*p, state = *old, "attached"
	} else {
		if old := c.ses.Peer(p.ID); old != nil {
			c.takeOver(old)
			p.JoinedAt, p.JoinedRev, state = old.JoinedAt, old.JoinedRev, "attached"
		} else if n := c.ses.peers.len() + 1; n > c.ses.Limits.Peers {
			return overLimit("peers", c.ses.Limits.Peers, n)
		}
		p.Key, p.User, p.Ref, p.Role, p.Name, p.Data = j.Key, cmd.Caller.User, j.Ref, j.Role, j.Name, j.Data
	}
	p.Attached, p.Gen, p.Node, p.Incarnation, p.TTL, p.Deadline = true, c.rev, j.Node, j.Incarnation, j.TTL, 0
	p.Client = cmd.Client
	if p.TTL > 0 {
		p.Deadline = c.s.now + p.TTL
		c.deadline(peerDeadline(p))
	}
	s := c.write()
	s.joined, s.emptySince, s.emptyUntil = true, 0, 0
	c.setPeerState(p, state)
	r.Peer, r.Key, r.Gen = p.ID, p.Key, p.Gen
	return nil
}

// attach gives a peer a new connection: one that comes back within its grace, or
// one that replaces an older.
func (c *change) attach(a *Attach, r *Result) *Refusal {
	old := c.ses.Peer(a.Peer)
	switch {
	case old == nil:
		return c.ses.gone(a.Peer)
	case old.Key != a.Key:
		return &Refusal{
			Code: CodeForbidden, Message: "not the resume key of this peer", Details: Details{Reason: "resume_key"},
		}
	}
	c.takeOver(old)
	p := *old
	p.Attached, p.Gen, p.Node, p.Incarnation, p.TTL, p.Deadline = true, c.rev, a.Node, a.Incarnation, 0, 0
	p.Client = a.Client
	c.setPeerState(&p, "attached")
	r.Peer, r.Key, r.Gen = p.ID, p.Key, p.Gen
	return nil
}

// takeOver ends what was to end with the connection that p has, if it has one:
// another takes its place, so it is as good as detached.
func (c *change) takeOver(p *Peer) {
	if p.Attached {
		c.endTies(p.ID, "detached", true)
	}
}

// detachSocket is told that a socket broke. An older socket than the present one
// changes nothing.
func (c *change) detachSocket(id string, gen uint64) {
	if p := c.ses.Peer(id); p != nil && p.Attached && p.Gen == gen {
		c.detach(p)
	}
}

// detach starts the grace of an attached peer. It gets a new generation, so that
// what its old socket still has under way is refused.
func (c *change) detach(old *Peer) {
	c.endTies(old.ID, "detached", true)
	p := *old
	p.Attached, p.Gen, p.Node, p.Incarnation, p.TTL = false, c.rev, "", 0, 0
	if c.ses.Grace == 0 {
		c.leave(&p, "grace")
		return
	}
	p.Deadline = c.s.now + c.ses.Grace
	c.setPeerState(&p, "detached")
	c.deadline(peerDeadline(&p))
}

// setPeerState stores a peer and tells of it.
func (c *change) setPeerState(p *Peer, state string) {
	c.putPeer(p)
	c.emit(&Event{Type: EventPeer, State: state, Peer: p})
}

func (c *change) putPeer(p *Peer) {
	s := c.write()
	s.peerBytes += p.bytes()
	if old, ok := s.peers.write(c.s.gen).Set(p.ID, p); ok {
		s.peerBytes -= old.bytes()
	}
}

// bytes is what a peer says of itself.
func (p *Peer) bytes() int { return len(p.Name) + len(p.Ref) + len(p.Role) + len(p.User) + len(p.Data) }

// leaveBy is a leave that the peer itself, or another, asked for.
func (c *change) leaveBy(cmd *Command) *Refusal {
	p := c.ses.Peer(cmd.Target)
	if p == nil {
		return c.ses.gone(cmd.Target)
	}
	reason := cmd.Reason
	if reason == "" {
		reason = "removed"
		if cmd.Caller.Kind == CallerPeer && cmd.Caller.Peer == cmd.Target {
			reason = "left"
		}
	}
	c.leave(p, reason)
	return nil
}

// leave takes a peer out of the session, with the entries bound to it, its locks
// and its places in line. The last one may take the session along.
func (c *change) leave(p *Peer, reason string) {
	last := c.ses.peers.len() == 1
	if !last || c.ses.Linger > 0 { // else all of it ends now, and no line moves up for nothing
		c.unbind(p.ID)
		c.endTies(p.ID, reason, false)
	}
	s := c.write()
	if old, ok := s.peers.write(c.s.gen).Delete(p.ID); ok {
		s.peerBytes -= old.bytes()
	}
	left := *p // as watchers last see it
	left.Attached, left.TTL, left.Gen = false, 0, c.rev
	c.emit(&Event{Type: EventPeer, State: "left", Peer: &left, Reason: reason})
	if last {
		c.empty()
	}
}

// unbind removes the entries bound to a peer.
func (c *change) unbind(peer string) {
	var bound []string
	prefix := place(peer, "")
	c.ses.bound.scan(prefix, "", func(key string, _ struct{}) bool {
		bound = append(bound, key[len(prefix):])
		return true
	})
	for _, at := range bound {
		store, key := splitPlace(at)
		c.delete(store, c.ses.Entry(store, key), "unbound")
	}
}

// setPeer changes what others see of a peer. Setting what is so already changes
// nothing.
func (c *change) setPeer(id string, set *SetPeer) *Refusal {
	old := c.ses.Peer(id)
	if old == nil {
		return c.ses.gone(id)
	}
	if n := len(set.Data); n > c.ses.Limits.PeerDataBytes {
		return overLimit("peer_data_bytes", c.ses.Limits.PeerDataBytes, n)
	}
	p := *old
	for _, m := range []struct {
		to   *string
		from *string
	}{{&p.Name, set.Name}, {&p.Ref, set.Ref}, {&p.Role, set.Role}} {
		if m.from != nil {
			*m.to = *m.from
		}
	}
	if set.Data != nil {
		p.Data = set.Data
	}
	if p.Name == old.Name && p.Ref == old.Ref && p.Role == old.Role && bytes.Equal(p.Data, old.Data) {
		return nil
	}
	c.setPeerState(&p, "updated")
	return nil
}
