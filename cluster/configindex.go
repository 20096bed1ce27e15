package cluster

import (
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// configIndexLog notes the indexes of the configurations that pass through the
// log, since raft keeps the latest one's to itself and changes of the membership
// are compared-and-set by it. Raft reads its whole log when it starts, so nothing
// is missed; what only a snapshot still has is noted from its metadata.
type configIndexLog struct {
	raft.LogStore
	mu      sync.Mutex
	indexes []uint64 // ascending
}

// latest is the index of the latest configuration, committed or not.
func (c *configIndexLog) latest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.indexes) == 0 {
		return 0
	}
	return c.indexes[len(c.indexes)-1]
}

func (c *configIndexLog) note(index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, found := slices.BinarySearch(c.indexes, index); !found {
		c.indexes = slices.Insert(c.indexes, at, index)
	}
}

// noteSnapshots notes the configuration of the newest snapshot.
func (c *configIndexLog) noteSnapshots(store raft.SnapshotStore) error {
	snapshots, err := store.List()
	if err != nil || len(snapshots) == 0 {
		return err
	}
	c.note(snapshots[0].ConfigurationIndex)
	return nil
}

func (c *configIndexLog) noteLogs(logs ...*raft.Log) {
	for _, l := range logs {
		if l.Type == raft.LogConfiguration {
			c.note(l.Index)
		}
	}
}

func (c *configIndexLog) GetLog(index uint64, l *raft.Log) error {
	err := c.LogStore.GetLog(index, l)
	if err == nil {
		c.noteLogs(l)
	}
	return err
}

func (c *configIndexLog) StoreLog(l *raft.Log) error {
	c.noteLogs(l)
	return c.LogStore.StoreLog(l)
}

func (c *configIndexLog) StoreLogs(logs []*raft.Log) error {
	c.noteLogs(logs...)
	return c.LogStore.StoreLogs(logs)
}

// DeleteRange forgets configurations that a newer leader's log replaces. What is
// compacted away at the front is still in force.
func (c *configIndexLog) DeleteRange(first, last uint64) error {
	start, err := c.LogStore.FirstIndex()
	if err != nil {
		return err
	}
	if first > start {
		c.mu.Lock()
		c.indexes = slices.DeleteFunc(c.indexes, func(i uint64) bool { return i >= first && i <= last })
		c.mu.Unlock()
	}
	return c.LogStore.DeleteRange(first, last)
}

// IsMonotonic passes on what a log store asks of raft.
func (c *configIndexLog) IsMonotonic() bool { return isMonotonic(c.LogStore) }
