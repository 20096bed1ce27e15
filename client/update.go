package client

import "conclave/client/wire"

// Update is what a watcher receives next: a snapshot to start (or start anew)
// from, the events of one revision, or ephemeral messages.
//
// A program that keeps its own copy of the state replaces it by Snapshot when
// that is set and applies Events in order else. Then it has, after each Update,
// exactly the state as of Rev that its filters let through.
type Update struct {
	// Rev is the revision as of which everything has been delivered.
	Rev uint64
	// Snapshot is the state to start from; nil in an update of events.
	Snapshot *wire.Snapshot
	// Reset says why the watch starts anew: "compacted", "session", "restored",
	// "policy" or "slow", as the protocol names them. It is empty in the first
	// snapshot of a watch and in updates of events. What was known before is void.
	Reset string
	// Events are all events of one revision: a transaction is never split.
	Events []wire.Event
	// Ephemeral are messages that went past the log. They come alone and change
	// nothing: Rev is that of the Update before.
	Ephemeral []wire.Ephemeral
}

// more reports whether a page of a snapshot is not the last.
func more(f *wire.Frame) bool { return f.More != nil && *f.More }

// byRevision cuts the events of a frame into one update per revision.
func byRevision(events []wire.Event) []Update {
	var updates []Update
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Rev == events[0].Rev {
			n++
		}
		updates = append(updates, Update{Rev: events[0].Rev, Events: events[:n:n]})
		events = events[n:]
	}
	return updates
}

// pages collects the pages of a snapshot until its last one.
type pages struct{ snapshot *wire.Snapshot }

// add takes a page in. The first page is kept and the others are merged into it.
func (p *pages) add(page *wire.Snapshot) {
	if p.snapshot == nil {
		p.snapshot = page
		return
	}
	s := p.snapshot
	if page.Session != "" {
		s.Session = page.Session
	}
	for store, entries := range page.Stores {
		if s.Stores == nil {
			s.Stores = map[string][]wire.Entry{}
		}
		s.Stores[store] = append(s.Stores[store], entries...)
	}
	s.Peers = append(s.Peers, page.Peers...)
	s.Locks = append(s.Locks, page.Locks...)
}

// take returns the collected snapshot and starts over.
func (p *pages) take() *wire.Snapshot {
	s := p.snapshot
	p.snapshot = nil
	if s == nil {
		s = &wire.Snapshot{}
	}
	return s
}
