package fsm

import "conclave/lock"

// FormatVersion is the version of commands and log entries that this build
// writes. It reads this one and all older ones.
const FormatVersion = 1

// MaxCommandBytes bounds one encoded command; MaxProposalBytes one log entry,
// unless it holds a single command.
const (
	MaxCommandBytes  = 2 << 20
	MaxProposalBytes = 512 << 10
)

// BatchWindow is how many batches of a node may be unanswered, and of how many
// the state keeps the results.
const BatchWindow = 8

// StartBits divides an incarnation: below are the starts of one data directory,
// counted; above is a number that is the directory's own. So a node that lost its
// disk, and counts from the beginning, never uses a number of its former life.
const StartBits = 21

// Proposal is the content of one raft log entry. The leader stamps it: Time is
// cluster time, Wall is for display only and no rule compares it.
type Proposal struct {
	V        int       `cbor:"1,keyasint"`
	Time     int64     `cbor:"2,keyasint,omitempty"` // cluster time, ms
	Wall     int64     `cbor:"3,keyasint,omitempty"` // Unix ms
	Batches  []Batch   `cbor:"4,keyasint,omitempty"`
	Controls []Control `cbor:"5,keyasint,omitempty"` // applied before the batches
	Term     uint64    `cbor:"6,keyasint,omitempty"` // Time counts only in an entry of this raft term: time stands still without a leader
}

// Batch is a numbered run of one node's commands. Numbers of an incarnation are
// dense and start at 1. Number 0 registers the incarnation and carries Register.
type Batch struct {
	Node        string    `cbor:"1,keyasint"`
	Incarnation uint64    `cbor:"2,keyasint"`
	Seq         uint64    `cbor:"3,keyasint"`
	Register    *Register `cbor:"4,keyasint,omitempty"`
	Commands    []Command `cbor:"5,keyasint,omitempty"`
}

// Register is what a node says of itself when it starts.
type Register struct {
	PeerAddr string   `cbor:"1,keyasint,omitempty"`
	HTTPAddr string   `cbor:"2,keyasint,omitempty"`
	Version  string   `cbor:"3,keyasint,omitempty"`
	Features []string `cbor:"4,keyasint,omitempty"`
}

// ControlKind names what the leader itself proposes.
type ControlKind uint8

// Controls that name a Term are timers: they are applied only in an entry of
// that raft term, and only if what they saw still holds.
const (
	ControlGenesis   ControlKind = 1  // name the cluster, once: Cluster
	ControlReplica   ControlKind = 2  // Node is (or with Off is no longer) a permanent non-voter
	ControlForget    ControlKind = 3  // Node has left the cluster: drop its record
	ControlLeaseEnd  ControlKind = 4  // timer: Store, Key, Fence
	ControlWaitEnd   ControlKind = 5  // timer: Store, Key, Seen = rev at which the waiter queued
	ControlEntryEnd  ControlKind = 6  // timer: Store, Key, Seen = rev of the entry
	ControlPeerEnd   ControlKind = 7  // timer: Peer, Seen = generation (its grace, or the ttl of a peer without a socket, is over)
	ControlLingerEnd ControlKind = 8  // timer: Seen = rev since which the session is empty
	ControlIdleEnd   ControlKind = 9  // timer: Seen = rev of the last use
	ControlNodeGone  ControlKind = 10 // timer: Node, Incarnation, Peers; one per room
	ControlDelayEnd  ControlKind = 11 // timer: Store, Key; the delay of a lock is over
	ControlHash      ControlKind = 12 // have every replica hash its state as of here: Seen = version of the hash
)

