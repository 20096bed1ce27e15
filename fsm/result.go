package fsm

// Code names a refusal. The strings are the protocol's (client/wire has the
// table); only those that the state itself can answer are here.
type Code string

// The refusals of the state machine. Unavailable is answered for a stale attach
// generation only: certainly not applied, safe to repeat on the live connection.
const (
	CodeBadRequest     Code = "bad_request"
	CodeForbidden      Code = "forbidden"
	CodeNotFound       Code = "not_found"
	CodeNoSession      Code = "no_session"
	CodeConflict       Code = "conflict"
	CodeLocked         Code = "locked"
	CodeStaleFence     Code = "stale_fence"
	CodeNotHolder      Code = "not_holder"
	CodeLockTimeout    Code = "lock_timeout"
	CodeWrongType      Code = "wrong_type"
	CodeLimitExceeded  Code = "limit_exceeded"
	CodeSessionEnded   Code = "session_ended"
	CodeUnavailable    Code = "unavailable"
	CodeUnknownOutcome Code = "unknown_outcome"
	CodeInternal       Code = "internal"
)

// Refusal is a deterministic no: the same on every replica, and it changed
// nothing.
type Refusal struct {
	Code    Code    `cbor:"1,keyasint"`
	Message string  `cbor:"2,keyasint,omitempty"`
	Details Details `cbor:"3,keyasint"`
}

// Details of a refusal; which are set depends on the code (protocol section 2).
type Details struct {
	Store   string `cbor:"1,keyasint,omitempty"`
	Key     string `cbor:"2,keyasint,omitempty"`
	Exists  *bool  `cbor:"3,keyasint,omitempty"` // conflict
	Version uint64 `cbor:"4,keyasint,omitempty"` // conflict
	Rev     uint64 `cbor:"5,keyasint,omitempty"` // conflict
	Value   []byte `cbor:"6,keyasint,omitempty"` // conflict
	Owner   string `cbor:"7,keyasint,omitempty"` // locked: as the wire shows it
	Fence   uint64 `cbor:"8,keyasint,omitempty"` // locked, stale_fence: the current grant's
	Limit   string `cbor:"9,keyasint,omitempty"` // limit_exceeded: the wire's name of the limit
	Max     int64  `cbor:"10,keyasint,omitempty"`
	Actual  int64  `cbor:"11,keyasint,omitempty"`
	Type    string `cbor:"12,keyasint,omitempty"` // wrong_type
	Reason  string `cbor:"13,keyasint,omitempty"`
	Field   string `cbor:"14,keyasint,omitempty"` // bad_request
	Index   *int   `cbor:"15,keyasint,omitempty"` // the refused operation of a transaction
}

// Error makes *Refusal an error.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Message }

// Result is what applying one command gave. The state keeps what it points to, for
// repeated requests: never change it.
type Result struct {
	Rev      uint64     `cbor:"1,keyasint"` // of the change; when nothing changed, the state's revision then
	Refusal  *Refusal   `cbor:"2,keyasint,omitempty"`
	Session  string     `cbor:"3,keyasint,omitempty"`
	Peer     string     `cbor:"4,keyasint,omitempty"` // join, attach
	Key      string     `cbor:"5,keyasint,omitempty"` // join: the resume key that counts
	Gen      uint64     `cbor:"6,keyasint,omitempty"` // join, attach: the attach generation
	Created  bool       `cbor:"7,keyasint,omitempty"` // open: this command opened the session
	Applied  bool       `cbor:"8,keyasint,omitempty"` // txn: the then branch ran
	Ops      []OpResult `cbor:"9,keyasint,omitempty"`
	Waiting  int        `cbor:"10,keyasint,omitempty"` // acquire: queued at this position, 1 is next
	Waiter   uint64     `cbor:"11,keyasint,omitempty"` // acquire: the queued waiter's number (a revision); a Grant names it
	Fence    uint64     `cbor:"12,keyasint,omitempty"` // acquire
	Changed  bool       `cbor:"13,keyasint,omitempty"` // Rev is this command's own
	Repeated bool       `cbor:"-"`                     // answered from memory
}

// OpResult is the result of one operation.
type OpResult struct {
	Version uint64 `cbor:"1,keyasint,omitempty"`
	Rev     uint64 `cbor:"2,keyasint,omitempty"` // of the entry after the operation
	Fence   uint64 `cbor:"3,keyasint,omitempty"`
	Existed bool   `cbor:"4,keyasint,omitempty"` // delete: there was something
	Created bool   `cbor:"5,keyasint,omitempty"` // a write of one key: the entry was absent
	Entry   *Entry `cbor:"6,keyasint,omitempty"` // get; nil when absent
	Value   []byte `cbor:"7,keyasint,omitempty"` // operations that compute one
}

// returned is what an operation's result takes, besides numbers.
func (r *OpResult) returned() int {
	if r.Entry != nil {
		return size(r.Entry.Key, r.Entry.Value)
	}
	return len(r.Value)
}

// BatchStatus says what became of a node's batch in an entry.
type BatchStatus uint8

// The statuses. Gap and Stale change nothing.
const (
	BatchApplied  BatchStatus = 0
	BatchRepeated BatchStatus = 1 // its number was applied before; Results are the stored ones, if still kept
	BatchGap      BatchStatus = 2 // a number before it has not been applied
	BatchStale    BatchStatus = 3 // of an older incarnation, or one that is not registered
)

// BatchOutcome is the fate of one batch in one entry.
type BatchOutcome struct {
	Node        string
	Incarnation uint64
	Seq         uint64
	Status      BatchStatus
	Results     []Result
}

// Grant tells the end of a wait for a lock: granted when Refusal is nil, else
// over (timed out, cancelled by the peer's leaving, by the session's end).
type Grant struct {
	Room, Session string
	Store, Key    string
	Waiter        uint64 // Result.Waiter of the acquire
	Rev           uint64
	Fence         uint64
	Refusal       *Refusal
}

// Deadline is a moment in cluster time at which the leader proposes Timer
// (whose Term it fills in). A Lease may be renewed in the leader's memory: then
// it ends TTL after the last renewal, and a new leader gives it a full TTL.
type Deadline struct {
	At    int64 // cluster time, ms
	Timer Control
	Lease bool
	TTL   int64 // ms, of a lease
}
