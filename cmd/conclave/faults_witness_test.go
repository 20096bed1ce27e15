package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// witness watches everything in a room at one node, whatever becomes of it.
type witness struct {
	name string

	mu       sync.Mutex
	spans    []*span
	problems []string
}

// span is what a witness saw without a reset: every event with from < rev <= to.
type span struct {
	from, to uint64
	events   map[uint64][]wire.Event
}

func (c *testCluster) witness(room string, i int) *witness {
	w := &witness{name: "the watcher at " + c.nodes[i].id}
	h := newHTTP(c.t, 10*time.Minute, c.nodes[i].url())
	stream := h.Events(room, client.EventsParams{})
	ctx, cancel := context.WithCancel(c.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for update, err := range stream.All(ctx) {
			if ctx.Err() == nil {
				w.take(&update, err)
			}
		}
	})
	c.t.Cleanup(func() { cancel(); done.Wait(); stream.Close(); h.Close() })
	eventually(c.t, w.name+" has begun", func() bool { return w.reached(1) })
	return w
}

func (w *witness) take(u *client.Update, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.problems = append(w.problems, err.Error())
		return
	}
	if u.Snapshot != nil {
		w.spans = append(w.spans, &span{from: u.Rev, to: u.Rev, events: map[uint64][]wire.Event{}})
		return
	}
	if len(w.spans) == 0 {
		w.problems = append(w.problems, "events came before the snapshot")
		return
	}
	s := w.spans[len(w.spans)-1]
	if len(u.Events) > 0 && u.Rev <= s.to {
		w.problems = append(w.problems, fmt.Sprintf("rev %d came after %d", u.Rev, s.to))
	}
	if len(u.Events) > 0 {
		s.events[u.Rev] = u.Events
	}
	s.to = max(s.to, u.Rev)
}

func (w *witness) reached(rev uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.spans) > 0 && w.spans[len(w.spans)-1].to >= rev
}

// checkWitnesses compares what the watchers saw, and then judges the events.
func checkWitnesses(t *testing.T, all []*witness) {
	t.Helper()
	var spans []*span
	resets := 0
	for _, w := range all {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range w.problems {
			t.Errorf("%s: %s", w.name, p)
		}
		spans = append(spans, w.spans...)
		resets += len(w.spans) - 1
	}
	errs, events := judge(spans)
	for _, err := range errs[:min(5, len(errs))] {
		t.Error(err)
	}
	t.Logf("%d revisions watched at each node, %d resets", events, resets)
}

// judge finds what contradicts itself in what was seen. Nothing is known of what
// no span covers.
func judge(spans []*span) (errs []error, revisions int) {
	known := map[uint64][]wire.Event{}
	text := map[uint64]string{}
	for _, s := range spans {
		for rev, events := range s.events {
			data, err := json.Marshal(events)
			if err != nil {
				return []error{err}, 0
			}
			if text[rev] == "" {
				known[rev], text[rev] = events, string(data)
			} else if text[rev] != string(data) {
				errs = append(errs, fmt.Errorf("rev %d is %s to one watcher and %s to another", rev, text[rev], data))
			}
		}
	}
	revs := slices.Sorted(maps.Keys(known))
	for _, s := range spans {
		for _, rev := range revs {
			if rev > s.from && rev <= s.to && s.events[rev] == nil {
				errs = append(errs, fmt.Errorf("a watcher saw all from %d to %d but not rev %d: %s", s.from, s.to, rev, text[rev]))
			}
		}
	}
	// Runs of revisions that somebody saw without a gap.
	slices.SortFunc(spans, func(a, b *span) int { return int(int64(a.from) - int64(b.from)) })
	for i := 0; i < len(spans); {
		j, to := i, spans[i].to
		for j < len(spans) && spans[j].from <= to {
			to = max(to, spans[j].to)
			j++
		}
		l := &ledger{versions: map[string]uint64{}, held: map[string]wire.Event{}, fences: map[string]uint64{}}
		for _, rev := range revs {
			if rev > spans[i].from && rev <= to {
				for _, e := range known[rev] {
					errs = append(errs, l.take(e))
				}
			}
		}
		i = j
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil }), len(revs)
}

