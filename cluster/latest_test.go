package cluster

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/fsm"
)

// note makes a message "<sender>/<topic> <text>".
func note(text string) *Ephemeral {
	from, data, _ := strings.Cut(text, " ")
	sender, topic, _ := strings.Cut(from, "/")
	m := &fsm.Message{Topic: topic, Data: []byte(data)}
	if to, private, ok := strings.Cut(data, ">"); ok {
		m.Data, m.Peers = []byte(private), []string{to}
	}
	return NewEphemeral("r", "s1", 7, fsm.By{Kind: fsm.CallerPeer, Peer: sender}, m)
}

func burst(texts ...string) *Burst {
	var items []*Ephemeral
	for _, text := range texts {
		items = append(items, note(text))
	}
	return NewBurst(items)
}

func texts(items []*Ephemeral) (texts []string) {
	for _, e := range items {
		to := ""
		if len(e.Message.Peers) > 0 {
			to = e.Message.Peers[0] + ">"
		}
		texts = append(texts, fmt.Sprintf("%s/%s %s%s", e.By.Peer, e.Message.Topic, to, e.Message.Data))
	}
	return texts
}

func TestLatest_KeepsTheLatestOfASlowReader(t *testing.T) {
	for name, test := range map[string]struct {
		bursts           []*Burst
		want             []string
		superseded, lost int
	}{
		"what comes together stays together": {
			bursts: []*Burst{burst("ada/like 1", "ada/like 2", "bob/like 3")},
			want:   []string{"ada/like 1", "ada/like 2", "bob/like 3"},
		},
		"a newer one of the sender and topic takes the place, at the end": {
			bursts:     []*Burst{burst("ada/cursor 1", "bob/cursor 1"), burst("ada/cursor 2", "ada/like 1")},
			want:       []string{"bob/cursor 1", "ada/cursor 2", "ada/like 1"},
			superseded: 1,
		},
		"one for others does not": {
			bursts: []*Burst{burst("ada/note eve>1", "ada/note 2"), burst("ada/note bob>3")},
			want:   []string{"ada/note eve>1", "ada/note 2", "ada/note bob>3"},
		},
		"beyond the bound the oldest go": {
			bursts: []*Burst{burst("a/t 1", "b/t 1", "c/t 1"), burst("d/t 1", "e/t 1"), burst("f/t 1")},
			want:   []string{"c/t 1", "d/t 1", "e/t 1", "f/t 1"}, lost: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var q Latest
			superseded, lost := 0, 0
			for _, b := range test.bursts {
				s, l := q.Add(b, nil, 4, 1<<20)
				superseded, lost = superseded+s, lost+l
			}
			if superseded != test.superseded || lost != test.lost {
				t.Errorf("%d superseded and %d lost, want %d and %d", superseded, lost, test.superseded, test.lost)
			}
			if d := cmp.Diff(test.want, texts(q.Take(1<<20))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestLatest_TakesWhatFits(t *testing.T) {
	var q Latest
	q.Add(burst("a/t 1", "b/t 1", "c/t 1"), nil, 10, 1<<20)
	size := note("a/t 1").Size()
	first := q.Take(2 * size)
	second := q.Take(1) // one at least
	if d := cmp.Diff([]string{"a/t 1", "b/t 1"}, texts(first)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"c/t 1"}, texts(second)); d != "" || q.Len() != 0 || q.Take(1) != nil {
		t.Error(d, q.Len())
	}
	q.Return(second)
	q.Return(first)
	if d := cmp.Diff([]string{"a/t 1", "b/t 1", "c/t 1"}, texts(q.Take(1<<20))); d != "" {
		t.Error(d)
	}
	if _, lost := q.Add(burst("a/t "+strings.Repeat("x", 1000)), nil, 10, 1); lost != 0 || q.Len() != 1 {
		t.Errorf("a single message over the bound: %d lost, %d wait", lost, q.Len())
	}
}

// Whatever comes and is taken: nothing twice, each sender's in order, no older one
// behind a newer burst's, and the bytes are those of the items.
func TestLatest_HoldsItsInvariants(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var q Latest
	last := map[string]int{}
	n := 0
	take := func() {
		for _, e := range q.Take(random.IntN(4000)) {
			var k int
			fmt.Sscan(string(e.Message.Data), &k)
			if k <= last[e.key] {
				t.Fatalf("%d of %s comes after %d", k, e.key, last[e.key])
			}
			last[e.key] = k
		}
	}
	for range 2000 {
		var items []string
		for range random.IntN(8) {
			n++
			items = append(items, fmt.Sprintf("p%d/t%d %d", random.IntN(4), random.IntN(2), n))
		}
		keep := func(*Ephemeral) bool { return random.IntN(5) > 0 }
		q.Add(burst(items...), keep, 12, 3000)
		size := 0
		for _, e := range q.items {
			size += e.Size()
		}
		if len(q.items) > 12 || size != q.bytes || size > 3000 && len(q.items) > 1 {
			t.Fatalf("%d items, %d bytes counted as %d", len(q.items), size, q.bytes)
		}
		if random.IntN(3) == 0 {
			take()
		}
	}
}
