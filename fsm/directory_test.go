package fsm

import "testing"

// TestG9_ALostDirectorysNumbersAreNotUsedAgain: a node that starts with an empty
// directory counts from the beginning, in numbers of its own: its registration
// takes over from the former one, whichever number is greater, and what the former
// one sent is late from then on.
func TestG9_ALostDirectorysNumbersAreNotUsedAgain(t *testing.T) {
	const low, high = uint64(3)<<StartBits | 1, uint64(9)<<StartBits | 1
	for name, test := range map[string]struct{ former, present uint64 }{
		"of a lower directory":   {high + 4, low},
		"of a greater directory": {low + 4, high},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			send := func(incarnation, seq uint64) BatchStatus {
				b := Batch{Node: "n2", Incarnation: incarnation, Seq: seq}
				if seq == 0 {
					b.Register = &Register{}
				}
				return w.propose(&Proposal{Batches: []Batch{b}}).Batches[0].Status
			}
			for _, step := range []struct {
				incarnation, seq uint64
				want             BatchStatus
			}{
				{test.former, 0, BatchApplied},
				{test.former, 1, BatchApplied},
				{test.former - 1, 0, BatchStale}, // an earlier start of the same directory
				{test.present, 1, BatchStale},    // not registered yet
				{test.present, 0, BatchApplied},
				{test.former, 2, BatchStale},
				{test.present, 1, BatchApplied},
				{test.present, 0, BatchRepeated},
				{test.present + 1, 0, BatchApplied},
				{test.present, 2, BatchStale},
			} {
				if got := send(step.incarnation, step.seq); got != step.want {
					t.Errorf("incarnation %d, number %d: status %d, want %d", step.incarnation, step.seq, got, step.want)
				}
			}
		})
	}
}
