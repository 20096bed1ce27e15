package cluster

import (
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
)

// Config is what a node is opened with. Transports and stores are parameters, so
// that the whole cluster also runs on in-memory ones in virtual time.
type Config struct {
	// ID is the node's name, 1–64 of A–Z a–z 0–9 . _ -; a dot is refused, since
	// the raft server id is "<id>.<directory id>".
	ID string
	// PeerAddr is where other nodes reach this one, HTTPAddr where clients do;
	// the other nodes only pass the latter on.
	PeerAddr string
	HTTPAddr string
	Version  string

	// Features are the optional parts of the protocol that this program
	// understands; the node registers them in the log. See Node.Features.
	Features []string

	// Stores of the node. Incarnation and identity live in Stable.
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore

	// Network makes the node's two transports, once the node knows its full
	// identity (which the other side of every connection verifies).
	Network Network

	// BootstrapExpect is how many empty nodes found the cluster together; 0
	// never does. Join lists peer addresses to ask, this node's own may be among
	// them. Replica asks to stay a non-voter.
	BootstrapExpect int
	Join            []string
	Replica         bool

	// Timeout is the raft heartbeat, election and lease timeout; 0 means 1 s.
	// Everything that waits for the cluster is a multiple of it.
	Timeout time.Duration
	// Deadline bounds how long a command or a linearizable read may wait for an
	// outcome; 0 means 4 s.
	Deadline time.Duration
	// DiskLimit is how long one write to Log or Stable may take before the node
	// stops itself; 0 means 10 s.
	DiskLimit time.Duration
	// SnapshotThreshold and TrailingLogs are raft's; 0 means 65,536 and 32,768.
	SnapshotThreshold, TrailingLogs uint64

	// CompareInterval is how often the leader has all replicas compare their
	// states, if anything was applied since; 0 means 1 min, less than 0 never.
	CompareInterval time.Duration
	// WriteFirst has a leader write entries before it sends them, as raft does, and not
	// meanwhile. One whose disk hangs then stands still, like a process that is stopped.
	WriteFirst bool

	// Wall is the wall clock, for display only; nil means time.Now. Cluster time
	// uses the monotonic clock alone.
	Wall func() time.Time
	// Fatal is called, once, when the node must stop at once (a disk that fails,
	// an entry that cannot be read); nil panics. The process is expected to end.
	Fatal func(error)
	// Rand is the source of the identities that the node draws (directory and
	// cluster id); nil means crypto/rand.
	Rand io.Reader
	// Logger takes what operators should know; nil discards.
	Logger *slog.Logger
}

// Network makes transports that present this identity and verify that of whom
// they dial. Resolve gives the current peer address of a raft server id.
type Network interface {
	Open(self Identity, resolve func(raft.ServerID) (string, bool)) (raft.Transport, Channel, error)
}

// Identity is a node's name and the id of its data directory.
type Identity struct {
	Node, Dir string
}

// ServerID is the raft server id.
func (i Identity) ServerID() raft.ServerID { return raft.ServerID(i.Node + "." + i.Dir) }
