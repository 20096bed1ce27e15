// Package cluster runs one node of a Conclave cluster: raft around an
// fsm.Machine, numbered batches of commands from every node, linearizable reads
// by read-index rounds, the leader's timers and lease renewals, membership, and
// the messages that go past the log.
//
// It is the only package that knows raft, time, disks and the other nodes. It
// guarantees that a command is applied at most once and in its lane's order
// whatever happens to leaders, and never acknowledges before commit.
package cluster
