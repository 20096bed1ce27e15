package wire

import "encoding/json"

// Version is the version of the protocol.
const Version = 1

// By is the author of a change.
type By struct {
	Kind string `json:"kind"` // peer, server, system
	Peer string `json:"peer,omitempty"`
	Ref  string `json:"ref,omitempty"`
	User string `json:"user,omitempty"`
}

// Entry is one key of a store.
type Entry struct {
	Key        string          `json:"key"`
	Value      json.RawMessage `json:"value"`
	Version    uint64          `json:"version"`
	Rev        uint64          `json:"rev"`
	CreatedRev uint64          `json:"created_rev"`
	By         By              `json:"by"`
	At         string          `json:"at"` // RFC 3339 with milliseconds, UTC; as all times
	ExpiresAt  string          `json:"expires_at,omitempty"`
	BoundTo    string          `json:"bound_to,omitempty"`
}

// Peer is one participant.
type Peer struct {
	Peer      string          `json:"peer"`
	User      string          `json:"user,omitempty"`
	Ref       string          `json:"ref,omitempty"`
	Role      string          `json:"role"`
	Name      string          `json:"name,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	State     string          `json:"state"` // attached, detached
	JoinedAt  string          `json:"joined_at"`
	JoinedRev uint64          `json:"joined_rev"`
}

// Holder is one holder of a lock.
type Holder struct {
	Owner       string          `json:"owner"`
	Fence       uint64          `json:"fence"`
	Since       string          `json:"since"`
	ExpiresInMs *int64          `json:"expires_in_ms,omitempty"`
	DelayMs     int64           `json:"delay_ms,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
}

// Waiter is one owner in the queue of a lock.
type Waiter struct {
	Owner string `json:"owner"`
	Since string `json:"since"`
}

// Lock is a lock with its holders and its queue, first in line first.
type Lock struct {
	Store   string   `json:"store"`
	Key     string   `json:"key"`
	Mode    string   `json:"mode"`
	Permits int      `json:"permits"`
	Holders []Holder `json:"holders"`
	Queue   []Waiter `json:"queue"`

	// DelayEndsInMs is how long nobody is granted the lock: a lease on it expired. A
	// lock that nobody holds is in its delay, also where this is absent.
	DelayEndsInMs int64 `json:"delay_ends_in_ms,omitempty"`
}

// Limits are the numbers that a session carries. Zero never means unlimited.
type Limits struct {
	ValueBytes    int `json:"value_bytes"`
	KeysPerStore  int `json:"keys_per_store"`
	Stores        int `json:"stores"`
	SessionBytes  int `json:"session_bytes"`
	Peers         int `json:"peers"`
	PeerDataBytes int `json:"peer_data_bytes"`
	MessageBytes  int `json:"message_bytes"`
	Locks         int `json:"locks"`
	LockWaiters   int `json:"lock_waiters"`
	WritesPerS    int `json:"writes_per_s"`
	WritesBurst   int `json:"writes_burst"`
}

// Event is what a watcher receives; which members are set depends on Type
// (protocol section 4, "Shapes").
type Event struct {
	Type       string          `json:"type"` // put, delete, lock, peer, message, session
	Store      string          `json:"store,omitempty"`
	Key        string          `json:"key,omitempty"`
	Value      json.RawMessage `json:"value,omitempty"`
	Version    uint64          `json:"version,omitempty"`
	Rev        uint64          `json:"rev"`
	CreatedRev uint64          `json:"created_rev,omitempty"`
	By         *By             `json:"by,omitempty"`
	At         string          `json:"at,omitempty"`
	ExpiresAt  string          `json:"expires_at,omitempty"`
	BoundTo    string          `json:"bound_to,omitempty"`
	State      string          `json:"state,omitempty"`
	Owner      string          `json:"owner,omitempty"`
	Fence      uint64          `json:"fence,omitempty"`
	Waiting    *int            `json:"waiting,omitempty"`
	Peer       *Peer           `json:"peer,omitempty"`
	Session    string          `json:"session,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Topic      string          `json:"topic,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	From       *By             `json:"from,omitempty"`
}

// Ephemeral is a message that was not logged: no event, and without a revision.
type Ephemeral struct {
	Topic string          `json:"topic"`
	Data  json.RawMessage `json:"data"`
	From  By              `json:"from"`
}

// Filter is one item of a watch. A filter with none of its members set lets
// everything through. Keys imply the type put, delete and lock.
type Filter struct {
	Store    string   `json:"store,omitempty"`
	Keys     []string `json:"keys,omitempty"`
	Types    []string `json:"types,omitempty"`
	Topics   []string `json:"topics,omitempty"`
	Snapshot bool     `json:"snapshot,omitempty"`
}

// Snapshot is the state that a set of filters lets through.
type Snapshot struct {
	Session string             `json:"session,omitempty"` // "", and null on the wire: the room has none
	Stores  map[string][]Entry `json:"stores"`
	Peers   []Peer             `json:"peers"`
	Locks   []Lock             `json:"locks"`
}

