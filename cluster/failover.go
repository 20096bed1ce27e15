package cluster

import (
	"cmp"
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// How a dead leader is replaced at once instead of after raft's timeouts. When
// its process dies the kernel resets its connections and refuses new ones, which
// the channel reports (Channel.Lost). A voter that follows it then asks the other
// voters whether they have seen the same; with a majority, itself included, the
// one with the best log stands for election, the next best a moment later.
//
// Raft's rules decide that election, so a false alarm costs one at most. That it
// does not come to many, there are these conditions: a voter only, and in state
// Follower (a TimeoutNow would depose a healthy leader, or have a non-voter raise
// the term); once per leader and term; not a leader that has only just followed one
// that was lost; and nothing was heard from it since the loss.

// nextCandidate is how long a voter leaves to each one with a better log. A var, so
// that tests may make it matter.
var nextCandidate = 150 * time.Millisecond

// otherVoters is how long a voter whose majority is complete still waits for the
// others' word on whose log is best.
const otherVoters = 20 * time.Millisecond

// loss is what this node has seen of its leader's end.
type loss struct {
	leader  raft.ServerID
	term    uint64
	contact time.Time // raft's last contact then: if it moves, the leader lives
	at      time.Time
}

// losses is the last loss seen.
type losses struct {
	kick chan struct{} // holds one: there is a loss to act upon

	mu      sync.Mutex
	last    loss
	before  time.Time     // of the leader before, or in its earlier term, when it was lost
	changed chan struct{} // closed and replaced with each loss
}

func newLosses() *losses {
	return &losses{kick: make(chan struct{}, 1), changed: make(chan struct{})}
}

func (s *losses) look() (loss, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.changed
}

func (s *losses) note(l loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.leader != l.leader || s.last.term != l.term {
		s.before = s.last.at
	}
	s.last = l
	close(s.changed)
	s.changed = make(chan struct{})
}

// another is when the loss before the last one was, of another leader or term.
func (s *losses) another() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.before
}

type lostRequest struct {
	Leader string `cbor:"1,keyasint"`
	Term   uint64 `cbor:"2,keyasint"`
}

// lostAnswer is a voter's own observation, and how good its log is.
type lostAnswer struct {
	Lost    bool   `cbor:"1,keyasint,omitempty"`
	LogTerm uint64 `cbor:"2,keyasint,omitempty"`
	LogLast uint64 `cbor:"3,keyasint,omitempty"`
}

// lost is told by the channel that a member's process is gone.
func (n *Node) lost(id raft.ServerID) {
	if l := n.leads(); l != nil {
		l.gone(id)
		return
	}
	l := loss{leader: id, term: n.raft.CurrentTerm(), contact: n.raft.LastContact(), at: time.Now()}
	if !n.stands(l) {
		return // not the leader that this node follows
	}
	n.losses.note(l)
	select {
	case n.losses.kick <- struct{}{}:
	default:
	}
}

// stands reports whether a loss is all that this node knows: it follows nobody
// else, in no later term, and has heard nothing since.
func (n *Node) stands(l loss) bool {
	return n.raft.State() == raft.Follower && n.leaderID() == l.leader && n.raft.LastContact().Equal(l.contact) &&
		n.raft.CurrentTerm() == l.term
}

// serveLost answers another voter, as soon as this one has seen the same or
// enough time has passed for it to.
func (n *Node) serveLost(ctx context.Context, r lostRequest) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout/4)
	defer cancel()
	for {
		l, changed := n.losses.look()
		a := lostAnswer{Lost: string(l.leader) == r.Leader && l.term == r.Term && n.stands(l)}
		if a.Lost || n.raft.CurrentTerm() > r.Term {
			a.LogTerm, a.LogLast = n.lastEntry()
			return a, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return a, nil
		}
	}
}

// succeed acts upon losses.
func (n *Node) succeed() {
	var acted loss // the leader and term that this node has acted upon
	for {
		select {
		case <-n.done:
			return
		case <-n.losses.kick:
		}
		l, _ := n.losses.look()
		if l.leader == acted.leader && l.term == acted.term {
			continue
		}
		if n.replace(l) {
			acted = l
		}
	}
}

