// Package lock holds the rules of one lock: who holds it, until when, with which
// fencing token, and who waits for it in which order. Values only: no clock, no
// I/O, no goroutine; times and revisions come in as arguments. Package fsm calls
// it, inside the replicated state.
package lock
