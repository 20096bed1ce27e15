package cluster

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// Replicas that apply the same entries have the same state, unless memory, a disk
// or this program is at fault. The leader has them compare now and then: it logs a
// request, each replica hashes its state as of that entry, on the side, and tells
// the others. Everybody judges for itself, the leader like any other: who differs
// from what a majority of voters has is wrong, and stops for good. Without a
// majority (two replicas, or two of three while the third is down) nobody can tell
// who is right; that is logged and counted, and left to people.

// divergedKey holds, in the stable store, why this data directory's state must not
// be used again.
var divergedKey = []byte("conclave.diverged")

// keptHashes is for how many requests a node remembers what the others said.
const keptHashes = 4

type hashMessage struct {
	Index   uint64 `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint"`
	Hash    []byte `cbor:"3,keyasint"`
}

// divergence compares this node's state with the others'.
type divergence struct {
	n    *Node
	work chan fsm.HashRequest // holds one: a replica that is slower than the requests leaves some out

	mu      sync.Mutex
	asked   uint64        // index of the last request applied here
	took    time.Duration // to hash, last time
	points  []*hashPoint  // by index, the newest last
	agreed  uint64        // newest index at which a majority had what this node has
	differs uint64        // how often another replica did not have what a majority has, or there was none
}

// hashPoint is what is known of the states as of one index.
type hashPoint struct {
	index  uint64
	own    string // "" until it is computed
	hashes map[raft.ServerID]string
	judged map[raft.ServerID]bool // those that were found to differ
}

func newDivergence(n *Node) *divergence {
	return &divergence{n: n, work: make(chan fsm.HashRequest, 1)}
}

// published takes the requests that the log brought.
func (d *divergence) published(p *fsm.Published) {
	for _, r := range p.Hashes {
		d.mu.Lock()
		d.asked = r.View.Index()
		d.mu.Unlock()
		if r.Version != fsm.HashVersion {
			continue // of another version of this program, in the middle of an upgrade
		}
		select {
		case d.work <- r:
		default:
		}
	}
}

// run hashes and tells the others.
func (d *divergence) run() {
	for {
		select {
		case <-d.n.done:
			return
		case r := <-d.work:
			start := time.Now()
			hash := r.View.Hash()
			d.mu.Lock()
			d.took = time.Since(start)
			d.mu.Unlock()
			m := hashMessage{Index: r.View.Index(), Version: r.Version, Hash: hash[:]}
			for _, s := range d.n.configuration().Servers {
				if s.ID != d.n.self.ServerID() {
					ctx, cancel := context.WithTimeout(d.n.ctx, d.n.timeout)
					d.n.channel.Send(ctx, s.ID, methodHash, encode(m), func([]byte, error) { cancel() })
				}
			}
			d.heard(d.n.self.ServerID(), m)
		}
	}
}

// heard takes a replica's hash, and judges.
func (d *divergence) heard(from raft.ServerID, m hashMessage) {
	servers := d.n.configuration().Servers
	d.mu.Lock()
	p := d.point(m.Index)
	if p == nil || m.Version != fsm.HashVersion {
		d.mu.Unlock()
		return
	}
	p.hashes[from] = string(m.Hash)
	if from == d.n.self.ServerID() {
		p.own = string(m.Hash)
	}
	wrong := d.judge(p, servers)
	d.mu.Unlock()
	if wrong != nil {
		if err := d.n.stable.Set(divergedKey, []byte(wrong.Error())); err != nil {
			d.n.log.Error("remember that the state is wrong", "error", err)
		}
		d.n.fatal(wrong)
	}
}

// point is what is kept for an index; nil for one that is too old to be kept.
func (d *divergence) point(index uint64) *hashPoint {
	at := len(d.points)
	for at > 0 && d.points[at-1].index >= index {
		at--
	}
	if at < len(d.points) && d.points[at].index == index {
		return d.points[at]
	}
	if at == 0 && len(d.points) == keptHashes {
		return nil
	}
	p := &hashPoint{index: index, hashes: map[raft.ServerID]string{}, judged: map[raft.ServerID]bool{}}
	d.points = append(d.points[:at:at], append([]*hashPoint{p}, d.points[at:]...)...)
	if len(d.points) > keptHashes {
		d.points = d.points[1:]
	}
	return p
}

// judge compares the hashes of one index. It returns why this node must stop, nil
// if it need not.
func (d *divergence) judge(p *hashPoint, servers []raft.Server) error {
	voters, said, count := 0, 0, map[string]int{}
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
			if h, ok := p.hashes[s.ID]; ok {
				said++
				count[h]++
			}
		}
	}
	right := ""
	for h, n := range count {
		if n > voters/2 {
			right = h
		}
	}
	switch {
	case right == "" && said == voters && len(count) > 1 && !p.judged[""]:
		p.judged[""] = true
		d.differs++
		d.n.log.Error("the replicas' states differ, and none is that of a majority", "index", p.index)
	case right == "" || p.own == "":
		return nil
	case p.own != right:
		return fmt.Errorf("state divergence: as of log entry %d this node's state (%s) is not that of the majority (%s): "+
			"empty its data folder and let it join anew", p.index, short(p.own), short(right))
	default:
		d.agreed = max(d.agreed, p.index)
		for id, h := range p.hashes {
			if h != right && !p.judged[id] {
				p.judged[id] = true
				d.differs++
				d.n.log.Error("a replica's state is not that of the majority; it stops", "replica", id, "index", p.index)
			}
		}
	}
	return nil
}

func short(hash string) string { return hex.EncodeToString([]byte(hash[:min(len(hash), 4)])) }

// serveHash takes another replica's hash. It counts only from a member.
func (n *Node) serveHash(from Identity, req []byte, reply func([]byte, error)) {
	var m hashMessage
	if err := decode(req, &m); err != nil {
		reply(nil, err)
		return
	}
	reply(encode(struct{}{}), nil)
	if _, member := n.member(from.ServerID()); member {
		n.divergence.heard(from.ServerID(), m)
	}
}

// figures are the last index at which this node agreed with a majority, and how
// often it has seen replicas differ.
func (d *divergence) figures() (agreed, differs uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.agreed, d.differs
}

// due says whether there is something new to compare. Hashing takes time in
// proportion to the state: it is to take a hundredth at most.
func (d *divergence) due(index uint64, since time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return index > d.asked && since > 100*d.took
}

// compareStates has the replicas compare their states now and then.
func (l *leadership) compareStates() {
	if l.n.cfg.CompareInterval < 0 {
		return
	}
	ticker := time.NewTicker(l.n.cfg.CompareInterval)
	defer ticker.Stop()
	last := l.start
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
		if l.n.divergence.due(l.n.machine.View().Index(), time.Since(last)) {
			last = time.Now()
			l.control(fsm.Control{Kind: fsm.ControlHash, Seen: fsm.HashVersion})
		}
	}
}

// refuseDiverged says why a data directory must not be used any more.
func refuseDiverged(stable raft.StableStore) error {
	why, err := stable.Get(divergedKey)
	switch {
	case err != nil && !isNotFound(err):
		return err
	case len(why) > 0:
		return fmt.Errorf("this node has stopped before: %s", why)
	}
	return nil
}
