package cluster

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// A node that has not been heard of for goneAfter timeouts is taken for dead: its
// peers are detached. A new leader gives each node that time anew.
const goneAfter = 3

// gonePeers is how many peers of a room one entry detaches at most: far below
// what an entry holds, whatever the length of their ids.
const gonePeers = 200

// nodeSeen is what a member's heartbeats told the leader.
type nodeSeen struct {
	at       time.Time
	beat     heartbeat
	lag      uint64 // entries it was behind the leader when the heartbeat came; not now, when the leader has gone on
	dead     bool   // its process was gone, and nothing was heard since
	caughtUp int    // looks in a row at which a non-voter had caught up
}

// beat tells the leader, again and again, that this incarnation lives. It stands
// for all peers on this node: peers themselves cause no traffic.
func (n *Node) beat() {
	ticker := time.NewTicker(n.timeout / 2)
	defer ticker.Stop()
	for {
		changed := n.leaderChanged()
		if id := n.leaderID(); id != "" && id != n.self.ServerID() {
			ctx, cancel := context.WithTimeout(n.ctx, n.timeout)
			n.channel.Send(ctx, id, methodHeartbeat, encode(n.heartbeat()), func(data []byte, err error) {
				cancel()
				var a heartbeatAnswer
				if err == nil && decode(data, &a) == nil && a.Removed {
					n.markRemoved()
				}
			})
		}
		select {
		case <-ticker.C:
		case <-changed:
		case <-n.done:
			return
		}
	}
}

func (n *Node) heartbeat() heartbeat {
	return heartbeat{
		Incarnation: n.incarnation,
		Applied:     n.machine.View().Index(),
		DiskMicros:  n.watchdog.Latency().Microseconds(),
		PeerAddr:    n.cfg.PeerAddr,
	}
}

func (n *Node) serveHeartbeat(from Identity, req []byte, reply func([]byte, error)) {
	l := n.leads()
	if l == nil {
		reply(nil, errNotLeader)
		return
	}
	var beat heartbeat
	if err := decode(req, &beat); err != nil {
		reply(nil, err)
		return
	}
	answer := heartbeatAnswer{Term: l.term}
	if _, member := n.member(from.ServerID()); member {
		l.heard(from.ServerID(), beat)
	} else {
		// Certain only once the configuration that lacks it is committed.
		answer.Removed = n.raft.CommitIndex() >= n.configIndex()
	}
	reply(encode(answer), nil)
}

// heard remembers a heartbeat.
func (l *leadership) heard(id raft.ServerID, beat heartbeat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.nodes[id]
	if seen == nil {
		seen = &nodeSeen{}
		l.nodes[id] = seen
	}
	seen.at, seen.beat, seen.lag, seen.dead = time.Now(), beat, 0, false
	if own := l.n.machine.View().Index(); beat.Applied < own {
		seen.lag = own - beat.Applied
	}
}

// gone marks a member whose process is gone: leadership is not handed to it, and a
// removal does not count on it. Its peers have their time all the same.
func (l *leadership) gone(id raft.ServerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seen := l.nodes[id]; seen != nil {
		seen.dead = true
	}
}

// alive reports whether a member has been heard of lately. Nobody is dead before
// the leader has led for long enough to tell.
func (l *leadership) alive(id raft.ServerID) bool {
	if id == l.n.self.ServerID() {
		return true
	}
	limit := goneAfter * l.n.timeout
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.nodes[id]
	if seen == nil {
		return time.Since(l.start) < limit
	}
	return time.Since(seen.at) < limit
}

// heardOf reports whether a member's heartbeat has come in this term, lately.
func (l *leadership) heardOf(id raft.ServerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.nodes[id]
	return id == l.n.self.ServerID() || seen != nil && !seen.dead && time.Since(seen.at) < goneAfter*l.n.timeout
}

// watchNodes detaches the peers of dead and restarted nodes, promotes non-voters
// that have caught up, and keeps the members' addresses right.
func (l *leadership) watchNodes() {
	ticker := time.NewTicker(l.n.timeout)
	defer ticker.Stop()
	sweep := sweeper{l: l}
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
		sweep.look()
		l.reconcile()
	}
}

// sweeper finds peers and waiters of nodes that are gone. Looking goes through
// all rooms, so it is done when somebody has gone, and less and less often while
// nothing is found.
type sweeper struct {
	l    *leadership
	last map[string]nodeState // as of the last look, to notice deaths and restarts
	idle int                  // looks in a row that found nothing
	skip int                  // looks to leave out
}

type nodeState struct {
	incarnation uint64
	dead        bool
}

func (s *sweeper) look() {
	view := s.l.n.machine.View()
	nodes := make(map[string]nodeState)
	anyDead := false
	for _, info := range view.Nodes() {
		state := nodeState{info.Incarnation, !s.l.aliveNode(info.ID)}
		nodes[info.ID] = state
		anyDead = anyDead || state.dead
	}
	switch {
	case !maps.Equal(nodes, s.last):
		s.idle, s.skip = 0, 0
	case s.skip > 0:
		s.skip--
		return
	case !anyDead && s.idle > 3:
		return
	}
	s.last = nodes
	found := 0
	view.NodeUse(func(node string, incarnation uint64) bool {
		current, known := nodes[node]
		return !known || current.dead || incarnation != current.incarnation
	}, func(c fsm.Control) {
		found++
		c.Term = s.l.term
		peers := c.Peers
		for len(peers) > gonePeers {
			c.Peers = peers[:gonePeers]
			s.l.control(c)
			peers = peers[gonePeers:]
		}
		c.Peers = peers
		s.l.control(c)
	})
	if found > 0 {
		s.idle = 0
		return
	}
	s.idle++
	s.skip = min(s.idle, 10)
}

// aliveNode is alive for a node's name, whichever data directory it has now.
func (l *leadership) aliveNode(node string) bool {
	for _, server := range l.n.configuration().Servers {
		if nodeOf(server.ID) == node && l.alive(server.ID) {
			return true
		}
	}
	return false
}
