package cluster

//lint:file-ignore SA1019 Leader is deprecated, but raft still fills it: a nudge looks as raft's own requests do.

import (
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// followerEnd is the other side of a nudger: it records nudges and answers them
// as told. When gate is set, each nudge waits there for a token.
type followerEnd struct {
	nudger *nudger
	gate   chan struct{}

	mu     sync.Mutex
	nudges []raft.AppendEntriesRequest
	answer raft.AppendEntriesResponse
	err    error
}

func newFollowerEnd() *followerEnd {
	e := &followerEnd{answer: raft.AppendEntriesResponse{Term: 5, Success: true}}
	e.nudger = newNudger(func(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
		e.mu.Lock()
		e.nudges = append(e.nudges, *req)
		answer, err := e.answer, e.err
		e.mu.Unlock()
		if e.gate != nil {
			<-e.gate
		}
		*resp = answer
		return err
	})
	return e
}

// sent waits until the nudger rests, and returns the indexes of all nudges so far.
func (e *followerEnd) sent() []uint64 {
	e.nudger.wait()
	var indexes []uint64
	for _, req := range e.nudges {
		indexes = append(indexes, req.PrevLogEntry)
	}
	return indexes
}

// entries is an AppendEntries of raft's in a term: entries up to last after prev.
func entries(term, prev, last, commit uint64) *raft.AppendEntriesRequest {
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1.a"), Addr: []byte("n1.a")},
		Leader:    []byte("n1.a"), Term: term, PrevLogEntry: prev, PrevLogTerm: term, LeaderCommitIndex: commit,
	}
	for i := prev + 1; i <= last; i++ {
		req.Entries = append(req.Entries, &raft.Log{Index: i, Term: term})
	}
	return req
}

// replicate has raft send a request and get it accepted.
func (e *followerEnd) replicate(req *raft.AppendEntriesRequest) {
	f := e.nudger.sending("n2.b", "addr", req)
	e.nudger.answered(f, req, &raft.AppendEntriesResponse{Term: req.Term, Success: true}, nil)
}

func TestNudger_ANudgeIsTheOrdinaryCheckOfOneEntry(t *testing.T) {
	e := newFollowerEnd()
	e.replicate(entries(5, 6, 9, 6))
	e.nudger.committed(9, 5)
	e.nudger.wait()
	want := []raft.AppendEntriesRequest{{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1.a"), Addr: []byte("n1.a")},
		Leader:    []byte("n1.a"), Term: 5, PrevLogEntry: 9, PrevLogTerm: 5, LeaderCommitIndex: 9,
	}}
	if diff := cmp.Diff(want, e.nudges); diff != "" {
		t.Error(diff)
	}
}

