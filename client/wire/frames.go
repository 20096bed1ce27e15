package wire

import "encoding/json"

// Hello is the first request of a socket.
type Hello struct {
	ID      uint64          `json:"id"`
	Do      string          `json:"do"`
	V       int             `json:"v"`
	Agent   string          `json:"agent,omitempty"`
	Client  string          `json:"client,omitempty"`
	Token   string          `json:"token,omitempty"`
	Name    string          `json:"name,omitempty"`
	Ref     string          `json:"ref,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Observe bool            `json:"observe,omitempty"`
	Resume  *Resume         `json:"resume,omitempty"`
	Watch   []Filter        `json:"watch,omitempty"`
}

// Resume names what an earlier connection had: the peer, and how far its stream had
// come; an observer has a stream only, and without Rev only the peer is resumed.
type Resume struct {
	Session string  `json:"session"`
	Peer    string  `json:"peer,omitempty"`
	Key     string  `json:"key,omitempty"`
	Rev     *uint64 `json:"rev,omitempty"`
}

// Welcome answers hello. The peer and the stream are resumed, or not, apart.
type Welcome struct {
	V             int      `json:"v"`
	Features      []string `json:"features"`
	Session       *string  `json:"session"` // null: the room has no live one
	Peer          string   `json:"peer,omitempty"`
	ResumeKey     string   `json:"resume_key,omitempty"`
	Rev           uint64   `json:"rev"`
	Now           string   `json:"now"`
	Node          string   `json:"node"`
	PeerResumed   bool     `json:"peer_resumed"`
	StreamResumed bool     `json:"stream_resumed"`
	Limits        *Limits  `json:"limits,omitempty"`   // of the session, if there is one
	GraceMs       *int64   `json:"grace_ms,omitempty"` // likewise
	PingMs        int64    `json:"ping_ms"`
	Window        int      `json:"window"`
}

// Frame is any frame that a server sends: which members are set tells what it is. An
// answer has ID and one of OK, Error and Waiting; a page of a snapshot Snapshot, Rev
// and More, and For if a request asked for it; a bookmark nothing but Rev.
type Frame struct {
	ID        uint64          `json:"id,omitempty"`
	OK        json.RawMessage `json:"ok,omitempty"`
	Error     *Error          `json:"error,omitempty"`
	Waiting   *Waiting        `json:"waiting,omitempty"`
	Snapshot  *Snapshot       `json:"snapshot,omitempty"`
	For       uint64          `json:"for,omitempty"`
	More      *bool           `json:"more,omitempty"`
	Events    []Event         `json:"events,omitempty"`
	Ephemeral []Ephemeral     `json:"ephemeral,omitempty"`
	Reset     string          `json:"reset,omitempty"`
	Rev       *uint64         `json:"rev,omitempty"`
}
