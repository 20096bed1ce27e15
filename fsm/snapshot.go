package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"conclave/lock"
)

// A snapshot is a magic, then records: a kind byte, the length, and that many
// bytes of CBOR. The first is the header with the version of the format, the
// last holds the SHA-256 of all bytes before it. Equal states give equal bytes.
// Contents of a session follow its record.
const snapshotMagic = "conclave snapshot\n"

const (
	recordHeader  = 1
	recordNode    = 2
	recordBatch   = 3 // of the node before
	recordEnding  = 4
	recordSession = 5
	recordPeer    = 6 // these of the session before
	recordEntry   = 7
	recordLock    = 8
	recordClient  = 9
	recordIdem    = 10
	recordEnd     = 255
)

// Numbers of members are for ever, as those of commands are: a member that goes
// leaves a gap, a new one may be absent in older files.

// headerRecord is the state outside of rooms. V comes first and is read first.
type headerRecord struct {
	V        int      `cbor:"1,keyasint"`
	Rev      uint64   `cbor:"2,keyasint"`
	Index    uint64   `cbor:"3,keyasint"`
	Now      int64    `cbor:"4,keyasint"`
	Cluster  string   `cbor:"5,keyasint,omitempty"`
	Replicas []string `cbor:"6,keyasint,omitempty"`
}

// nodeRecord is a node's numbering. Its last batches follow, each a record of its
// own, so that no record grows with eight of them.
type nodeRecord struct {
	ID          string   `cbor:"1,keyasint"`
	Incarnation uint64   `cbor:"2,keyasint"`
	Register    Register `cbor:"3,keyasint"`
	Last        uint64   `cbor:"4,keyasint"`
}

// endingRecord is the request that ended a session, with its answer.
type endingRecord struct {
	Rev     uint64 `cbor:"1,keyasint"`
	Request string `cbor:"2,keyasint"`
	Hash    []byte `cbor:"3,keyasint,omitempty"`
	Result  Result `cbor:"4,keyasint"`
	Expires int64  `cbor:"5,keyasint"`
}

// sessionRecord is a session without its contents. Sums (keys, bytes) and indices
// are left out: they are made again from what follows.
type sessionRecord struct {
	Room         string `cbor:"1,keyasint"`
	ID           string `cbor:"2,keyasint"`
	StartedAt    int64  `cbor:"3,keyasint"`
	StartedRev   uint64 `cbor:"4,keyasint"`
	Profile      string `cbor:"5,keyasint,omitempty"`
	Limits       Limits `cbor:"6,keyasint"`
	Grace        int64  `cbor:"7,keyasint,omitempty"`
	Linger       int64  `cbor:"8,keyasint,omitempty"`
	Idle         int64  `cbor:"9,keyasint,omitempty"`
	LastEventRev uint64 `cbor:"10,keyasint"`
	Joined       bool   `cbor:"11,keyasint,omitempty"`
	EmptySince   uint64 `cbor:"12,keyasint,omitempty"`
	EmptyUntil   int64  `cbor:"13,keyasint,omitempty"`
	UsedRev      uint64 `cbor:"14,keyasint,omitempty"`
	IdleUntil    int64  `cbor:"15,keyasint,omitempty"`
	SweepAt      int64  `cbor:"16,keyasint,omitempty"`
}

type entryRecord struct {
	Store string `cbor:"1,keyasint"`
	Entry Entry  `cbor:"2,keyasint"`
}

type lockRecord struct {
	Store string    `cbor:"1,keyasint"`
	Key   string    `cbor:"2,keyasint"`
	Lock  lock.Lock `cbor:"3,keyasint"`
}

// clientRecord is the memory of a client. Its size is bounded by what memory.trim
// leaves, which is far below maxRecordBytes.
type clientRecord struct {
	Key       string         `cbor:"1,keyasint"`
	Peer      string         `cbor:"2,keyasint,omitempty"`
	Used      int64          `cbor:"3,keyasint,omitempty"`
	Forgotten uint64         `cbor:"4,keyasint,omitempty"`
	Answers   []answerRecord `cbor:"5,keyasint,omitempty"`
}

// answerRecord is an answer; see there.
type answerRecord struct {
	ID      uint64  `cbor:"1,keyasint"`
	Rev     uint64  `cbor:"2,keyasint,omitempty"`
	Version uint64  `cbor:"3,keyasint,omitempty"`
	Flags   uint8   `cbor:"4,keyasint,omitempty"`
	Full    *Result `cbor:"5,keyasint,omitempty"`
}

// idemRecord is the memory of an idempotency key.
type idemRecord struct {
	Key     string `cbor:"1,keyasint"`
	Hash    []byte `cbor:"2,keyasint,omitempty"`
	Result  Result `cbor:"3,keyasint"`
	Expires int64  `cbor:"4,keyasint"`
}

// WriteSnapshot streams the state. Nobody waits for it.
func (v *View) WriteSnapshot(to io.Writer) error {
	buffered := bufio.NewWriterSize(to, 64<<10)
	w := newRecordWriter(buffered)
	w.state(v)
	w.end()
	if w.err == nil {
		w.err = buffered.Flush()
	}
	if w.err != nil {
		return fmt.Errorf("write snapshot: %w", w.err)
	}
	return nil
}

