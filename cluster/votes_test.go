package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
)

var errCrashed = errors.New("crashed")

// crashingStore loses every write from a given one on, as when the machine goes
// down between two of them. What was written stays readable.
type crashingStore struct {
	*raft.InmemStore
	left int // writes before the crash
}

func (s *crashingStore) alive() error {
	if s.left == 0 {
		return errCrashed
	}
	s.left--
	return nil
}

func (s *crashingStore) Set(k, v []byte) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.InmemStore.Set(k, v)
}

func (s *crashingStore) SetUint64(k []byte, n uint64) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.InmemStore.SetUint64(k, n)
}

type vote struct {
	term uint64
	cand string
}

// castVote writes a vote as raft does.
func castVote(s raft.StableStore, v vote) error {
	if err := s.SetUint64([]byte("CurrentTerm"), v.term); err != nil {
		return err
	}
	if err := s.SetUint64([]byte("LastVoteTerm"), v.term); err != nil {
		return err
	}
	return s.Set([]byte("LastVoteCand"), []byte(v.cand))
}

// readVote reads a vote as raft does.
func readVote(t *testing.T, s raft.StableStore) vote {
	t.Helper()
	term, err := s.GetUint64([]byte("LastVoteTerm"))
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	cand, err := s.Get([]byte("LastVoteCand"))
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	return vote{term, string(cand)}
}

func TestRegression_TornVote_ACrashNeverMixesTwoVotes(t *testing.T) {
	votes := []vote{{2, "n1.a"}, {3, "n2.b"}, {7, "n3.c"}}
	const writes = 2 // per vote: the current term, the pair
	for crash := 0; crash <= writes*len(votes); crash++ {
		t.Run(fmt.Sprintf("before write %d", crash), func(t *testing.T) {
			disk := &crashingStore{raft.NewInmemStore(), crash}
			running := newVoteStore(disk)
			var want vote
			for _, v := range votes {
				if err := castVote(running, v); err != nil {
					if !errors.Is(err, errCrashed) {
						t.Fatal(err)
					}
					break
				}
				want = v
			}
			if got := readVote(t, newVoteStore(disk)); got != want {
				t.Errorf("after the crash the vote is %v, the last one cast was %v", got, want)
			}
			if crash == writes*len(votes) && want != votes[len(votes)-1] {
				t.Errorf("cast %v without a crash, want all", want)
			}
		})
	}
}

// The same schedule without the vote store is what it is for.
func TestVoteStore_PlainStoresDoMixThem(t *testing.T) {
	disk := &crashingStore{raft.NewInmemStore(), 3 + 2}
	castVote(disk, vote{2, "n1.a"})
	castVote(disk, vote{3, "n2.b"})
	if got, want := readVote(t, disk), (vote{3, "n1.a"}); got != want {
		t.Errorf("got %v, want %v: does raft write votes in another way now?", got, want)
	}
}

func TestVoteStore_ReadsVotesKeptApart(t *testing.T) {
	disk := raft.NewInmemStore()
	old, newer := vote{4, "n1.a"}, vote{5, "n2.b"}
	if err := castVote(disk, old); err != nil {
		t.Fatal(err)
	}
	s := newVoteStore(disk)
	if got := readVote(t, s); got != old {
		t.Errorf("got %v, want %v", got, old)
	}
	if err := castVote(s, newer); err != nil {
		t.Fatal(err)
	}
	if got := readVote(t, newVoteStore(disk)); got != newer {
		t.Errorf("got %v, want %v", got, newer)
	}
}

func TestVoteStore_PassesTheRestOn(t *testing.T) {
	disk := raft.NewInmemStore()
	s := newVoteStore(disk)
	if _, err := s.Get([]byte("LastVoteCand")); !isNotFound(err) {
		t.Errorf("no vote yet: got %v, want %q", err, notFound)
	}
	if err := s.Set([]byte("other"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 9); err != nil {
		t.Fatal(err)
	}
	got, err := disk.Get([]byte("other"))
	term, termErr := disk.GetUint64([]byte("CurrentTerm"))
	if err != nil || termErr != nil || !bytes.Equal(got, []byte("x")) || term != 9 {
		t.Errorf("the store has %q %v, %d %v", got, err, term, termErr)
	}
	if err := s.Set([]byte("LastVoteCand"), []byte("n1.a")); err == nil {
		t.Error("a candidate without a term was taken")
	}
	disk.Set([]byte(keyVote), []byte("short"))
	if _, err := s.GetUint64([]byte("LastVoteTerm")); err == nil || isNotFound(err) {
		t.Errorf("a damaged vote reads as %v", err)
	}
}