// Control is a command of the leader's own. It is never forwarded.
type Control struct {
	Kind        ControlKind `cbor:"1,keyasint"`
	Term        uint64      `cbor:"2,keyasint,omitempty"`
	Room        string      `cbor:"3,keyasint,omitempty"`
	Session     string      `cbor:"4,keyasint,omitempty"`
	Store       string      `cbor:"5,keyasint,omitempty"`
	Key         string      `cbor:"6,keyasint,omitempty"`
	Fence       uint64      `cbor:"7,keyasint,omitempty"`
	Peer        string      `cbor:"8,keyasint,omitempty"`
	Seen        uint64      `cbor:"9,keyasint,omitempty"`
	Node        string      `cbor:"10,keyasint,omitempty"`
	Incarnation uint64      `cbor:"11,keyasint,omitempty"`
	Peers       []PeerGen   `cbor:"12,keyasint,omitempty"`
	Cluster     string      `cbor:"13,keyasint,omitempty"`
	Off         bool        `cbor:"14,keyasint,omitempty"`
}

// PeerGen is a peer with the attach generation that somebody saw.
type PeerGen struct {
	Peer string `cbor:"1,keyasint"`
	Gen  uint64 `cbor:"2,keyasint"`
}

// CommandKind names a client's command.
type CommandKind uint8

// The commands. CommandNone does nothing (it stands in a batch for a command
// given up on).
const (
	CommandNone    CommandKind = 0
	CommandOpen    CommandKind = 1  // open a session without joining (PUT room): Open, Txn (pre-seeding puts)
	CommandEnd     CommandKind = 2  // end the session
	CommandJoin    CommandKind = 3  // Join; starts a session if the room has none
	CommandAttach  CommandKind = 4  // Attach
	CommandDetach  CommandKind = 5  // Target, Gen in Caller: the peer's socket broke
	CommandLeave   CommandKind = 6  // Target leaves; removed when the caller is another
	CommandSetPeer CommandKind = 7  // SetPeer on Target
	CommandTxn     CommandKind = 8  // Txn: every write, locks included
	CommandAcquire CommandKind = 9  // Acquire: like the operation, but may wait in the queue
	CommandCancel  CommandKind = 10 // Cancel a waiting acquire
)

// Command is one request of a client.
type Command struct {
	Kind    CommandKind `cbor:"1,keyasint"`
	Room    string      `cbor:"2,keyasint,omitempty"`
	Session string      `cbor:"3,keyasint,omitempty"` // refused with session_ended unless this is the live session; "" accepts any
	Caller  Caller      `cbor:"4,keyasint"`

	// Client and Request make a WebSocket request's identity, Idem and Hash an
	// HTTP one's (Idempotency-Key, hash of the request). Both empty: not remembered.
	Client  string `cbor:"5,keyasint,omitempty"`
	Request uint64 `cbor:"6,keyasint,omitempty"`
	Idem    string `cbor:"7,keyasint,omitempty"`
	Hash    []byte `cbor:"8,keyasint,omitempty"`

	Open    *Open    `cbor:"9,keyasint,omitempty"` // opens a session if the room has none, for any kind
	Txn     *Txn     `cbor:"10,keyasint,omitempty"`
	Acquire *Acquire `cbor:"11,keyasint,omitempty"`
	Join    *Join    `cbor:"12,keyasint,omitempty"`
	Attach  *Attach  `cbor:"13,keyasint,omitempty"`
	SetPeer *SetPeer `cbor:"14,keyasint,omitempty"`
	Cancel  *Cancel  `cbor:"15,keyasint,omitempty"`
	Target  string   `cbor:"16,keyasint,omitempty"` // a peer id
	Reason  string   `cbor:"17,keyasint,omitempty"` // of a leave: left, removed
}

// CallerKind says what sort of caller a command has.
type CallerKind uint8

// The kinds of callers.
const (
	CallerServer CallerKind = 0 // a token without a peer
	CallerPeer   CallerKind = 1
	CallerSystem CallerKind = 2
)

