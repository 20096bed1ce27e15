package client

import (
	"slices"
	"time"

	"conclave/client/wire"
)

const (
	// heedAfter is how long a lock is held before its end is watched for: most are
	// held for a moment only, and are not worth two more requests.
	heedAfter = 100 * time.Millisecond
	// heedMost bounds the locks of a room that are watched: each takes one of the
	// filters that the servers allow a connection. The others learn of their end
	// when they renew.
	heedMost = 16
)

// heed ends a lock as soon as the servers say that it is over: that somebody broke
// it, say. Without, its holder would learn that at its next renewal only. It
// watches the lock as anybody may who can read the key; a holder that cannot has
// its renewals.
func (r *Room) heed(l *Lock) {
	if sleep(l.held, heedAfter) != nil || !r.mayHeed(1) {
		return
	}
	defer r.mayHeed(-1)
	w, err := r.Watch(l.held, wire.Filter{Store: l.store, Keys: []string{l.key}, Types: []string{"lock"}})
	if err != nil {
		r.log.Debug("the end of a lock is not watched for", "key", l.key, "err", err)
		return
	}
	defer w.Close()
	for u, err := range w.All(l.held) {
		if err != nil {
			return
		}
		if why := l.endIn(u.Events); why != "" {
			l.over(wire.Errorf(wire.NotHolder, "fence %d is over", l.fence).With("reason", why))
			return
		}
		if u.Snapshot != nil && !l.among(u.Snapshot.Locks) {
			// It ended unseen: the servers may know how.
			if err := l.keeper.confirm(l.held, l); gone(err) {
				l.over(err)
				return
			}
		}
	}
}

// mayHeed counts the locks that are watched. It says no to one too many.
func (r *Room) mayHeed(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.heeded+n > heedMost {
		return false
	}
	r.heeded += n
	return true
}

// endIn is how the lock ended, if one of the events is its end.
func (l *Lock) endIn(events []wire.Event) (how string) {
	for i := range events {
		if e := &events[i]; e.Type == "lock" && e.State != "acquired" && e.Fence == l.fence {
			return e.State
		}
	}
	return ""
}

// among tells whether the lock is held as those locks are listed.
func (l *Lock) among(locks []wire.Lock) bool {
	return slices.ContainsFunc(locks, func(other wire.Lock) bool {
		return slices.ContainsFunc(other.Holders, func(h wire.Holder) bool { return h.Fence == l.fence })
	})
}
