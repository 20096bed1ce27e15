package sim

import (
	"bytes"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// snapshot is one that is complete and durable. It is never changed.
type snapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

// retained is how many snapshots a disk keeps.
const retained = 2

// Snapshots is the volume's raft.SnapshotStore. A snapshot appears when its sink
// is closed and synced; a crash before leaves nothing of it.
func (v *Volume) Snapshots() raft.SnapshotStore { return (*snapshots)(v) }

type snapshots Volume

func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, config raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshot version %d is not supported", version)
	}
	return &sink{vol: (*Volume)(s), meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: config, ConfigurationIndex: configIndex,
	}}, nil
}

func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	v := (*Volume)(s)
	v.mu.Lock()
	defer v.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for i := len(v.content.snapshots) - 1; i >= 0; i-- {
		meta := v.content.snapshots[i].meta
		metas = append(metas, &meta)
	}
	return metas, nil
}

func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	v := (*Volume)(s)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, snap := range v.content.snapshots {
		if snap.meta.ID == id {
			meta := snap.meta
			return &meta, io.NopCloser(bytes.NewReader(snap.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("open snapshot %s: %w", id, errNotFound)
}

// sink collects a snapshot in memory. Raft closes it or cancels it, or leaves it
// when it is shut down in between.
type sink struct {
	vol  *Volume
	meta raft.SnapshotMeta
	data bytes.Buffer
	over bool
}

func (k *sink) ID() string                  { return k.meta.ID }
func (k *sink) Write(p []byte) (int, error) { return k.data.Write(p) }

// Close makes the snapshot durable and drops those before the last two.
func (k *sink) Close() error {
	if k.over {
		return nil
	}
	k.over = true
	k.meta.Size = int64(k.data.Len())
	snap := &snapshot{k.meta, k.data.Bytes()}
	// One of the same index may come twice, from here and from the leader.
	k.vol.write(func(c *content) {
		kept := []*snapshot{}
		for _, old := range c.snapshots {
			if old.meta.ID != snap.meta.ID && old.meta.Index <= snap.meta.Index {
				kept = append(kept, old)
			}
		}
		kept = append(kept, snap)
		c.snapshots = kept[max(0, len(kept)-retained):]
	})
	return nil
}

// Cancel drops what was written.
func (k *sink) Cancel() error {
	k.over = true
	return nil
}