// If is a condition on one key. All members that are set must hold. An absent
// key has rev 0 and version 0, so {"version": 0} says absent too.
type If struct {
	Rev     *uint64         `json:"rev,omitempty"`
	Version *uint64         `json:"version,omitempty"`
	Absent  bool            `json:"absent,omitempty"`
	Exists  bool            `json:"exists,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
}

// Cond is a condition of a transaction: on a key (If and Fence) or on the
// session.
type Cond struct {
	Store   string  `json:"store,omitempty"`
	Key     string  `json:"key,omitempty"`
	Fence   *uint64 `json:"fence,omitempty"`
	Session string  `json:"session,omitempty"`
	If
}

// Op is one operation of a transaction, and the body of a verb of its own. Which
// members an operation has depends on Do (protocol section 4).
type Op struct {
	Do       string          `json:"do"`
	Store    string          `json:"store,omitempty"`
	Key      string          `json:"key,omitempty"`
	Prefix   *string         `json:"prefix,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
	If       *If             `json:"if,omitempty"`
	Fence    *uint64         `json:"fence,omitempty"`
	TTLMs    *int64          `json:"ttl_ms,omitempty"`
	Bind     json.RawMessage `json:"bind,omitempty"`
	Mode     string          `json:"mode,omitempty"`
	Permits  *int            `json:"permits,omitempty"`
	DelayMs  *int64          `json:"delay_ms,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"` // of a lock, of a message, of a whole store to replace
	OnDetach bool            `json:"release_on_detach,omitempty"`

	// Of the verbs that compute a value from the one that is there.
	Values json.RawMessage `json:"values,omitempty"` // append, remove: an array
	Unique bool            `json:"unique,omitempty"` // append
	By     json.RawMessage `json:"by,omitempty"`     // add: a number, whose digits are kept
	Merge  json.RawMessage `json:"merge,omitempty"`  // patch: RFC 7396
	Ops    json.RawMessage `json:"ops,omitempty"`    // patch: RFC 6902

	// Of the verbs that write many keys.
	Set    json.RawMessage   `json:"set,omitempty"` // merge: an object
	Delete []string          `json:"delete,omitempty"`
	Fences map[string]uint64 `json:"fences,omitempty"` // by key

	// Of send, besides Data.
	Topic string      `json:"topic,omitempty"`
	To    *Recipients `json:"to,omitempty"`
	Echo  bool        `json:"echo,omitempty"`
	// Ephemeral messages are not logged; a transaction has none.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Recipients are those whom a message is for: whoever is named in any of the
// lists. Nobody is excluded by a list that is absent.
type Recipients struct {
	Peers []string `json:"peers,omitempty"`
	Refs  []string `json:"refs,omitempty"`
	Roles []string `json:"roles,omitempty"`
}

// Txn is the body of a transaction (protocol section 5).
type Txn struct {
	If   []Cond `json:"if,omitempty"`
	Then []Op   `json:"then,omitempty"`
	Else []Op   `json:"else,omitempty"`
}

// OpResult is the result of one operation of a transaction.
type OpResult struct {
	Version *uint64         `json:"version,omitempty"`
	Rev     uint64          `json:"rev,omitempty"`
	Fence   uint64          `json:"fence,omitempty"`
	Existed *bool           `json:"existed,omitempty"`
	Entry   json.RawMessage `json:"entry,omitempty"` // for get: an entry or null
	Value   json.RawMessage `json:"value,omitempty"`
}

// TxnResult is the answer to a transaction.
type TxnResult struct {
	Applied bool       `json:"applied"`
	Rev     uint64     `json:"rev"`
	Results []OpResult `json:"results"`
}

// Member is one node as GET /v1/cluster shows it.
type Member struct {
	ID            string  `json:"id"`
	PeerAddr      string  `json:"peer_addr"`
	HTTPAddr      string  `json:"http_addr"`
	Voter         bool    `json:"voter"`
	Leader        bool    `json:"leader"`
	Applied       uint64  `json:"applied"`
	Lag           uint64  `json:"lag"`
	LastContactMs int64   `json:"last_contact_ms"`
	DiskMs        float64 `json:"disk_ms"`
	Version       string  `json:"version"`
	Healthy       bool    `json:"healthy"`
}

// Cluster is the answer of GET /v1/cluster.
type Cluster struct {
	Cluster     string   `json:"cluster"`
	ID          string   `json:"id"`     // the node that answers
	Leader      *string  `json:"leader"` // node id, null when none is known
	Term        uint64   `json:"term"`
	ConfigIndex uint64   `json:"config_index"`
	Applied     uint64   `json:"applied"`
	Commit      uint64   `json:"commit"`
	Rev         uint64   `json:"rev"`
	Members     []Member `json:"members"`
}
