// Package sim runs whole Conclave clusters inside one test: an in-memory network
// and in-memory disks with seeded faults, nodes that are killed, paused, cut off
// and wiped, clients that record what they saw, and checkers that say whether
// what they saw could be true.
//
// Inside a testing/synctest bubble it all happens in virtual time, so hours of
// faults take seconds; everything here blocks on channels and timers only, and
// never sleeps with a mutex held, since a goroutine that waits for a mutex stops
// the bubble's clock. Outside a bubble the same cluster runs in real time.
//
// A seed fixes the schedule of faults and the decisions of clients, network and
// disks. It does not fix how the Go scheduler interleaves goroutines, nor raft's
// own random timeouts: a seed that fails does so often, not always.
//
// Each simulated connection, message and answer owns a goroutine; all of them end
// with Network.Close. Test support: production code must not import it.
package sim
