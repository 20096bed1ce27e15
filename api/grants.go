package api

import (
	"slices"
	"sync"

	"conclave/fsm"
	"conclave/lock"
)

// grants tells waiting acquires of this node how their wait ended. One Observe of
// the store feeds it. There is one per server; HTTP and sockets share it.
//
// A wait is announced before its command is submitted, because the grant may be
// published together with the command's own result: until the result has told
// the waiter's number, the announced wait keeps every grant of its key.
type grants struct {
	mu    sync.Mutex
	waits map[lockKey][]*wait
}

// lockKey is a lock as commands name it.
type lockKey struct{ room, store, key string }

// wait is one acquire on its way. All fields are guarded by grants.mu.
type wait struct {
	table   *grants
	at      lockKey
	owner   lock.Owner
	session string
	waiter  uint64          // 0 until queued
	early   []fsm.Grant     // published before waiter was known
	lost    *fsm.View       // a replaced state that may have swallowed the grant
	end     func(fsm.Grant) // set by queued
}

func newGrants() *grants { return &grants{waits: make(map[lockKey][]*wait)} }

// expect announces an acquire, before it is submitted. It is ended by the wait's
// end after queued, or by forget.
func (g *grants) expect(room, store, key string) *wait {
	w := &wait{table: g, at: lockKey{room, store, key}}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waits[w.at] = append(g.waits[w.at], w)
	return w
}

// queued says that the owner's acquire waits under this number (fsm.Result.Waiter). end
// is called exactly once, when the wait is over, maybe before queued returns,
// unless forget comes first. It runs on the goroutine that applies the log: it
// must not block.
func (w *wait) queued(owner lock.Owner, session string, waiter uint64, end func(fsm.Grant)) {
	g := w.table
	g.mu.Lock()
	w.owner, w.session, w.waiter, w.end = owner, session, waiter, end
	grant, over := w.settled()
	if over {
		g.remove(w)
	}
	g.mu.Unlock()
	if over {
		end(grant)
	}
}

// forget gives a wait up; its end will not be called any more, unless it is being
// called right now.
func (w *wait) forget() {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.table.remove(w)
}

// size is how many waits are announced.
func (g *grants) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, waits := range g.waits {
		n += len(waits)
	}
	return n
}

// remove takes a wait out of the table; twice is once. Callers hold mu.
func (g *grants) remove(w *wait) {
	waits := slices.DeleteFunc(g.waits[w.at], func(o *wait) bool { return o == w })
	if len(waits) == 0 {
		delete(g.waits, w.at)
	} else {
		g.waits[w.at] = waits
	}
	w.early = nil
}

// settled looks for the end of the wait in what came before its number was known.
func (w *wait) settled() (fsm.Grant, bool) {
	for _, grant := range w.early {
		if grant.Session == w.session && grant.Waiter == w.waiter {
			return grant, true
		}
	}
	w.early = nil
	if w.lost != nil && w.waiter <= w.lost.Rev() { // else it queued after the replacement
		return w.replaced(w.lost)
	}
	return fsm.Grant{}, false
}

// observe takes the grants of a publication.
func (g *grants) observe(p *fsm.Published) {
	if len(p.Grants) == 0 && !p.Restored {
		return
	}
	var ended []func()
	g.mu.Lock()
	if p.Restored {
		ended = g.restored(p.View)
	}
	for _, grant := range p.Grants {
		for _, w := range slices.Clone(g.waits[lockKey{grant.Room, grant.Store, grant.Key}]) {
			switch {
			case w.waiter == 0:
				w.early = append(w.early, grant)
			case w.waiter == grant.Waiter && w.session == grant.Session:
				g.remove(w)
				ended = append(ended, func() { w.end(grant) })
			}
		}
	}
	g.mu.Unlock()
	for _, end := range ended {
		end()
	}
}

// restored settles waits after the whole state was replaced: what happened in
// between was published as no grant.
func (g *grants) restored(v *fsm.View) (ended []func()) {
	for _, waits := range g.waits {
		for _, w := range slices.Clone(waits) {
			if w.waiter == 0 {
				w.lost = v
			} else if grant, over := w.replaced(v); over {
				g.remove(w)
				ended = append(ended, func() { w.end(grant) })
			}
		}
	}
	return ended
}

// replaced is how the wait ended according to a state that replaced another,
// over is false if it goes on.
func (w *wait) replaced(v *fsm.View) (_ fsm.Grant, over bool) {
	grant := fsm.Grant{
		Room: w.at.room, Session: w.session, Store: w.at.store, Key: w.at.key, Waiter: w.waiter, Rev: v.Rev(),
	}
	session := v.Session(w.at.room)
	if session == nil || session.ID != w.session {
		grant.Refusal = &fsm.Refusal{Code: fsm.CodeSessionEnded, Message: "the session has ended"}
		return grant, true
	}
	if l := session.Lock(w.at.store, w.at.key); l != nil {
		for _, q := range l.Queue {
			if q.ID == w.waiter {
				return grant, false
			}
		}
		for _, h := range l.Holders {
			if h.Owner == w.owner {
				grant.Fence = h.Fence
				return grant, true
			}
		}
	}
	grant.Refusal = &fsm.Refusal{Code: fsm.CodeUnknownOutcome, Message: "the wait ended while this node was catching up"}
	return grant, true
}