// replace sees to it that a lost leader gets a successor. It returns once another
// term has begun, this node has stood for election, or there was nothing to do:
// true if it has stood.
func (n *Node) replace(l loss) bool {
	if self, ok := n.member(n.self.ServerID()); !ok || self.Suffrage != raft.Voter || n.newlyLed(l) {
		return false
	}
	better, confirmed := 0, false
	// Raft itself elects after its timeout; until then who sees the loss late may
	// still confirm it.
	for !confirmed {
		if !n.stands(l) || time.Since(l.at) > n.timeout {
			return false
		}
		if better, confirmed = n.confirm(l); !confirmed && !n.pause(n.timeout/50) {
			return false
		}
	}
	for until := time.Now().Add(time.Duration(better) * nextCandidate); time.Now().Before(until); {
		if !n.stands(l) || !n.pause(n.timeout/100) {
			return false
		}
	}
	if !n.transport.Campaign(func() bool { return n.stands(l) }) {
		return false
	}
	n.log.Info("the leader's process is gone: standing for election",
		"leader", l.leader, "term", l.term, "better", better, "after", time.Since(l.at).Round(time.Microsecond))
	return true
}

// newlyLed reports whether a leader was lost less than a timeout after it was found,
// and that soon after another was lost. Where processes, or what lies between them,
// fail as fast as that, raft's own pace is fast enough.
func (n *Node) newlyLed(l loss) bool {
	if l.at.Sub(n.losses.another()) > 2*n.timeout {
		return false // as is the first leader, which nobody was lost for
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lastSeen.leader == l.leader && n.lastSeen.term == l.term && l.at.Sub(n.seenSince) < n.timeout
}

// confirm asks the other voters whether they have lost the same leader. ok says
// that a majority has, better how many of those have a better log than this node.
func (n *Node) confirm(l loss) (better int, ok bool) {
	ctx, cancel := context.WithTimeout(n.ctx, n.timeout/2)
	defer cancel()
	type said struct {
		id raft.ServerID
		lostAnswer
	}
	servers := n.configuration().Servers
	answers := make(chan said, len(servers)) // Send answers each once: never full
	request := encode(lostRequest{Leader: string(l.leader), Term: l.term})
	voters, confirmed, asked := 0, 1, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if voters++; s.ID == n.self.ServerID() || s.ID == l.leader {
			continue
		}
		asked++
		n.channel.Send(ctx, s.ID, methodLost, request, func(data []byte, err error) {
			var a lostAnswer
			if err != nil || decode(data, &a) != nil {
				a = lostAnswer{}
			}
			answers <- said{s.ID, a}
		})
	}
	var others <-chan time.Time
	for asked > 0 {
		if confirmed > voters/2 && others == nil {
			others = time.After(otherVoters)
		}
		select {
		case a := <-answers:
			asked--
			if a.Lost {
				confirmed++
				if n.behind(a.id, a.lostAnswer) {
					better++
				}
			}
		case <-others:
			asked = 0
		case <-ctx.Done():
			return 0, false
		}
	}
	return better, confirmed > voters/2
}

// behind reports whether another voter should stand before this one.
func (n *Node) behind(id raft.ServerID, a lostAnswer) bool {
	term, last := n.lastEntry()
	return cmp.Or(cmp.Compare(a.LogTerm, term), cmp.Compare(a.LogLast, last), cmp.Compare(n.self.ServerID(), id)) > 0
}

// lastEntry is the term and index of the last entry of this node's log, or of its
// snapshot if that has all of it.
func (n *Node) lastEntry() (term, index uint64) {
	stats := n.raft.Stats() // the only place where raft tells the term
	number := func(key string) uint64 {
		v, err := strconv.ParseUint(stats[key], 10, 64)
		if err != nil {
			n.log.Warn("raft tells no "+key, "error", err) // ranks last: another stands first
		}
		return v
	}
	if snapshot := number("last_snapshot_index"); snapshot > number("last_log_index") {
		return number("last_snapshot_term"), snapshot
	}
	return number("last_log_term"), number("last_log_index")
}

// pause waits; false when the node closes.
func (n *Node) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-n.done:
		return false
	}
}