// Caller is on whose behalf a command runs, as the api established it.
type Caller struct {
	Kind  CallerKind `cbor:"1,keyasint,omitempty"`
	Peer  string     `cbor:"2,keyasint,omitempty"`
	Gen   uint64     `cbor:"3,keyasint,omitempty"` // attach generation of the socket; 0 for a peer without one. An older one is refused
	User  string     `cbor:"4,keyasint,omitempty"` // the token's subject
	Owner string     `cbor:"5,keyasint,omitempty"` // owner name for locks over HTTP
}

// LockOwner is the caller as an owner of locks; the zero Owner if it has none.
func (c Caller) LockOwner() lock.Owner {
	switch {
	case c.Kind == CallerPeer:
		return lock.Owner{Peer: c.Peer}
	case c.Owner != "":
		return lock.Owner{Subject: c.User, Name: c.Owner}
	}
	return lock.Owner{}
}

// Open are the numbers of a new session. Limits travel as numbers, so that all
// replicas agree whatever their configuration says.
type Open struct {
	Profile string `cbor:"1,keyasint,omitempty"`
	Limits  Limits `cbor:"2,keyasint"`
	Grace   int64  `cbor:"3,keyasint,omitempty"` // ms
	Linger  int64  `cbor:"4,keyasint,omitempty"` // ms
	Idle    int64  `cbor:"5,keyasint,omitempty"` // ms; 0 for a session started by a join
}

// Join makes a peer. Key is the resume key, drawn by the api. A peer with a
// socket names the node that serves it; one without has a TTL.
type Join struct {
	Key         string `cbor:"1,keyasint"`
	Name        string `cbor:"2,keyasint,omitempty"`
	Ref         string `cbor:"3,keyasint,omitempty"`
	Role        string `cbor:"4,keyasint,omitempty"`
	Data        []byte `cbor:"5,keyasint,omitempty"`
	Node        string `cbor:"6,keyasint,omitempty"`
	Incarnation uint64 `cbor:"7,keyasint,omitempty"`
	TTL         int64  `cbor:"8,keyasint,omitempty"` // ms
	Peer        string `cbor:"9,keyasint,omitempty"` // fixed peer id of the token: a live one is taken over
}

// Attach re-attaches a peer within its grace, or takes it over from an older
// connection.
type Attach struct {
	Peer        string `cbor:"1,keyasint"`
	Key         string `cbor:"2,keyasint"`
	Node        string `cbor:"3,keyasint"`
	Incarnation uint64 `cbor:"4,keyasint"`
	Client      string `cbor:"5,keyasint,omitempty"` // the client's handle; an attach is never remembered, so it is not the command's
}

// SetPeer changes what others see of a peer; nil leaves a member as it is.
type SetPeer struct {
	Name *string `cbor:"1,keyasint,omitempty"`
	Ref  *string `cbor:"2,keyasint,omitempty"`
	Role *string `cbor:"3,keyasint,omitempty"`
	Data []byte  `cbor:"4,keyasint,omitempty"`
}

// Txn is conditions and two branches; all writes are transactions. A Single one
// is a verb of its own: it has one operation, and its refusal names no index.
type Txn struct {
	If     []Condition `cbor:"1,keyasint,omitempty"`
	Then   []Operation `cbor:"2,keyasint,omitempty"`
	Else   []Operation `cbor:"3,keyasint,omitempty"`
	Single bool        `cbor:"4,keyasint,omitempty"`
}

// Condition is on a key (If, Fence) or, with Session set, on the session.
type Condition struct {
	Store   string `cbor:"1,keyasint,omitempty"`
	Key     string `cbor:"2,keyasint,omitempty"`
	If      If     `cbor:"3,keyasint"`
	Fence   uint64 `cbor:"4,keyasint,omitempty"` // 0: not asked
	Session string `cbor:"5,keyasint,omitempty"`
}

// If is what must hold of an entry. Members that are set must all hold; an
// absent entry has rev 0 and version 0.
type If struct {
	Rev     *uint64 `cbor:"1,keyasint,omitempty"`
	Version *uint64 `cbor:"2,keyasint,omitempty"`
	Absent  bool    `cbor:"3,keyasint,omitempty"`
	Exists  bool    `cbor:"4,keyasint,omitempty"`
	Value   []byte  `cbor:"5,keyasint,omitempty"` // JSON equality
}

