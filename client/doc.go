// Package client is the Go SDK of Conclave.
//
// A Client knows the servers of a cluster. Join makes it a peer of a room over a
// WebSocket, Observe a watcher without being one; the Room they return reads,
// writes, watches and locks. HTTP is a thin client of the HTTP interface, for
// tools and servers that are no peers.
//
// It guarantees that a call has one answer: a request whose answer was lost with
// its connection is sent again under the same id, and the servers apply it once.
// A Watch delivers every change once and in order, across reconnects and moves to
// another node, or says that it starts anew. A Lock reports its loss by the
// process's own monotonic clock, even if no server can be reached. It never
// guesses: a caller that gives up waiting is told whether its change may have
// been applied.
//
// A Room owns three goroutines while it is attached (the connection's state
// machine, its reader and its writer), a Lock one, a Watch none; Close waits for
// them. Package client imports the standard library, gorilla/websocket and
// client/wire.
package client
