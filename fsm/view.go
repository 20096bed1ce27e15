package fsm

import "conclave/lock"

// By is the author of a change.
type By struct {
	Kind CallerKind `cbor:"1,keyasint,omitempty"`
	Peer string     `cbor:"2,keyasint,omitempty"`
	Ref  string     `cbor:"3,keyasint,omitempty"`
	User string     `cbor:"4,keyasint,omitempty"`
}

// Entry is one key's value. Entries are immutable: a change makes a new one.
type Entry struct {
	Key        string `cbor:"1,keyasint"`
	Value      []byte `cbor:"2,keyasint"` // compact JSON
	Version    uint64 `cbor:"3,keyasint"`
	Rev        uint64 `cbor:"4,keyasint"`
	CreatedRev uint64 `cbor:"5,keyasint"`
	By         By     `cbor:"6,keyasint"`
	At         int64  `cbor:"7,keyasint"`           // wall, Unix ms
	Expires    int64  `cbor:"8,keyasint,omitempty"` // cluster time, ms; 0: never
	ExpiresAt  int64  `cbor:"9,keyasint,omitempty"` // the same as wall time, for display
	Bound      string `cbor:"10,keyasint,omitempty"`
}

// Peer is one participant. Immutable: a change makes a new one.
type Peer struct {
	ID          string `cbor:"1,keyasint"`
	Key         string `cbor:"2,keyasint"` // resume key; a secret, never shown to others
	User        string `cbor:"3,keyasint,omitempty"`
	Ref         string `cbor:"4,keyasint,omitempty"`
	Role        string `cbor:"5,keyasint,omitempty"`
	Name        string `cbor:"6,keyasint,omitempty"`
	Data        []byte `cbor:"7,keyasint,omitempty"`
	Attached    bool   `cbor:"8,keyasint,omitempty"`
	Gen         uint64 `cbor:"9,keyasint"` // rev of the last join, attach or detach
	Node        string `cbor:"10,keyasint,omitempty"`
	Incarnation uint64 `cbor:"11,keyasint,omitempty"`
	TTL         int64  `cbor:"12,keyasint,omitempty"` // ms; of a peer without a socket
	Deadline    int64  `cbor:"13,keyasint,omitempty"` // cluster time at which it leaves: end of grace, or of its TTL
	JoinedAt    int64  `cbor:"14,keyasint"`           // wall, Unix ms
	JoinedRev   uint64 `cbor:"15,keyasint"`
	// Client is the handle whose connection attached it last. If it is that of the
	// connection before, too, this may be a copy of a hello that the log took
	// late: then the connection it came by is older than the one
	// that it takes the place of.
	Client string `cbor:"16,keyasint,omitempty"`
}

// View is the state as of one revision: immutable, safe for any number of
// readers, never behind a lock. Nothing reachable from it may be changed.
type View struct{ s *State }

// Rev is the revision of the last change; Index the raft index of the last
// entry applied ("applied" in the sense of the design); Now the cluster time in ms.
func (v *View) Rev() uint64   { return v.s.rev }
func (v *View) Index() uint64 { return v.s.index }
func (v *View) Now() int64    { return v.s.now }

// Cluster is the cluster's id, "" before its first leader named it.
func (v *View) Cluster() string { return v.s.cluster }

// Session is the live session of a room, nil if it has none.
func (v *View) Session(room string) *Session {
	s, _ := v.s.rooms.get(room)
	return s
}

// Rooms calls f for each room with a live session, sorted, from the first name
// greater than after that starts with prefix, until f returns false.
func (v *View) Rooms(prefix, after string, f func(*Session) bool) {
	v.s.rooms.scan(prefix, after, func(_ string, s *Session) bool { return f(s) })
}

// Node is what the log knows of a node; ok is false before it registered.
func (v *View) Node(id string) (n NodeInfo, ok bool) {
	if r, ok := v.s.nodes.get(id); ok {
		return r.NodeInfo, true
	}
	return NodeInfo{}, false
}

// Nodes lists them sorted by id.
func (v *View) Nodes() []NodeInfo {
	list := make([]NodeInfo, 0, v.s.nodes.len())
	v.s.nodes.scan("", "", func(_ string, n *node) bool {
		list = append(list, n.NodeInfo)
		return true
	})
	return list
}

// Replica reports whether the node is meant to stay a non-voter.
func (v *View) Replica(node string) bool { return v.s.replicas.has(node) }

// BatchResults returns the stored results of a node's batch, ok false when it
// was not applied or is no longer kept. last is the last number applied.
func (v *View) BatchResults(node string, incarnation, seq uint64) (results []Result, last uint64, ok bool) {
	n, _ := v.s.nodes.get(node)
	if n == nil || n.Incarnation != incarnation {
		return nil, 0, false
	}
	results, ok = n.stored(seq)
	return results, n.last, ok
}

// LeaseRef names something a caller keeps alive: a lock's lease, or (with Peer
// set and Key empty) a peer without a socket. Without Fence it is a lock's delay,
// which nobody keeps, but whose time left can be asked for.
type LeaseRef struct {
	Room    string     `cbor:"1,keyasint"`
	Session string     `cbor:"2,keyasint,omitempty"` // "" accepts the live one
	Store   string     `cbor:"3,keyasint,omitempty"`
	Key     string     `cbor:"4,keyasint,omitempty"`
	Fence   uint64     `cbor:"5,keyasint,omitempty"`
	Owner   lock.Owner `cbor:"6,keyasint"`
	Peer    string     `cbor:"7,keyasint,omitempty"`
}

// NodeInfo is what a node registered.
type NodeInfo struct {
	ID          string
	Incarnation uint64
	Register
}

// Session is one life of a room, as of a View.
type Session struct {
	Room, ID     string
	StartedAt    int64 // wall, Unix ms
	StartedRev   uint64
	Profile      string
	Limits       Limits
	Grace        int64 // ms
	Linger       int64 // ms
	Idle         int64 // ms; 0: started by a join
	LastEventRev uint64

	contents
}

// Counts of a session.
type Counts struct{ Peers, Stores, Keys, Bytes, Locks int }

// StoreInfo describes a store of a session.
type StoreInfo struct {
	Store       string
	Keys, Bytes int
}