// OpKind names an operation of a transaction.
type OpKind uint8

// The operations. Numbers are for ever.
//
// Update to Patch compute a value from the one that is there. What leaves it as
// it was, byte for byte, and names no TTL or Bind, changes nothing and takes no
// revision; a put always does. A put without TTL and Bind clears those of the
// entry, all other writes keep what they do not name.
//
// Merge, Replace and DeletePrefix change several keys of a store, all or none, in
// the order of keys. One that touches a locked key needs its fence in Fences, and
// every fence named there must be the caller's current one, whether or not its key
// changes.
const (
	OpGet          OpKind = 1
	OpPut          OpKind = 2
	OpDelete       OpKind = 3
	OpAcquire      OpKind = 4 // without waiting
	OpRelease      OpKind = 5
	OpUpdate       OpKind = 6  // Value: an array is appended to an array, an object's members go into an object, all else replaces
	OpAppend       OpKind = 7  // Value: an array of items for the end of an array; absent counts as []
	OpRemove       OpKind = 8  // Value: an array; items equal to one of its are taken out. Of what is absent it takes nothing, and makes nothing
	OpAdd          OpKind = 9  // Value: a number; absent counts as 0
	OpPatch        OpKind = 10 // Value: a merge patch (RFC 7396) or, with Steps, a JSON patch (RFC 6902)
	OpMerge        OpKind = 11 // Set and Delete: what is absent is deleted already; an equal value is set all the same
	OpReplace      OpKind = 12 // Set: afterwards the store holds these and no others. Equal values (EqualJSON) are left alone
	OpDeletePrefix OpKind = 13 // Key: the prefix; empty for all
	OpSend         OpKind = 14 // Message
)

// Operation is one step of a transaction.
type Operation struct {
	Kind  OpKind       `cbor:"1,keyasint"`
	Store string       `cbor:"2,keyasint,omitempty"` // never empty once decoded by the api, but of a send
	Key   string       `cbor:"3,keyasint,omitempty"`
	Value []byte       `cbor:"4,keyasint,omitempty"`  // compact JSON
	If    *If          `cbor:"5,keyasint,omitempty"`  // of a write of one key
	Fence uint64       `cbor:"6,keyasint,omitempty"`  // 0: none named
	TTL   int64        `cbor:"7,keyasint,omitempty"`  // ms; 0: none
	Bind  string       `cbor:"8,keyasint,omitempty"`  // peer the entry is bound to
	Lock  *LockRequest `cbor:"9,keyasint,omitempty"`  // of an acquire
	Break bool         `cbor:"10,keyasint,omitempty"` // of a release: whoever holds it

	Unique  bool       `cbor:"11,keyasint,omitempty"` // of an append: only items that the array does not have, each once
	Steps   bool       `cbor:"12,keyasint,omitempty"` // of a patch: Value is an RFC 6902 patch
	Set     []KeyValue `cbor:"13,keyasint,omitempty"` // sorted by key, each once; as Delete and Fences are
	Delete  []string   `cbor:"14,keyasint,omitempty"` // none of Set's
	Fences  []KeyFence `cbor:"15,keyasint,omitempty"`
	Message *Message   `cbor:"16,keyasint,omitempty"`
}

// KeyValue is a key with the value that it is set to.
type KeyValue struct {
	Key   string `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint"` // compact JSON
}

// KeyFence is a key with the fence that the caller has for it.
type KeyFence struct {
	Key   string `cbor:"1,keyasint"`
	Fence uint64 `cbor:"2,keyasint"`
}

