package api

import (
	"fmt"
	"iter"
	"maps"
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// Profile is a named set of limits, chosen when a session starts. The session
// carries the numbers, so changing a profile never changes a live session.
type Profile struct {
	Limits        wire.Limits
	Grace, Linger time.Duration
}

// limits are the members of a profile's Limits by their names in the protocol,
// with the most that each may be: what the log, a snapshot and the other replicas
// carry in every case. The least is 1; zero never means unlimited.
var limits = []struct {
	name string
	most int
	of   func(*wire.Limits) *int
}{
	// Half of a command, so that a condition on the old value fits beside the new
	// one, in every encoding.
	{"value_bytes", fsm.MaxCommandBytes / 2, func(l *wire.Limits) *int { return &l.ValueBytes }},
	// One operation must be able to name all keys of a store, to replace it.
	{"keys_per_store", fsm.MaxKeys, func(l *wire.Limits) *int { return &l.KeysPerStore }},
	{"stores", 1_000, func(l *wire.Limits) *int { return &l.Stores }},                 // they are listed without pages
	{"session_bytes", 64 << 20, func(l *wire.Limits) *int { return &l.SessionBytes }}, // who joins is sent all of it
	// When a node dies, one entry of the log names all its peers of a room; their ids
	// may have 64 bytes.
	{"peers", 20_000, func(l *wire.Limits) *int { return &l.Peers }},
	{"peer_data_bytes", 64 << 10, func(l *wire.Limits) *int { return &l.PeerDataBytes }}, // it goes to everybody with each change of the peer
	{"message_bytes", fsm.MaxCommandBytes / 2, func(l *wire.Limits) *int { return &l.MessageBytes }},
	{"locks", 100_000, func(l *wire.Limits) *int { return &l.Locks }},
	{"lock_waiters", 10_000, func(l *wire.Limits) *int { return &l.LockWaiters }}, // a lock with its queue is one record of a snapshot
	// Writes with idempotency keys are remembered for ten minutes.
	{"writes_per_s", 10_000, func(l *wire.Limits) *int { return &l.WritesPerS }},
	{"writes_burst", 100_000, func(l *wire.Limits) *int { return &l.WritesBurst }},
}

// BuiltinProfile is a profile of the protocol, for an operator's to start from.
func BuiltinProfile(name string) (p Profile, ok bool) {
	p, ok = builtin[name]
	return p, ok
}

// Set sets a limit by its name in the protocol; ok is false when there is none.
func (p *Profile) Set(limit string, n int) (ok bool) {
	for _, l := range limits {
		if l.name == limit {
			*l.of(&p.Limits) = n
			return true
		}
	}
	return false
}

// All gives every limit by its name in the protocol.
func (p Profile) All() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for _, l := range limits {
			if !yield(l.name, *l.of(&p.Limits)) {
				return
			}
		}
	}
}

// Check refuses numbers that are out of range; the error names the first.
func (p Profile) Check() error {
	for _, l := range limits {
		if n := *l.of(&p.Limits); n < 1 || n > l.most {
			return fmt.Errorf("%s: want 1 to %d, got %d", l.name, l.most, n)
		}
	}
	for _, d := range []struct {
		name string
		got  time.Duration
		most int64 // ms
	}{{"grace", p.Grace, maxGrace}, {"linger", p.Linger, maxSessionTime}} {
		most := time.Duration(d.most) * time.Millisecond
		if d.got < 0 || d.got > most || d.got%time.Millisecond != 0 {
			return fmt.Errorf("%s: want whole milliseconds from 0 to %v, got %v", d.name, most, d.got)
		}
	}
	return nil
}

// checkProfile is Check, with the name: of the form of a store's, so that it goes
// anywhere unescaped.
func checkProfile(name string, p Profile) error {
	if wrong := badStore(name); wrong != "" {
		return fmt.Errorf("its name %s", wrong)
	}
	return p.Check()
}

const standardProfile = "standard"

// builtin are the profiles of protocol section 1. Those that carry a vendor's name
// have that vendor's limits, so that an app which moves here meets no new ones.
var builtin = map[string]Profile{
	standardProfile: {
		Limits: wire.Limits{
			ValueBytes: 64 << 10, KeysPerStore: 1_000, Stores: 32, SessionBytes: 1 << 20,
			Peers: 2_500, PeerDataBytes: 4 << 10, MessageBytes: 4 << 10,
			Locks: 1_000, LockWaiters: 1_000, WritesPerS: 100, WritesBurst: 200,
		},
		Grace: 15 * time.Second,
	},
	"100ms": {
		Limits: wire.Limits{
			ValueBytes: 1 << 10, KeysPerStore: 100, Stores: 1, SessionBytes: 64 << 10,
			Peers: 2_500, PeerDataBytes: 4 << 10, MessageBytes: 4 << 10,
			Locks: 100, LockWaiters: 1_000, WritesPerS: 100, WritesBurst: 200,
		},
		Grace: 60 * time.Second,
	},
	"realtimekit": {
		Limits: wire.Limits{
			ValueBytes: 64 << 10, KeysPerStore: 1_000, Stores: 32, SessionBytes: 1 << 20,
			Peers: 2_500, PeerDataBytes: 4 << 10, MessageBytes: 4 << 10,
			Locks: 1_000, LockWaiters: 1_000, WritesPerS: 20, WritesBurst: 40,
		},
		Grace: 15 * time.Second, Linger: 60 * time.Second,
	},
	"daily": {
		Limits: wire.Limits{
			ValueBytes: 320 << 10, KeysPerStore: 1_000, Stores: 32, SessionBytes: 320 << 10,
			Peers: 2_500, PeerDataBytes: 16 << 10, MessageBytes: 16 << 10,
			Locks: 1_000, LockWaiters: 1_000, WritesPerS: 100, WritesBurst: 200,
		},
		Grace: 15 * time.Second,
	},
	"large": {
		Limits: wire.Limits{
			ValueBytes: 512 << 10, KeysPerStore: 10_000, Stores: 256, SessionBytes: 16 << 20,
			Peers: 20_000, PeerDataBytes: 16 << 10, MessageBytes: 64 << 10,
			Locks: 10_000, LockWaiters: 10_000, WritesPerS: 1_000, WritesBurst: 2_000,
		},
		Grace: 15 * time.Second,
	},
}

// profiles are the built-in ones and the operator's, who may redefine any.
func profiles(operators map[string]Profile) map[string]Profile {
	all := maps.Clone(builtin)
	maps.Copy(all, operators)
	return all
}

// opening are the numbers of a session that a request may start, with an idle
// timeout in ms, 0 for one that a peer starts by joining. ok is false when there
// is no such profile; "" is the configured default.
func (s *Server) opening(profile string, idle int64) (_ *fsm.Open, ok bool) {
	// Limits travel as numbers: all replicas enforce the same, whatever each one's
	// configuration calls by that name.
	if profile == "" {
		profile = s.cfg.Profile
	}
	p, ok := s.profiles[profile]
	return &fsm.Open{
		Profile: profile,
		Limits:  fsm.Limits(p.Limits),
		Grace:   p.Grace.Milliseconds(),
		Linger:  p.Linger.Milliseconds(),
		Idle:    idle,
	}, ok
}
