package wire

import "encoding/json"

// What requests are answered with, over HTTP and over a socket. A member that only
// one of the two has is left out by the other.

// ServerInfo is what a server is (GET /v1).
type ServerInfo struct {
	V        int      `json:"v"`
	Version  string   `json:"version"`
	Node     string   `json:"node"`
	Features []string `json:"features"`
}

// Ready says whether to send clients to a node, and if not why.
type Ready struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

// Room is the live session of a room.
type Room struct {
	Room      string     `json:"room"`
	Session   string     `json:"session"`
	StartedAt string     `json:"started_at"`
	Rev       uint64     `json:"rev"`
	Profile   string     `json:"profile"`
	Limits    Limits     `json:"limits"`
	GraceMs   int64      `json:"grace_ms"`
	LingerMs  int64      `json:"linger_ms"`
	IdleMs    int64      `json:"idle_timeout_ms,omitempty"`
	Counts    RoomCounts `json:"counts"`
}

// RoomCounts say how much of everything a session has.
type RoomCounts struct {
	Peers  int `json:"peers"`
	Stores int `json:"stores"`
	Keys   int `json:"keys"`
	Bytes  int `json:"bytes"`
	Locks  int `json:"locks"`
}

// RoomSummary is a room in a list.
type RoomSummary struct {
	Room      string `json:"room"`
	Session   string `json:"session"`
	StartedAt string `json:"started_at"`
	Peers     int    `json:"peers"`
}

// Rooms is a page of rooms with a live session, by name. Next, here and in the other
// lists, is the after of the next page, "" on the last.
type Rooms struct {
	Rooms []RoomSummary `json:"rooms"`
	Next  string        `json:"next,omitempty"`
}

// StoreInfo is a store in a list.
type StoreInfo struct {
	Store string `json:"store"`
	Keys  int    `json:"keys"`
	Bytes int    `json:"bytes"`
}

// Stores are the stores of a session.
type Stores struct {
	Stores []StoreInfo `json:"stores"`
}

// Entries is a page of a store, by key.
type Entries struct {
	Store   string  `json:"store,omitempty"` // HTTP
	Rev     uint64  `json:"rev"`
	Entries []Entry `json:"entries"`
	Next    string  `json:"next,omitempty"`
}

// Got answers get; the entry is null when there is none.
type Got struct {
	Entry *Entry `json:"entry"`
	Rev   uint64 `json:"rev"`
}

// Written answers put.
type Written struct {
	Version uint64 `json:"version"`
	Rev     uint64 `json:"rev"`
}

// Computed answers the verbs that compute a value. Of a value that was left as it is,
// Rev is still that of the entry.
type Computed struct {
	Value   json.RawMessage `json:"value"`
	Version uint64          `json:"version"`
	Rev     uint64          `json:"rev"`
}

// Deleted answers delete.
type Deleted struct {
	Existed bool   `json:"existed"`
	Rev     uint64 `json:"rev"`
}

// Done answers what has nothing else to say.
type Done struct {
	Rev uint64 `json:"rev"`
}

// Grant answers acquire. A lease without a TTL has no end of its own.
type Grant struct {
	Fence       uint64 `json:"fence"`
	Owner       string `json:"owner,omitempty"`  // HTTP
	TTLMs       int64  `json:"ttl_ms,omitempty"` // HTTP
	ExpiresInMs *int64 `json:"expires_in_ms,omitempty"`
}

// Waiting is told before the answer of an acquire that has to wait: the place in
// line, 1 for the next.
type Waiting struct {
	Position int `json:"position"`
}

// Renewed answers a renewal, of a lease or of a peer without a socket.
type Renewed struct {
	ExpiresInMs *int64 `json:"expires_in_ms,omitempty"`
}

// Valid answers whether a fence is that of a current grant, and if not how that
// ended, if it is known: released, expired or broken.
type Valid struct {
	Valid  bool   `json:"valid"`
	Reason string `json:"reason,omitempty"`
	Rev    uint64 `json:"rev,omitempty"` // socket
}

// Locks is a page of locks, by <store>/<key>.
type Locks struct {
	Locks []Lock `json:"locks"`
	Next  string `json:"next,omitempty"`
	Rev   uint64 `json:"rev,omitempty"` // socket
}

// Peers is a page of peers, by id.
type Peers struct {
	Peers []Peer `json:"peers"`
	Next  string `json:"next,omitempty"`
	Rev   uint64 `json:"rev,omitempty"` // socket
}

// Joined answers a join without a socket.
type Joined struct {
	Peer      string `json:"peer"`
	ResumeKey string `json:"resume_key"`
	Session   string `json:"session"`
	TTLMs     int64  `json:"ttl_ms"`
	Rev       uint64 `json:"rev"`
}

// Pong answers ping.
type Pong struct {
	Rev uint64 `json:"rev"`
	Now string `json:"now"`
}
