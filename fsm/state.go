package fsm

import (
	"strings"

	"github.com/tidwall/btree"
)

// State is the replicated state. It is pure: Apply reads no clock, draws no
// random number, does no I/O and starts no goroutine; equal states that apply
// equal proposals stay equal. One goroutine owns it; readers use Views.
//
// It is copied on write. Values in the trees (entries, peers, locks, records of
// nodes) are immutable and replaced by pointer. A session and a store are
// mutable while their generation is the state's: publishing a View, or setting
// a mark to return to, begins a new generation, and the first write after that
// clones what it touches. So a View costs one allocation, and a quiet session
// nothing.
type State struct {
	rev, index uint64
	now        int64  // cluster time, ms; never goes back
	cluster    string // "" before genesis
	gen        uint64 // not replicated: it only says what may be changed in place

	rooms    tree[*Session] // live sessions by room
	nodes    tree[*node]
	replicas tree[struct{}]
	endings  endings
}

// NewState is the empty state.
func NewState() *State { return &State{gen: 1} }

// Publish returns a View of the state as it is now.
func (s *State) Publish() *View { return &View{s: s.copy()} }

// copy is a copy that later changes of s leave alone.
func (s *State) copy() *State {
	s.gen++
	c := *s
	return &c
}

// restore takes the state back to a copy made before.
func (s *State) restore(c *State) {
	gen := s.gen + 1
	*s = *c
	s.gen = gen
}

// treeDegree keeps nodes small (15 items): a write after a publication copies one
// of each level. With the library's 32 it copies three times the bytes.
const treeDegree = 8

// tree is a sorted map that belongs to one copy of its owner: the copy whose
// generation it has may change it. The zero tree is empty.
type tree[V any] struct {
	gen uint64
	m   *btree.Map[string, V]
}

func (t *tree[V]) get(key string) (v V, ok bool) {
	if t.m == nil {
		return v, false
	}
	return t.m.Get(key)
}

func (t *tree[V]) has(key string) bool {
	_, ok := t.get(key)
	return ok
}

func (t *tree[V]) len() int {
	if t.m == nil {
		return 0
	}
	return t.m.Len()
}

// write returns the map for writing in generation gen. Copying a map marks the
// original too, in a field that readers never look at.
func (t *tree[V]) write(gen uint64) *btree.Map[string, V] {
	switch {
	case t.m == nil:
		t.m = btree.NewMap[string, V](treeDegree)
	case t.gen != gen:
		t.m = t.m.Copy()
	}
	t.gen = gen
	return t.m
}

// scan calls f for each item sorted by key, from the first key greater than
// after that starts with prefix, until f returns false.
func (t *tree[V]) scan(prefix, after string, f func(key string, v V) bool) {
	if t.m == nil {
		return
	}
	t.m.Ascend(max(prefix, after), func(key string, v V) bool {
		if key == after && after != "" {
			return true
		}
		return strings.HasPrefix(key, prefix) && f(key, v)
	})
}
