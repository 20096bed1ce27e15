package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolterrors "go.etcd.io/bbolt/errors"
)

// sealedStore is a bolt store each of whose log entries and values carries a
// checksum, which every read verifies: bolt itself has checksums on its first two
// pages only. The seal of an entry travels in its Extensions, which raft leaves to
// such as us, and is taken off again when it is read.
type sealedStore struct {
	db   *raftboltdb.BoltStore
	path string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealLog is the checksum of what an entry means, and of its place.
func sealLog(l *raft.Log) []byte {
	head := binary.BigEndian.AppendUint64(make([]byte, 0, 24), l.Index)
	head = append(binary.BigEndian.AppendUint64(head, l.Term), byte(l.Type))
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, l.Data)
	return binary.BigEndian.AppendUint32(head[:0], sum)
}

// sealLogs seals copies: raft reads the entries themselves at the same time.
func sealLogs(logs []*raft.Log) []*raft.Log {
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		entry := *l
		entry.Extensions = sealLog(l)
		sealed[i] = &entry
	}
	return sealed
}

// unsealLog takes the checksum off the entry that was read at an index.
func unsealLog(path string, index uint64, l *raft.Log) error {
	if l.Index != index || !bytes.Equal(l.Extensions, sealLog(l)) {
		return damaged(path, "log entry %d has a wrong checksum", index)
	}
	l.Extensions = nil
	return nil
}

// sealValue is the checksum of a value under its key.
func sealValue(key, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return binary.BigEndian.AppendUint32(nil, sum)
}

// unseal takes the checksum off a stored value.
func unseal(key, stored []byte) ([]byte, error) {
	end := len(stored) - crc32.Size
	if end < 0 || !bytes.Equal(stored[end:], sealValue(key, stored[:end])) {
		return nil, fmt.Errorf("%q has a wrong checksum", key)
	}
	return stored[:end:end], nil
}

func (s *sealedStore) FirstIndex() (index uint64, err error) {
	defer guard(s.path, &err)()
	return s.db.FirstIndex()
}

func (s *sealedStore) LastIndex() (index uint64, err error) {
	defer guard(s.path, &err)()
	return s.db.LastIndex()
}

func (s *sealedStore) GetLog(index uint64, l *raft.Log) (err error) {
	defer guard(s.path, &err)()
	return getSealed(s.db, s.path, bolterrors.ErrDatabaseNotOpen, index, l)
}

// getSealed reads an entry and verifies it. A store that is closed is not damaged.
func getSealed(store raft.LogStore, path string, closed error, index uint64, l *raft.Log) error {
	l.Extensions = nil
	err := store.GetLog(index, l)
	switch {
	case errors.Is(err, raft.ErrLogNotFound), errors.Is(err, closed):
		return err
	case err != nil:
		return damaged(path, "log entry %d: %w", index, err)
	}
	return unsealLog(path, index, l)
}

func (s *sealedStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *sealedStore) StoreLogs(logs []*raft.Log) (err error) {
	defer guard(s.path, &err)()
	return s.db.StoreLogs(sealLogs(logs))
}

func (s *sealedStore) DeleteRange(first, last uint64) (err error) {
	defer guard(s.path, &err)()
	return s.db.DeleteRange(first, last)
}

func (s *sealedStore) Get(key []byte) (value []byte, err error) {
	defer guard(s.path, &err)()
	stored, err := s.db.Get(key)
	if err != nil {
		return nil, err
	}
	if value, err = unseal(key, stored); err != nil {
		return nil, &DamagedError{s.path, err}
	}
	return value, nil
}

func (s *sealedStore) Set(key, value []byte) (err error) {
	defer guard(s.path, &err)()
	return s.db.Set(key, append(bytes.Clone(value), sealValue(key, value)...))
}

func (s *sealedStore) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, damaged(s.path, "%q has %d bytes, not 8", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func (s *sealedStore) SetUint64(key []byte, n uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

func (s *sealedStore) Close() (err error) {
	defer guard(s.path, &err)()
	return s.db.Close()
}