// HashVersion is the version of what Hash hashes: the records of a snapshot, and so
// whatever changes them.
const HashVersion = 1

// Hash is a hash over the whole replicated state, equal on equal states. It is
// the checksum that a snapshot of the view ends with.
func (v *View) Hash() [32]byte {
	w := newRecordWriter(io.Discard)
	w.state(v)
	if w.err != nil {
		panic(w.err) // what decoded does encode
	}
	return [32]byte(w.sum.Sum(nil))
}

// recordWriter writes records until the first error.
type recordWriter struct {
	to  io.Writer // both raw and sum
	raw io.Writer
	sum hash.Hash
	err error

	head, body bytes.Buffer // of the record under way; used again for the next
}

func newRecordWriter(to io.Writer) *recordWriter {
	w := &recordWriter{raw: to, sum: sha256.New()}
	w.to = io.MultiWriter(w.raw, w.sum)
	_, w.err = io.WriteString(w.to, snapshotMagic)
	return w
}

func (w *recordWriter) record(kind byte, v any) {
	if w.err != nil {
		return
	}
	w.body.Reset()
	if w.err = encMode.MarshalToBuffer(v, &w.body); w.err == nil {
		w.err = w.frame(w.to, kind, w.body.Bytes())
	}
}

func (w *recordWriter) frame(to io.Writer, kind byte, data []byte) error {
	w.head.Reset()
	w.head.Write(appendRecordHead(w.head.AvailableBuffer(), kind, len(data)))
	if _, err := to.Write(w.head.Bytes()); err != nil {
		return err
	}
	_, err := to.Write(data)
	return err
}

// appendRecordHead appends what stands before the data of a record in the file.
func appendRecordHead(b []byte, kind byte, size int) []byte {
	return binary.AppendUvarint(append(b, kind), uint64(size))
}

// end writes the checksum of all before it; it is not part of the sum.
func (w *recordWriter) end() {
	if w.err == nil {
		w.err = w.frame(w.raw, recordEnd, w.sum.Sum(nil))
	}
}

// state writes all of a view, sorted, as every tree is: so equal states give equal
// bytes, and their hashes can be compared between replicas.
func (w *recordWriter) state(v *View) {
	s := v.s
	h := headerRecord{V: FormatVersion, Rev: s.rev, Index: s.index, Now: s.now, Cluster: s.cluster}
	s.replicas.scan("", "", func(id string, _ struct{}) bool {
		h.Replicas = append(h.Replicas, id)
		return true
	})
	w.record(recordHeader, &h)
	s.nodes.scan("", "", func(_ string, n *node) bool {
		w.record(recordNode, &nodeRecord{n.ID, n.Incarnation, n.Register, n.last})
		for i := range n.results {
			w.record(recordBatch, &n.results[i])
		}
		return w.err == nil
	})
	s.endings.order.scan("", "", func(_ string, e *ending) bool {
		w.record(recordEnding, &endingRecord{e.rev, e.request, e.hash, e.result, e.expires})
		return w.err == nil
	})
	s.rooms.scan("", "", func(_ string, ses *Session) bool {
		w.session(ses)
		return w.err == nil
	})
}

// session writes a session and its contents.
func (w *recordWriter) session(s *Session) {
	w.record(recordSession, &sessionRecord{
		Room: s.Room, ID: s.ID, StartedAt: s.StartedAt, StartedRev: s.StartedRev, Profile: s.Profile, Limits: s.Limits,
		Grace: s.Grace, Linger: s.Linger, Idle: s.Idle, LastEventRev: s.LastEventRev, Joined: s.joined,
		EmptySince: s.emptySince, EmptyUntil: s.emptyUntil, UsedRev: s.usedRev, IdleUntil: s.idleUntil,
		SweepAt: s.memory.sweepAt,
	})
	s.Peers(func(p *Peer) bool {
		w.record(recordPeer, p)
		return true
	})
	s.stores.scan("", "", func(name string, st *store) bool {
		st.entries.scan("", "", func(_ string, e *Entry) bool {
			w.record(recordEntry, &entryRecord{name, *e})
			return w.err == nil
		})
		return true
	})
	s.Locks(func(store, key string, l *lock.Lock) bool {
		w.record(recordLock, &lockRecord{store, key, *l})
		return true
	})
	s.memory.clients.scan("", "", func(key string, m *client) bool {
		r := &clientRecord{Key: key, Peer: m.peer, Used: m.used, Forgotten: m.forgotten}
		for _, a := range m.answers {
			r.Answers = append(r.Answers, answerRecord{a.id, a.rev, a.version, a.flags, a.full})
		}
		w.record(recordClient, r)
		return w.err == nil
	})
	for _, key := range s.memory.idemOrder { // the order is state too
		m, _ := s.memory.idems.get(key)
		w.record(recordIdem, &idemRecord{key, m.hash, m.result, m.expires})
	}
}
