package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// The keys under which raft keeps its vote, and the one under which we do.
const (
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"
	keyVote     = "Vote"
)

// notFound is what raft expects of a StableStore that has no such key: it
// compares the text.
const notFound = "not found"

var errKeyNotFound = errors.New(notFound)

// voteStore keeps raft's vote whole. Raft writes the term of its vote, then the
// candidate. A crash in between leaves the new term with the candidate of an
// older vote, and should that one ask again in the new term, it is granted a
// vote at once, without the check of its log. Here the term is held back until
// the candidate comes, and both are written by one Set.
//
// Only raft's main goroutine votes; the mutex is for the race detector's peace
// with whoever else reads.
type voteStore struct {
	raft.StableStore

	mu   sync.Mutex
	held *uint64 // the term of a vote whose candidate is not known yet
}

func newVoteStore(inner raft.StableStore) *voteStore { return &voteStore{StableStore: inner} }

// SetUint64 holds the term of a vote, and writes anything else.
func (v *voteStore) SetUint64(key []byte, n uint64) error {
	if string(key) != keyVoteTerm {
		return v.StableStore.SetUint64(key, n)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held = &n
	return nil
}

// Set writes a vote when it is told the candidate, and anything else as it is.
func (v *voteStore) Set(key, value []byte) error {
	if string(key) != keyVoteCand {
		return v.StableStore.Set(key, value)
	}
	v.mu.Lock()
	term := v.held
	v.held = nil
	v.mu.Unlock()
	if term == nil {
		return fmt.Errorf("vote for %q without a term", value)
	}
	pair := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(value)), *term)
	return v.StableStore.Set([]byte(keyVote), append(pair, value...))
}

// GetUint64 reads the term of the last whole vote, or any other number.
func (v *voteStore) GetUint64(key []byte) (uint64, error) {
	if string(key) != keyVoteTerm {
		return v.StableStore.GetUint64(key)
	}
	term, _, err := v.vote()
	if isNotFound(err) {
		return v.StableStore.GetUint64(key) // kept apart by an older data directory
	}
	return term, err
}

// Get reads the candidate of the last whole vote, or any other value.
func (v *voteStore) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCand {
		return v.StableStore.Get(key)
	}
	_, candidate, err := v.vote()
	if isNotFound(err) {
		return v.StableStore.Get(key)
	}
	return candidate, err
}

// vote reads the pair.
func (v *voteStore) vote() (term uint64, candidate []byte, err error) {
	pair, err := v.StableStore.Get([]byte(keyVote))
	switch {
	case err != nil:
		return 0, nil, err
	case len(pair) == 0: // StableStore allows this for a key that is absent
		return 0, nil, errKeyNotFound
	case len(pair) < 8:
		return 0, nil, fmt.Errorf("vote of %d bytes is damaged", len(pair))
	}
	return binary.BigEndian.Uint64(pair), pair[8:], nil
}

// isNotFound says whether a StableStore has no such key.
func isNotFound(err error) bool { return err != nil && err.Error() == notFound }
