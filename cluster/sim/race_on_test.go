//go:build race

package sim

import "runtime"

// raceDetector says whether the suite runs under the race detector, which finds a
// race of raft's own when a member's address changes: updateLastAppended reads
// the peer without the lock under which startStopReplication replaces it. It is
// harmless, since what is read, the id, does not change. Tests that move members
// therefore run without the detector, in a step of their own of make test.
const raceDetector = true

// Go 1.26 fires timers of one bubble on several threads at once, with one context for
// the race detector, which then crashes (unlockAndRun in runtime/time.go). On one
// thread it does not, and it finds races by the order of events, not by luck.
func init() { runtime.GOMAXPROCS(1) }
