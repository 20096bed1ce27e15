package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

// sealedSnapshots are raft's snapshot files, with a checksum over what their
// metadata mean: raft's own covers the state alone, and a snapshot that claims
// another index would have entries skipped or applied twice.
type sealedSnapshots struct {
	*raft.FileSnapshotStore
	dir string
}

const sealName = "meta.sum" // beside raft's meta.json and state.bin

// sealMeta is the checksum of a snapshot's metadata.
func sealMeta(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d %d %d %d", version, index, term, configIndex)
	for _, s := range c.Servers {
		fmt.Fprintf(sum, "\n%d %q %q", s.Suffrage, s.ID, s.Address)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Create puts the seal into the draft, so that it becomes a snapshot with it.
func (s *sealedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, c, configIndex, t)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, sink.ID()+".tmp", sealName)
	if err := writeSynced(path, []byte(sealMeta(version, index, term, c, configIndex))); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Open verifies a snapshot whole before it gives it out. One that is gone, since
// newer ones took its place, is no damage.
func (s *sealedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	path := filepath.Join(s.dir, id)
	meta, state, err := s.FileSnapshotStore.Open(id)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Stat(path); errors.Is(gone, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	if err != nil {
		return nil, nil, &DamagedError{path, err}
	}
	if err := s.verify(path, id, meta); err != nil {
		return nil, nil, &DamagedError{path, errors.Join(err, state.Close())}
	}
	return meta, state, nil
}

// verify compares what a snapshot's metadata say with their seal, and with its files.
func (s *sealedSnapshots) verify(path, id string, m *raft.SnapshotMeta) error {
	seal, err := os.ReadFile(filepath.Join(path, sealName))
	if err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(path, "state.bin"))
	if err != nil {
		return err
	}
	if string(seal) != sealMeta(m.Version, m.Index, m.Term, m.Configuration, m.ConfigurationIndex) || m.ID != id || m.Size != info.Size() {
		return errors.New("its metadata are not what was written")
	}
	return nil
}

// check verifies all snapshots: raft leaves out, silently, those whose metadata it
// cannot read.
func (s *sealedSnapshots) check() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue // what a crash leaves of a snapshot under way
		}
		_, state, err := s.Open(e.Name())
		if err != nil {
			return err
		}
		state.Close()
	}
	return nil
}