func TestNudger_TellsOnlyWhatIsNewsAndDue(t *testing.T) {
	accepted := &raft.AppendEntriesResponse{Term: 5, Success: true}
	for _, c := range []struct {
		name string
		do   func(e *followerEnd)
		want []uint64
	}{
		{"a follower that has the entry", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			e.nudger.committed(9, 5)
		}, []uint64{9}},
		{"a node that never sent anything", func(e *followerEnd) {
			e.nudger.committed(9, 5)
		}, nil},
		{"an entry of an earlier term", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			e.nudger.committed(6, 4)
		}, nil},
		{"an entry of a later term", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			e.nudger.committed(9, 6)
		}, nil},
		{"the slower follower, when its answer comes", func(e *followerEnd) {
			req := entries(5, 6, 9, 6)
			f := e.nudger.sending("n2.b", "addr", req)
			e.nudger.committed(9, 5)
			if len(e.nudges) != 0 {
				panic("nudged before the follower had the entry")
			}
			e.nudger.answered(f, req, accepted, nil)
		}, []uint64{9}},
		{"a follower that lacks the entry", func(e *followerEnd) {
			e.replicate(entries(5, 6, 8, 6))
			e.nudger.committed(9, 5)
		}, nil},
		{"one that refused", func(e *followerEnd) {
			req := entries(5, 6, 9, 6)
			f := e.nudger.sending("n2.b", "addr", req)
			e.nudger.answered(f, req, &raft.AppendEntriesResponse{Term: 5}, nil)
			e.nudger.committed(9, 5)
		}, nil},
		{"one that did not answer", func(e *followerEnd) {
			req := entries(5, 6, 9, 6)
			f := e.nudger.sending("n2.b", "addr", req)
			e.nudger.answered(f, req, accepted, errors.New("connection reset"))
			e.nudger.committed(9, 5)
		}, nil},
		{"one that answered from a newer term", func(e *followerEnd) {
			req := entries(5, 6, 9, 6)
			f := e.nudger.sending("n2.b", "addr", req)
			e.nudger.answered(f, req, &raft.AppendEntriesResponse{Term: 6, Success: true}, nil)
			e.nudger.committed(9, 5)
		}, nil},
		{"one that knows from raft", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			e.replicate(entries(5, 9, 9, 9))
			e.nudger.committed(9, 5)
		}, nil},
		{"one that raft is telling", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			req := entries(5, 9, 11, 9)
			f := e.nudger.sending("n2.b", "addr", req)
			e.nudger.committed(9, 5)
			e.nudger.answered(f, req, accepted, nil)
		}, nil},
		{"one that raft was telling in vain", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			req := entries(5, 9, 11, 9)
			f := e.nudger.sending("n2.b", "addr", req)
			e.nudger.committed(9, 5)
			e.nudger.answered(f, req, accepted, errors.New("connection reset"))
		}, []uint64{9}},
		{"a commit index beyond what was sent with it", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 20)) // proves a commit index of 9 only
			e.replicate(entries(5, 9, 12, 9))
			e.nudger.committed(12, 5)
		}, []uint64{12}},
		{"heartbeats", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			e.replicate(entries(5, 0, 0, 0))
			e.nudger.committed(9, 5)
			e.nudger.wait()
			e.replicate(entries(5, 0, 0, 0))
		}, []uint64{9}},
		{"once, though it failed", func(e *followerEnd) {
			e.err = errors.New("connection reset")
			e.replicate(entries(5, 6, 9, 6))
			e.nudger.committed(9, 5)
			e.nudger.wait()
			e.nudger.committed(9, 5)
			e.replicate(entries(5, 6, 9, 6))
		}, []uint64{9}},
		{"what an older term learnt is forgotten", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			late := entries(5, 9, 12, 6)
			f := e.nudger.sending("n2.b", "addr", late)
			e.nudger.sending("n2.b", "addr", entries(7, 0, 0, 0)) // leads again
			e.nudger.answered(f, late, accepted, nil)
			e.nudger.committed(9, 7)
			e.nudger.committed(9, 5)
		}, nil},
		{"requests of an older term that raft still sends", func(e *followerEnd) {
			e.nudger.sending("n2.b", "addr", entries(7, 0, 0, 0))
			e.replicate(entries(5, 6, 9, 6))
			e.nudger.committed(9, 7)
			e.nudger.committed(9, 5)
		}, nil},
		{"after stop", func(e *followerEnd) {
			e.replicate(entries(5, 6, 9, 6))
			e.nudger.stop()
			e.nudger.committed(9, 5)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newFollowerEnd()
			c.do(e)
			if diff := cmp.Diff(c.want, e.sent()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNudger_WhileOneIsUnderWayOthersWait(t *testing.T) {
	e := newFollowerEnd()
	e.gate = make(chan struct{})
	e.replicate(entries(5, 6, 20, 6))
	e.nudger.committed(10, 5)
	pollUntil(t, "the first nudge leaves", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.nudges) == 1
	})
	for i := uint64(11); i <= 20; i++ {
		e.nudger.committed(i, 5)
	}
	close(e.gate)
	if diff := cmp.Diff([]uint64{10, 20}, e.sent()); diff != "" {
		t.Error(diff)
	}
}

// Whatever raft sends and whatever comes back, a nudge is about a published entry
// of its own term that the follower has been seen to hold in that term, never
// repeats itself, and a follower that has the newest entry is always told.
func TestNudger_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const id = "n2.b"
		e := newFollowerEnd()
		term, log, published := uint64(1), uint64(0), uint64(0)
		match, told := uint64(0), uint64(0) // of the follower, in this term
		t.Repeat(map[string]func(*rapid.T){
			"replicate": func(t *rapid.T) {
				prev := rapid.Uint64Range(0, log).Draw(t, "prev")
				log = max(log, prev+rapid.Uint64Range(0, 3).Draw(t, "entries"))
				commit := published
				req := entries(term, prev, rapid.Uint64Range(prev, log).Draw(t, "last"), commit)
				e.mu.Lock()
				e.answer.Term = term
				e.mu.Unlock()
				f := e.nudger.sending(id, "addr", req)
				resp := raft.AppendEntriesResponse{Term: term, Success: rapid.Bool().Draw(t, "accepted")}
				var err error
				if rapid.IntRange(0, 4).Draw(t, "lost") == 0 {
					err = errors.New("lost")
				}
				e.nudger.answered(f, req, &resp, err)
				if resp.Success && err == nil {
					match = max(match, lastCovered(req))
					told = max(told, commitAfter(req))
				}
			},
			"publish": func(t *rapid.T) {
				if log > published {
					published = rapid.Uint64Range(published+1, log).Draw(t, "index")
					e.nudger.committed(published, term)
				}
			},
			"lead again": func(t *rapid.T) {
				term += rapid.Uint64Range(1, 3).Draw(t, "terms")
				match, told, published = 0, 0, 0
				e.nudger.sending(id, "addr", entries(term, 0, 0, 0))
			},
			"": func(t *rapid.T) {
				e.nudger.wait()
				for _, n := range e.nudges {
					if n.Term != term || n.PrevLogTerm != term || n.LeaderCommitIndex != n.PrevLogEntry || len(n.Entries) > 0 {
						t.Fatalf("in term %d: nudge %+v", term, n)
					}
					if n.PrevLogEntry > match || n.PrevLogEntry > published || n.PrevLogEntry <= told {
						t.Fatalf("nudge about %d, follower has %d and was told %d, published %d", n.PrevLogEntry, match, told, published)
					}
					told = n.PrevLogEntry
				}
				e.nudges = nil
				if published > 0 && match >= published && told < published {
					t.Fatalf("nobody tells the follower of %d", published)
				}
			},
		})
	})
}
