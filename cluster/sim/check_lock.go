package sim

import (
	"fmt"
	"maps"
	"slices"

	"conclave/fsm"
	"conclave/lock"
)

// grant is one tenure of a lock.
type grant struct {
	at    place
	owner lock.Owner
	fence uint64
	ended uint64 // revision; 0 while held
	state string // how it ended
}

// checkLocks: at most one holder, growing fences, writes to a held key by its
// owner only (G4), no lease shorter than it was promised (G5), first come first
// served (G6).
func (h *History) checkLocks(l *Log) (errs []error) {
	grants, errs := l.grants()
	for _, g := range grants {
		errs = append(errs, h.checkLease(l, g)...)
	}
	return append(errs, h.checkQueue()...)
}

// grants reads the tenures of all locks off the log.
func (l *Log) grants() (all []*grant, errs []error) {
	held := map[place]*grant{}
	last := map[place]uint64{}
	for _, f := range l.Frames {
		for _, e := range f.Events {
			at := place{f.Room, e.Key}
			holder := held[at]
			switch {
			case e.Type == fsm.EventPut && holder != nil && !wrote(e, holder.owner):
				errs = append(errs, fmt.Errorf("rev %d: %+v wrote %s, which %v holds with fence %d", f.Rev, e.By, e.Key, holder.owner, holder.fence))
			case e.Type == fsm.EventSession && e.State == "ended":
				for at, g := range held {
					if at.room == f.Room {
						g.ended, g.state = f.Rev, "session"
						delete(held, at)
					}
				}
			case e.Type != fsm.EventLock:
			case e.State == "acquired":
				if holder != nil {
					errs = append(errs, fmt.Errorf("rev %d: %v got %s while %v holds it", f.Rev, e.Owner, e.Key, holder.owner))
				}
				if e.Fence <= last[at] {
					errs = append(errs, fmt.Errorf("rev %d: fence %d of %s after fence %d", f.Rev, e.Fence, e.Key, last[at]))
				}
				g := &grant{at: at, owner: e.Owner, fence: e.Fence}
				held[at], last[at] = g, e.Fence
				all = append(all, g)
			case holder == nil || holder.fence != e.Fence:
				errs = append(errs, fmt.Errorf("rev %d: fence %d of %s ended (%s), which was not held", f.Rev, e.Fence, e.Key, e.State))
			default:
				holder.ended, holder.state = f.Rev, e.State
				delete(held, at)
			}
		}
	}
	return all, errs
}

// wrote tells whether an owner is the author of an event. A server client's
// owner name is its user here.
func wrote(e *fsm.Event, owner lock.Owner) bool {
	if owner.Peer != "" {
		return e.By.Peer == owner.Peer
	}
	return e.By.Peer == "" && e.By.User == owner.Subject
}

// checkLease: a lease did not end before the TTL had passed since the last
// renewal that was acknowledged was sent.
func (h *History) checkLease(l *Log, g *grant) (errs []error) {
	if g.state != "expired" {
		return nil
	}
	over := l.seenAt(g.ended)
	for _, r := range h.Renewals {
		if r.Room == g.at.room && r.Key == g.at.key && r.Fence == g.fence && over < r.Sent+r.TTL {
			errs = append(errs, fmt.Errorf("fence %d of %s expired at %v, %v before the end of its lease (renewed at %v)", g.fence, g.at.key, over, r.Sent+r.TTL-over, r.Sent))
		}
	}
	return errs
}

// checkQueue: of those who waited for a lock, who queued first got it first. A
// waiter's number is the revision at which it queued. An owner that queued twice
// gets the lock in its first place, which answers the other as well.
func (h *History) checkQueue() (errs []error) {
	queues := map[place]map[uint64]uint64{} // the first waiter, by fence
	for _, g := range h.Grants {
		if g.Refusal != nil {
			continue
		}
		at := place{g.Room, g.Key}
		if queues[at] == nil {
			queues[at] = map[uint64]uint64{}
		}
		if first, ok := queues[at][g.Fence]; !ok || g.Waiter < first {
			queues[at][g.Fence] = g.Waiter
		}
	}
	for at, queue := range queues {
		last := uint64(0)
		for _, fence := range slices.Sorted(maps.Keys(queue)) {
			if queue[fence] < last {
				errs = append(errs, fmt.Errorf("%s: fence %d went to who queued at rev %d, after who queued at rev %d", at.key, fence, queue[fence], last))
			}
			last = max(last, queue[fence])
		}
	}
	return errs
}
