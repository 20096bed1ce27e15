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
	mode  mode
	ended uint64 // revision; 0 while held
	state string // how it ended
}

// checkLocks: no more holders at once than the lock's mode allows, growing fences,
// writes to a held key by its holders only (G4), no lease shorter than it was
// promised (G5), first come first served (G6).
func (h *History) checkLocks(l *Log) (errs []error) {
	grants, errs := h.grants(l)
	for _, g := range grants {
		errs = append(errs, h.checkLease(l, g)...)
	}
	return append(errs, h.checkQueue()...)
}

// mode is how an owner asks for a lock. Events do not tell it; each owner of the
// workload always asks for one lock in one mode, so its requests do.
type mode struct {
	shared  bool
	permits int
}

type ownership struct {
	at    place
	owner lock.Owner
}

func (h *History) modes() map[ownership]mode {
	modes := map[ownership]mode{}
	for _, op := range h.Ops {
		if a := op.Command.Acquire; a != nil {
			modes[ownership{place{op.Command.Room, a.Key}, op.Command.Caller.LockOwner()}] = mode{a.Lock.Shared, a.Lock.Permits}
		}
	}
	return modes
}

// admits tells whether g may hold the lock beside those who do.
func (g *grant) admits(holders []*grant) bool {
	for _, other := range holders {
		if other.mode != g.mode || other.owner == g.owner {
			return false
		}
	}
	return len(holders) == 0 || g.mode.shared || len(holders) < g.mode.permits
}

// grants reads the tenures of all locks off the log.
func (h *History) grants(l *Log) (all []*grant, errs []error) {
	modes := h.modes()
	held := map[place][]*grant{}
	last := map[place]uint64{}
	for _, f := range l.Frames {
		for _, e := range f.Events {
			at := place{f.Room, e.Key}
			holders := held[at]
			switch {
			case e.Type == fsm.EventPut && len(holders) > 0 && !slices.ContainsFunc(holders, func(g *grant) bool { return wrote(e, g.owner) }):
				errs = append(errs, fmt.Errorf("rev %d: %+v wrote %s, which %v holds with fence %d", f.Rev, e.By, e.Key, holders[0].owner, holders[0].fence))
			case e.Type == fsm.EventSession && e.State == "ended":
				for at, ended := range held {
					if at.room != f.Room {
						continue
					}
					for _, g := range ended {
						g.ended, g.state = f.Rev, "session"
					}
					delete(held, at)
				}
			case e.Type != fsm.EventLock:
			case e.State == "acquired":
				g := &grant{at: at, owner: e.Owner, fence: e.Fence, mode: modes[ownership{at, e.Owner}]}
				if !g.admits(holders) {
					errs = append(errs, fmt.Errorf("rev %d: %v got %s (%+v) while %d hold it, first %v", f.Rev, e.Owner, e.Key, g.mode, len(holders), holders[0].owner))
				}
				if e.Fence <= last[at] {
					errs = append(errs, fmt.Errorf("rev %d: fence %d of %s after fence %d", f.Rev, e.Fence, e.Key, last[at]))
				}
				held[at], last[at] = append(holders, g), e.Fence
				all = append(all, g)
			default:
				i := slices.IndexFunc(holders, func(g *grant) bool { return g.fence == e.Fence })
				if i < 0 {
					errs = append(errs, fmt.Errorf("rev %d: fence %d of %s ended (%s), which was not held", f.Rev, e.Fence, e.Key, e.State))
					continue
				}
				holders[i].ended, holders[i].state = f.Rev, e.State
				held[at] = slices.Delete(holders, i, i+1)
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