// ledger follows versions and locks through the events of a run. What was before
// the run is learned from its first event.
type ledger struct {
	versions map[string]uint64
	held     map[string]wire.Event // the grants in force
	fences   map[string]uint64     // last granted, of keys that are known
}

func (l *ledger) take(e wire.Event) error {
	switch e.Type {
	case "put":
		last, known := l.versions[e.Key]
		l.versions[e.Key] = e.Version
		if known && e.Version != last+1 {
			return fmt.Errorf("rev %d: %s went from version %d to %d", e.Rev, e.Key, last, e.Version)
		}
		grant, holds := l.held[e.Key]
		_, known = l.fences[e.Key]
		if e.Key == lockedKey && known && !holds {
			return fmt.Errorf("rev %d: %s was written under a lock that nobody held", e.Rev, e.Key)
		}
		if holds && (e.By == nil || e.By.Peer != grant.Owner) {
			return fmt.Errorf("rev %d: %s was written by %+v while %s held it", e.Rev, e.Key, e.By, grant.Owner)
		}
	case "delete":
		l.versions[e.Key] = 0
	case "lock":
		grant, holds := l.held[e.Key]
		last, known := l.fences[e.Key]
		if e.State != "acquired" {
			delete(l.held, e.Key)
			l.fences[e.Key] = max(last, e.Fence)
			if known && (!holds || grant.Fence != e.Fence) {
				return fmt.Errorf("rev %d: %s %s with fence %d, which held nothing", e.Rev, e.Key, e.State, e.Fence)
			}
			return nil
		}
		l.held[e.Key], l.fences[e.Key] = e, e.Fence
		if holds {
			return fmt.Errorf("rev %d: %s is granted to %s while %s holds it", e.Rev, e.Key, e.Owner, grant.Owner)
		}
		if known && e.Fence <= last {
			return fmt.Errorf("rev %d: %s is granted with fence %d after %d", e.Rev, e.Key, e.Fence, last)
		}
	}
	return nil
}

// What contradicts itself is found.
func TestFaults_the_watchers_are_judged(t *testing.T) {
	put := func(rev, version uint64, by string) wire.Event {
		return wire.Event{Type: "put", Key: lockedKey, Rev: rev, Version: version, By: &wire.By{Kind: "peer", Peer: by}}
	}
	lock := func(rev uint64, state, owner string, fence uint64) wire.Event {
		return wire.Event{Type: "lock", Key: lockedKey, Rev: rev, State: state, Owner: owner, Fence: fence}
	}
	good := []wire.Event{
		lock(1, "acquired", "p1", 1), put(2, 1, "p1"), lock(3, "released", "p1", 1), lock(4, "acquired", "p2", 4), put(5, 2, "p2"), lock(6, "expired", "p2", 4),
	}
	change := func(f func(e []wire.Event) []wire.Event) []wire.Event { return f(slices.Clone(good)) }
	see := func(events []wire.Event) *span {
		s := &span{to: 6, events: map[uint64][]wire.Event{}}
		for _, e := range events {
			s.events[e.Rev] = append(s.events[e.Rev], e)
		}
		return s
	}
	for want, events := range map[string][]wire.Event{
		"":                         good,
		"to one watcher and":       change(func(e []wire.Event) []wire.Event { e[1].At = "later"; return e }),
		"but not rev 5":            change(func(e []wire.Event) []wire.Event { return slices.Delete(e, 4, 5) }),
		"while p1 holds it":        change(func(e []wire.Event) []wire.Event { return slices.Delete(e, 2, 3) }),
		"went from version 1 to 3": change(func(e []wire.Event) []wire.Event { e[4].Version = 3; return e }),
		"while p2 held it":         change(func(e []wire.Event) []wire.Event { e[4].By = &wire.By{Peer: "p1"}; return e }),
		"with fence 1 after 1":     change(func(e []wire.Event) []wire.Event { e[3].Fence = 1; e[5].Fence = 1; return e }),
		"that nobody held":         change(func(e []wire.Event) []wire.Event { e[2].Rev, e[1].Rev = 2, 3; e[1], e[2] = e[2], e[1]; return e }),
	} {
		spans := []*span{see(events)}
		if want == "to one watcher and" || want == "but not rev 5" {
			spans = append(spans, see(good))
		}
		errs, _ := judge(spans)
		if err := errors.Join(errs...); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("judged %v, want %q", err, want)
		}
	}
}
