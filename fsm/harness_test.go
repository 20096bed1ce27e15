package fsm

// standardLimits are those of the standard profile.
var standardLimits = Limits{
	ValueBytes: 64 << 10, KeysPerStore: 1000, Stores: 32, SessionBytes: 1 << 20, Peers: 2500, PeerDataBytes: 4 << 10,
	MessageBytes: 4 << 10, Locks: 1000, LockWaiters: 1000, WritesPerS: 100, WritesBurst: 200,
}
