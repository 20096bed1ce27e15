package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"strings"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// What a node keeps beside raft's own keys in its stable store. They are in the
// file that holds the log, so that neither outlives the other.
var (
	keyIdentity    = []byte("Identity")
	keyIncarnation = []byte("Incarnation")
)

// dirIDBytes makes two directories with one id impossible in practice.
const dirIDBytes = 8

// identity reads who this store belongs to. A store that belongs to nobody yet
// gets a directory id drawn from rnd (nil: crypto/rand), durable on return. A
// store of another node is refused: under a second name its votes and log would
// count twice.
func identity(stable raft.StableStore, node string, rnd io.Reader) (Identity, error) {
	stored, err := stable.Get(keyIdentity)
	if err != nil && !isNotFound(err) {
		return Identity{}, fmt.Errorf("read identity: %w", err)
	}
	if len(stored) > 0 {
		owner, dir, ok := strings.Cut(string(stored), ".")
		if !ok || owner == "" || dir == "" {
			return Identity{}, fmt.Errorf("identity %q is damaged", stored)
		}
		if owner != node {
			return Identity{}, fmt.Errorf("the data directory belongs to node %q, not %q", owner, node)
		}
		return Identity{Node: owner, Dir: dir}, nil
	}
	if rnd == nil {
		rnd = rand.Reader
	}
	var id [dirIDBytes]byte
	if _, err := io.ReadFull(rnd, id[:]); err != nil {
		return Identity{}, fmt.Errorf("draw directory id: %w", err)
	}
	self := Identity{Node: node, Dir: hex.EncodeToString(id[:])}
	if err := stable.Set(keyIdentity, []byte(self.ServerID())); err != nil {
		return Identity{}, fmt.Errorf("write identity: %w", err)
	}
	return self, nil
}

// incarnation numbers a start of the directory among all starts that the node
// ever had, also with directories that it has lost.
func (i Identity) incarnation(start uint64) uint64 {
	dir := fnv.New32a()
	io.WriteString(dir, i.Dir)
	return uint64(dir.Sum32())<<fsm.StartBits | start
}

// nextIncarnation counts the starts of a directory, from 1. The number is durable
// before it is used, so that no two starts ever number their batches alike.
func nextIncarnation(stable raft.StableStore) (uint64, error) {
	last, err := stable.GetUint64(keyIncarnation)
	if err != nil && !isNotFound(err) {
		return 0, fmt.Errorf("read incarnation: %w", err)
	}
	if err := stable.SetUint64(keyIncarnation, last+1); err != nil {
		return 0, fmt.Errorf("write incarnation: %w", err)
	}
	return last + 1, nil
}
