package sim

import (
	"fmt"
	"time"

	"conclave/fsm"
)

// presence is a peer of a session, as the log tells its life.
type presence struct {
	state string // of its last event
	bound map[string]bool
}

// checkPeers (G10): a peer joins, is detached and attached, and leaves, in that
// order and within its session; what is bound to it is there only while it is;
// one without a socket does not expire before its TTL has passed since it was last
// kept alive (G5); and when the last one leaves, the session ends.
func (h *History) checkPeers(l *Log) (errs []error) {
	alive := map[string]map[string]*presence{} // by session and peer
	for _, f := range l.Frames {
		complain := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("rev %d, session %s: "+format, append([]any{f.Rev, f.Session}, args...)...))
		}
		peers := alive[f.Session]
		for _, e := range f.Events {
			switch {
			case e.Type == fsm.EventSession && e.State == "started":
				if peers != nil {
					complain("it starts a second time")
				}
				peers = map[string]*presence{}
				alive[f.Session] = peers
			case peers == nil:
				// Its start was not seen: nodes tell only what they live through.
			case e.Type == fsm.EventPeer:
				if problem := live(peers, e); problem != "" {
					complain("peer %s %s", e.Peer.ID, problem)
				}
				if e.State == "left" && e.Reason == "expired" {
					errs = append(errs, h.checkPeerLease(e.Peer.ID, f)...)
				}
			case e.Type == fsm.EventPut:
				for id, p := range peers {
					delete(p.bound, e.Key)
					if e.Entry.Bound == id {
						p.bound[e.Key] = true
					}
				}
				if bound := e.Entry.Bound; bound != "" && (peers[bound] == nil || peers[bound].state == "left") {
					complain("%s is bound to %s, who is not there", e.Key, bound)
				}
			case e.Type == fsm.EventDelete:
				for _, p := range peers {
					delete(p.bound, e.Key)
				}
			}
		}
		ended := len(f.Events) > 0 && f.Events[len(f.Events)-1].Type == fsm.EventSession && f.Events[len(f.Events)-1].State == "ended"
		for id, p := range peers {
			if p.state != "left" || ended {
				continue
			}
			for key := range p.bound {
				complain("%s is bound to %s, who has left", key, id)
			}
			delete(peers, id)
		}
	}
	return errs
}

// live notes what happens to a peer, and says what is wrong with that.
func live(peers map[string]*presence, e *fsm.Event) string {
	p := peers[e.Peer.ID]
	if e.State == "joined" {
		if p != nil {
			return "joins a second time"
		}
		peers[e.Peer.ID] = &presence{state: "joined", bound: map[string]bool{}}
		return ""
	}
	if p == nil {
		return "is " + e.State + " and never joined"
	}
	before := p.state
	if e.State != "updated" {
		p.state = e.State
	}
	if e.State == "detached" && before == "detached" {
		return "is detached twice"
	}
	return ""
}

// checkPeerLease: who was kept alive was so for its TTL.
func (h *History) checkPeerLease(id string, f Logged) (errs []error) {
	for _, r := range h.Renewals {
		if r.Peer == id && f.At < r.Sent+r.TTL-time.Millisecond {
			errs = append(errs, fmt.Errorf("peer %s expired at %v, %v before the end of its TTL (kept alive at %v)", id, f.At, r.Sent+r.TTL-f.At, r.Sent))
		}
	}
	return errs
}
