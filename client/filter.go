package client

import (
	"slices"
	"strings"

	"conclave/client/wire"
)

// Filter says what a Watch lets through. A filter with nothing set lets
// everything through; an event passes a Watch if any of its filters lets it.
type Filter = wire.Filter

// Keys is a filter for keys of the store "default": their entries, and the locks
// on them. A pattern is an exact key, or a prefix followed by *.
func Keys(patterns ...string) Filter { return Filter{Keys: patterns} }

// KeysIn is Keys for another store.
func KeysIn(store string, patterns ...string) Filter {
	return Filter{Store: store, Keys: patterns}
}

// Types is a filter for events of those types: put, delete, lock, peer, message,
// session.
func Types(types ...string) Filter { return Filter{Types: types} }

// Messages is a filter for messages on those topics (patterns as those of Keys),
// or on all.
func Messages(topics ...string) Filter {
	return Filter{Types: []string{"message"}, Topics: topics}
}

// A connection carries the events of all its watches once, so each Watch picks
// its own out of them by the same rules as the servers.

// passes reports whether an event passes any of the filters. Whoever watches
// anything hears of the session's start and end: all else depends on it.
func passes(filters []Filter, e *wire.Event) bool {
	if e.Type == "session" {
		return true
	}
	for i := range filters {
		if lets(&filters[i], e) {
			return true
		}
	}
	return false
}

// lets reports whether one filter lets an event through. Keys restrict the events
// of keys and stand for those types when no types are named; topics likewise
// for messages.
func lets(f *Filter, e *wire.Event) bool {
	keyed := e.Type == "put" || e.Type == "delete" || e.Type == "lock"
	message := e.Type == "message"
	switch {
	case len(f.Types) > 0:
		if !slices.Contains(f.Types, e.Type) {
			return false
		}
	case len(f.Keys) > 0 || len(f.Topics) > 0 || f.Store != "":
		if !(keyed && (len(f.Keys) > 0 || f.Store != "")) && !(message && len(f.Topics) > 0) {
			return false
		}
	}
	switch {
	case keyed:
		store := f.Store
		if store == "" && len(f.Keys) > 0 {
			store = "default"
		}
		return (store == "" || store == storeName(e.Store)) && matches(f.Keys, e.Key)
	case message:
		return matches(f.Topics, e.Topic)
	}
	return true
}

// matches reports whether a name fits any of the patterns; none fit all.
func matches(patterns []string, name string) bool {
	if len(patterns) == 0 {
		return true
	}
	for _, p := range patterns {
		if prefix, open := strings.CutSuffix(p, "*"); p == name || open && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// only is the part of a snapshot that the filters let through.
func only(filters []Filter, s *wire.Snapshot) *wire.Snapshot {
	part := &wire.Snapshot{Session: s.Session}
	for store, entries := range s.Stores {
		var kept []wire.Entry
		for i := range entries {
			if passes(filters, &wire.Event{Type: "put", Store: store, Key: entries[i].Key}) {
				kept = append(kept, entries[i])
			}
		}
		if kept != nil {
			if part.Stores == nil {
				part.Stores = map[string][]wire.Entry{}
			}
			part.Stores[store] = kept
		}
	}
	for i := range s.Locks {
		if passes(filters, &wire.Event{Type: "lock", Store: s.Locks[i].Store, Key: s.Locks[i].Key}) {
			part.Locks = append(part.Locks, s.Locks[i])
		}
	}
	if passes(filters, &wire.Event{Type: "peer"}) {
		part.Peers = s.Peers
	}
	return part
}
