package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"conclave/lock"
)

// maxRecordBytes bounds one record of a snapshot. The largest are locks with
// their queues and clients with their answers.
const maxRecordBytes = 64 << 20

// ReadSnapshot reads a state, to the end of the source, and verifies its
// checksum.
func ReadSnapshot(source io.Reader) (*State, error) {
	r := newRecordReader(source)
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return r.state, nil
}

// recordReader builds a state from records. Sums and indices are not in them: the
// same functions that keep them while commands are applied make them again, so
// that a restored session cannot disagree with its contents.
type recordReader struct {
	from  *bufio.Reader
	state *State
	in    change // the session that contents belong to; its ses is nil before the first
	node  *node  // the node that batches belong to; nil before the first
	data  []byte // of the record under way; used again for the next
}

func newRecordReader(source io.Reader) *recordReader {
	return &recordReader{from: bufio.NewReaderSize(source, 64<<10), state: NewState()}
}

var errOrder = errors.New("records out of order, double or of a kind that this version does not know")

// read reads all records, and compares the checksum before anything is believed:
// the caller gets no state from a file that was cut or changed.
func (r *recordReader) read() error {
	sum := sha256.New()
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r.from, magic); err != nil {
		return err
	}
	if string(magic) != snapshotMagic {
		return errors.New("this is not a snapshot")
	}
	sum.Write(magic)
	var head []byte
	for first := true; ; first = false {
		kind, data, err := r.next()
		if err != nil {
			return err
		}
		if kind == recordEnd {
			if !bytes.Equal(data, sum.Sum(nil)) {
				return errors.New("the checksum does not match")
			}
			if first {
				return errOrder
			}
			if _, err := r.from.ReadByte(); err != io.EOF {
				return errors.New("something follows the checksum")
			}
			return nil
		}
		if first != (kind == recordHeader) {
			return errOrder
		}
		head = appendRecordHead(head[:0], kind, len(data))
		sum.Write(head)
		sum.Write(data)
		if err := r.record(kind, data); err != nil {
			return fmt.Errorf("record of kind %d: %w", kind, err)
		}
	}
}

// next reads one record, whose data are good until the next. Memory grows with
// what is there, not with what a length says.
func (r *recordReader) next() (kind byte, data []byte, err error) {
	if kind, err = r.from.ReadByte(); err != nil {
		return 0, nil, noEOF(err)
	}
	n, err := binary.ReadUvarint(r.from)
	if err != nil {
		return 0, nil, noEOF(err)
	}
	if n > maxRecordBytes {
		return 0, nil, fmt.Errorf("a record of %d bytes", n)
	}
	data = r.data[:0]
	for left := int(n); left > 0; {
		piece := min(left, readBytes)
		data = slices.Grow(data, piece)[:len(data)+piece]
		if _, err := io.ReadFull(r.from, data[len(data)-piece:]); err != nil {
			return 0, nil, noEOF(err)
		}
		left -= piece
	}
	r.data = data
	return kind, data, nil
}

// readBytes is how much of a record is read before memory is made for more of it.
const readBytes = 1 << 20

// noEOF turns an end in the middle into an error that says so: io.EOF would read
// as a proper end to callers.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// record adds one record to the state. Kinds that this version does not know are
// refused: what they say might matter.
func (r *recordReader) record(kind byte, data []byte) error {
	switch kind {
	case recordHeader:
		return r.header(data)
	case recordNode:
		return r.nodeRecord(data)
	case recordBatch:
		return r.batch(data)
	case recordEnding:
		var x endingRecord
		if err := decMode.Unmarshal(data, &x); err != nil {
			return err
		}
		r.state.addEnding(&ending{x.Rev, x.Request, x.Hash, x.Result, x.Expires})
		return nil
	case recordSession:
		return r.session(data)
	}
	if r.in.ses == nil {
		return errOrder
	}
	switch kind {
	case recordPeer:
		return r.peer(data)
	case recordEntry:
		return r.entry(data)
	case recordLock:
		return r.lock(data)
	case recordClient:
		return r.client(data)
	case recordIdem:
		return r.idem(data)
	}
	return errOrder
}

