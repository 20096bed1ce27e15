package api

import (
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

// lowest is the smallest of the profile's limits.
func (p Profile) lowest() int {
	l := p.Limits
	return min(l.ValueBytes, l.KeysPerStore, l.Stores, l.SessionBytes, l.Peers, l.PeerDataBytes, l.MessageBytes,
		l.Locks, l.LockWaiters, l.WritesPerS, l.WritesBurst)
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
