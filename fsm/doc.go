// Package fsm is Conclave's replicated state machine: sessions, peers, stores,
// entries and locks, the commands that change them, the events that tell of it,
// and the format of log entries and snapshots.
//
// It guarantees that equal states applying equal proposals stay equal, that a
// refused command changes nothing, and that a published View never changes. It
// must never read a clock, draw a random number, do I/O or start a goroutine
// (Machine, the adapter to raft, streams snapshots to where raft says). Package
// cluster owns the one goroutine that applies; anybody may read a View.
package fsm