// header reads the version before the rest, so that a snapshot of a later format
// is refused as such, and not for a member that is not known here.
func (r *recordReader) header(data []byte) error {
	var v struct {
		V int `cbor:"1,keyasint"`
	}
	if err := versionMode.Unmarshal(data, &v); err != nil {
		return err
	}
	if v.V < 1 || v.V > FormatVersion {
		return fmt.Errorf("version %d is not known", v.V)
	}
	var h headerRecord
	if err := decMode.Unmarshal(data, &h); err != nil {
		return err
	}
	s := r.state
	s.rev, s.index, s.now, s.cluster = h.Rev, h.Index, h.Now, h.Cluster
	for _, id := range h.Replicas {
		s.replicas.write(s.gen).Set(id, struct{}{})
	}
	return nil
}

func (r *recordReader) nodeRecord(data []byte) error {
	var x nodeRecord
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	r.node = &node{NodeInfo: NodeInfo{ID: x.ID, Incarnation: x.Incarnation, Register: x.Register}, last: x.Last}
	r.state.nodes.write(r.state.gen).Set(x.ID, r.node)
	return nil
}

func (r *recordReader) batch(data []byte) error {
	var x batchResults
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	if r.node == nil || len(r.node.results) == BatchWindow {
		return errOrder
	}
	r.node.results = append(r.node.results, x)
	return nil
}

// session begins the next session; what follows belongs to it.
func (r *recordReader) session(data []byte) error {
	var x sessionRecord
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	s := &Session{
		Room: x.Room, ID: x.ID, StartedAt: x.StartedAt, StartedRev: x.StartedRev, Profile: x.Profile, Limits: x.Limits,
		Grace: x.Grace, Linger: x.Linger, Idle: x.Idle, LastEventRev: x.LastEventRev,
		contents: contents{
			gen: r.state.gen, joined: x.Joined, emptySince: x.EmptySince, emptyUntil: x.EmptyUntil,
			usedRev: x.UsedRev, idleUntil: x.IdleUntil, memory: memory{sweepAt: x.SweepAt},
		},
	}
	if _, double := r.state.rooms.write(r.state.gen).Set(s.Room, s); double {
		return errOrder
	}
	r.in = change{s: r.state, room: s.Room, ses: s}
	return nil
}

func (r *recordReader) peer(data []byte) error {
	p := new(Peer)
	if err := decMode.Unmarshal(data, p); err != nil {
		return err
	}
	r.in.putPeer(p)
	return nil
}

func (r *recordReader) entry(data []byte) error {
	var x entryRecord
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	if r.in.ses.Entry(x.Store, x.Entry.Key) != nil {
		return errOrder
	}
	r.in.put(x.Store, &x.Entry, nil)
	return nil
}

// lock adds a lock and ties its holders and waiters to it, so that they find it
// when they leave.
func (r *recordReader) lock(data []byte) error {
	var x lockRecord
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	r.in.setLock(x.Store, x.Key, &x.Lock)
	tie := func(o lock.Owner) { r.in.tie(o, x.Store, x.Key) }
	for i := range x.Lock.Holders {
		tie(x.Lock.Holders[i].Owner)
	}
	for i := range x.Lock.Queue {
		tie(x.Lock.Queue[i].Owner)
	}
	return nil
}

// client adds a client's memory; its answers come in the order given.
func (r *recordReader) client(data []byte) error {
	var x clientRecord
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	m := &client{gen: r.state.gen, peer: x.Peer, used: x.Used, forgotten: x.Forgotten}
	for _, a := range x.Answers {
		m.keep(answer{a.ID, a.Rev, a.Version, a.Flags, a.Full})
	}
	mem := &r.in.ses.memory
	if _, double := mem.clients.write(r.state.gen).Set(x.Key, m); double {
		return errOrder
	}
	mem.bytes += m.bytes
	return nil
}

// idem adds an idempotency key. Keys come in the order in which they expire.
func (r *recordReader) idem(data []byte) error {
	var x idemRecord
	if err := decMode.Unmarshal(data, &x); err != nil {
		return err
	}
	mem, m := &r.in.ses.memory, &idem{x.Hash, x.Result, x.Expires}
	if _, double := mem.idems.write(r.state.gen).Set(x.Key, m); double {
		return errOrder
	}
	mem.idemOrder = append(mem.idemOrder, x.Key)
	mem.idemBytes += m.size(x.Key)
	return nil
}
