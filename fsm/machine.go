package fsm

import (
	"io"

	"github.com/hashicorp/raft"
)

// Machine adapts a State to raft: it decodes entries, applies them, publishes a
// View, appends to the rings and tells the observers, in that order. Raft's FSM
// goroutine calls it; View, Ring and Observe may be called from any goroutine.
type Machine struct{}

var (
	_ raft.BatchingFSM = (*Machine)(nil)
)

// Published is what one publication brought: several raft entries may share it.
type Published struct {
	View      *View
	Index     uint64 // of the last raft entry applied, a command or a configuration
	Term      uint64 // its raft term
	Batches   []BatchOutcome
	Changed   []string // rooms with new frames, each once
	Grants    []Grant
	Deadlines []Deadline
	Restored  bool // the whole state was replaced (an installed snapshot or a restore)
}

// NewMachine returns a machine with an empty state. fatal is called, once, when
// an entry or a snapshot cannot be read and going on would let replicas diverge;
// it does not return to the caller's advantage: nothing is applied after it.
func NewMachine(fatal func(error)) *Machine { panic("not built") }

// Observe adds a function called after each publication, in order, on raft's FSM
// goroutine. It must not block. Add observers before raft starts.
func (m *Machine) Observe(f func(*Published)) { panic("not built") }

// View is the last published state.
func (m *Machine) View() *View { panic("not built") }

// Ring is the ring of a room's live session, nil if it has none.
func (m *Machine) Ring(room string) *Ring { panic("not built") }

func (m *Machine) Apply(l *raft.Log) any               { panic("not built") }
func (m *Machine) ApplyBatch(logs []*raft.Log) []any   { panic("not built") }
func (m *Machine) Snapshot() (raft.FSMSnapshot, error) { panic("not built") }
func (m *Machine) Restore(source io.ReadCloser) error  { panic("not built") }

// Hash is a hash over the whole replicated state, equal on equal states.
func (v *View) Hash() [32]byte { panic("not built") }

// EncodeProposal and DecodeProposal are the codec of log entries. Decode applies
// the replicas' own limits (sizes, depth, counts), so that the proposer refuses
// what a replica would have to stop at.
func EncodeProposal(p *Proposal) ([]byte, error)    { panic("not built") }
func DecodeProposal(data []byte) (*Proposal, error) { panic("not built") }

// EncodeBatch and DecodeBatch are the codec between nodes.
func EncodeBatch(b *Batch) ([]byte, error)    { panic("not built") }
func DecodeBatch(data []byte) (*Batch, error) { panic("not built") }
