//go:build race

package cluster

// raceDetector says whether the suite runs under the race detector, which finds a
// race of raft's own when a member's address changes: updateLastAppended reads
// the peer without the lock under which startStopReplication replaces it. It is
// harmless, since what is read, the id, does not change. Tests that move members
// therefore run without the detector, in a step of their own of make test.
const raceDetector = true
