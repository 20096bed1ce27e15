package fsm

import (
	"strconv"
	"strings"

	"conclave/lock"
)

// DefaultStore exists in every session, whether or not it holds anything.
const DefaultStore = "default"

// contents are what a session holds besides its numbers. Whoever reads them has
// a View or is the owner of the State.
type contents struct {
	gen uint64 // the generation in which this copy may be changed

	stores tree[*store]
	peers  tree[*Peer]
	locks  tree[*lock.Lock] // by place
	memory memory

	// Derived from the above, not in snapshots: what ends with a peer or with
	// time is found without a search. The keys are joined by NUL.
	timed tree[struct{}] // place of entries with a TTL
	bound tree[struct{}] // peer and place of entries bound to it
	ties  tree[struct{}] // peer and place of locks it holds or waits for

	keys, bytes int // of all stores; key names count
	peerBytes   int // of what all peers say of themselves

	joined     bool   // somebody has joined: from then on the linger rule, not the idle timeout, ends it
	emptySince uint64 // rev since which nobody is in it; 0: somebody is, or nobody was yet
	emptyUntil int64  // cluster time at which the linger is over
	usedRev    uint64 // rev of the last use, while nobody has joined
	idleUntil  int64  // cluster time at which the idle timeout is over
}

// place is the key of a store's key in trees over all stores; names have no NUL.
func place(store, key string) string { return store + "\x00" + key }

func splitPlace(p string) (store, key string) {
	for i := 0; i < len(p); i++ {
		if p[i] == 0 {
			return p[:i], p[i+1:]
		}
	}
	return p, ""
}

// sessionID and peerID: revisions are unique for ever, so the ids are.
func sessionID(rev uint64) string { return "s" + strconv.FormatUint(rev, 36) }
func peerID(rev uint64) string    { return "p" + strconv.FormatUint(rev, 36) }

// Counts of the session's contents.
func (s *Session) Counts() Counts {
	return Counts{
		Peers: s.peers.len(), Stores: s.countStores(), Keys: s.keys, Bytes: s.bytes, Locks: s.locks.len(),
	}
}

// SnapshotBytes is about what the session takes as a snapshot on the wire, besides
// what those in line for its locks take.
func (s *Session) SnapshotBytes() int {
	const entry, peer, held = 200, 250, 300 // besides names, values and data
	return s.bytes + entry*s.keys + s.peerBytes + peer*s.peers.len() + held*s.locks.len()
}

// Stores lists the stores that hold entries, and the default one, sorted.
func (s *Session) Stores() []StoreInfo {
	list := make([]StoreInfo, 0, s.stores.len()+1)
	_, listed := s.stores.get(DefaultStore)
	s.stores.scan("", "", func(name string, st *store) bool {
		if !listed && name > DefaultStore {
			list, listed = append(list, StoreInfo{Store: DefaultStore}), true
		}
		list = append(list, StoreInfo{Store: name, Keys: st.entries.len(), Bytes: st.bytes})
		return true
	})
	if !listed {
		list = append(list, StoreInfo{Store: DefaultStore})
	}
	return list
}

// Entry is a key's entry, nil when absent.
func (s *Session) Entry(store, key string) *Entry {
	st, ok := s.stores.get(store)
	if !ok {
		return nil
	}
	e, _ := st.entries.get(key)
	return e
}

// Entries calls f for each entry of a store, sorted by key, from the first key
// greater than after that starts with prefix, until f returns false.
func (s *Session) Entries(store, prefix, after string, f func(*Entry) bool) {
	if st, ok := s.stores.get(store); ok {
		st.entries.scan(prefix, after, func(_ string, e *Entry) bool { return f(e) })
	}
}

// Peer is a peer of the session, attached or within its grace; nil if it is not
// there.
func (s *Session) Peer(id string) *Peer {
	p, _ := s.peers.get(id)
	return p
}

// Peers calls f for each peer, sorted by id, until f returns false.
func (s *Session) Peers(f func(*Peer) bool) { s.PeersAfter("", f) }

// PeersAfter is Peers from the first id greater than after.
func (s *Session) PeersAfter(after string, f func(*Peer) bool) {
	s.peers.scan("", after, func(_ string, p *Peer) bool { return f(p) })
}

// Lock is the lock on a key, nil when nobody holds or wants it.
func (s *Session) Lock(store, key string) *lock.Lock {
	l, _ := s.locks.get(place(store, key))
	return l
}

// Locks calls f for each lock, sorted by store and key, until f returns false.
func (s *Session) Locks(f func(store, key string, l *lock.Lock) bool) { s.LocksAfter("", "", f) }

// LocksAfter is Locks from the first one whose name is greater than after and
// starts with prefix. A lock's name is <store>/<key>: no store has a slash.
func (s *Session) LocksAfter(prefix, after string, f func(store, key string, l *lock.Lock) bool) {
	s.locks.scan(namedPlace(prefix), namedPlace(after), func(p string, l *lock.Lock) bool {
		store, key := splitPlace(p)
		return f(store, key, l)
	})
}

// namedPlace is the place, or the beginning of one, that a lock's name says.
func namedPlace(name string) string {
	if store, key, ok := strings.Cut(name, "/"); ok {
		return place(store, key)
	}
	return name
}