// Message is what is sent to peers. Without Peers, Refs and Roles it is for all;
// else for whoever one of them names. The sender gets it only if it asks to (Echo).
type Message struct {
	Topic string   `cbor:"1,keyasint"`
	Data  []byte   `cbor:"2,keyasint"` // compact JSON
	Peers []string `cbor:"3,keyasint,omitempty"`
	Refs  []string `cbor:"4,keyasint,omitempty"`
	Roles []string `cbor:"5,keyasint,omitempty"`
	Echo  bool     `cbor:"6,keyasint,omitempty"`
}

// Texts is an upper bound of what the operation's texts and lists take in a log
// entry, each with its head. Its numbers and flags come on top.
func (op *Operation) Texts() int {
	const head = 16 // an item's map or array, the key byte and length of each of its members
	n := 6*head + len(op.Store) + len(op.Key) + len(op.Value) + len(op.Bind)
	if op.If != nil {
		n += head + len(op.If.Value)
	}
	if op.Lock != nil {
		n += head + len(op.Lock.Data)
	}
	for i := range op.Set {
		n += head + len(op.Set[i].Key) + len(op.Set[i].Value)
	}
	for _, key := range op.Delete {
		n += head + len(key)
	}
	for i := range op.Fences {
		n += 2*head + len(op.Fences[i].Key)
	}
	if m := op.Message; m != nil {
		n += 4*head + len(m.Topic) + len(m.Data)
		for _, list := range [...][]string{m.Peers, m.Refs, m.Roles} {
			for _, who := range list {
				n += head + len(who)
			}
		}
	}
	return n
}

// LockRequest is what an acquire asks for.
type LockRequest struct {
	TTL      int64  `cbor:"1,keyasint,omitempty"` // ms; 0: for as long as the peer is attached, and its grace
	OnDetach bool   `cbor:"2,keyasint,omitempty"` // ends at once on detach
	Shared   bool   `cbor:"3,keyasint,omitempty"`
	Permits  int    `cbor:"4,keyasint,omitempty"` // 0: 1; of a shared lock there are as many as it takes
	Delay    int64  `cbor:"5,keyasint,omitempty"` // ms for which nobody is granted the lock if this lease expires
	Data     []byte `cbor:"6,keyasint,omitempty"`
}

// Acquire asks for a lock and may wait for it.
type Acquire struct {
	Store string      `cbor:"1,keyasint"`
	Key   string      `cbor:"2,keyasint"`
	Lock  LockRequest `cbor:"3,keyasint"`
	Wait  int64       `cbor:"4,keyasint,omitempty"` // ms; 0: refuse at once when held
	// Node and Incarnation serve a waiter without a socket: it is skipped when
	// they are gone. Waiter names it there, unique per incarnation.
	Node        string `cbor:"5,keyasint,omitempty"`
	Incarnation uint64 `cbor:"6,keyasint,omitempty"`
	Waiter      string `cbor:"7,keyasint,omitempty"`
}

// Cancel ends a wait: of a peer's request (Client of the command, Request), or
// of a waiter without a socket (Waiter). It is answered with the fence if the
// lock was granted before, and with lock_timeout else.
type Cancel struct {
	Store   string `cbor:"1,keyasint,omitempty"`
	Key     string `cbor:"2,keyasint,omitempty"`
	Request uint64 `cbor:"3,keyasint,omitempty"`
	Waiter  string `cbor:"4,keyasint,omitempty"`
}

// Limits are the numbers that a session carries; see protocol section 1.
type Limits struct {
	ValueBytes    int `cbor:"1,keyasint"`
	KeysPerStore  int `cbor:"2,keyasint"`
	Stores        int `cbor:"3,keyasint"`
	SessionBytes  int `cbor:"4,keyasint"`
	Peers         int `cbor:"5,keyasint"`
	PeerDataBytes int `cbor:"6,keyasint"`
	MessageBytes  int `cbor:"7,keyasint"`
	Locks         int `cbor:"8,keyasint"`
	LockWaiters   int `cbor:"9,keyasint"`
	WritesPerS    int `cbor:"10,keyasint"`
	WritesBurst   int `cbor:"11,keyasint"`
}
