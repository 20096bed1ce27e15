package fsm

import (
	"slices"
	"testing"
)

func ringFrame(rev uint64, size int) *Frame {
	return newFrame(rev, []*Event{{Type: EventPut, Rev: rev, Entry: &Entry{Value: make([]byte, size)}}})
}

func TestRing_Bounds(t *testing.T) {
	t.Run("of small frames", func(t *testing.T) {
		r := newRing("s", 5)
		size := ringFrame(1, 0).bytes()
		holds := uint64(ringBytes / size)
		for i := range 3 * holds {
			r.append(ringFrame(10+2*i, 0), 0, false)
		}
		first := 10 + 2*2*holds
		if r.Floor() != first-2 {
			t.Errorf("floor %d, want %d", r.Floor(), first-2)
		}
		if frames, _, ok := r.After(r.Floor(), 1<<60, 1<<30); !ok || len(frames) != int(holds) || frames[0].Rev != first {
			t.Errorf("%d frames", len(frames))
		}
		if _, _, ok := r.After(r.Floor()-1, 1<<60, 1<<30); ok {
			t.Error("it has what it dropped")
		}
	})
	t.Run("as much as the session takes", func(t *testing.T) {
		r := newRing("s", 0)
		for i := range uint64(100) {
			r.append(ringFrame(i+1, 64<<10), 3*ringBytes, false)
		}
		if n := r.Backlog(0); n > 3*ringBytes || n < 5*ringBytes/2 {
			t.Errorf("it holds %d bytes", n)
		}
		r.append(ringFrame(101, 0), 0, false) // the session has become small
		if n := r.Backlog(0); n > ringBytes {
			t.Errorf("it holds %d bytes", n)
		}
	})
	t.Run("in bytes", func(t *testing.T) {
		r := newRing("s", 0)
		for i := range uint64(100) {
			r.append(ringFrame(i+1, 64<<10), 0, false)
		}
		if n := r.Backlog(0); n > ringBytes || n < ringBytes/2 {
			t.Errorf("it holds %d bytes", n)
		}
	})
	t.Run("one frame larger than the bound is kept", func(t *testing.T) {
		r := newRing("s", 0)
		r.append(ringFrame(1, 10), 0, false)
		r.append(ringFrame(2, 2*ringBytes), 0, false)
		if frames, more, ok := r.After(1, 2, 100); !ok || more || !slices.Equal(revs(frames), []uint64{2}) || r.Floor() != 1 {
			t.Errorf("frames %v, floor %d", revs(frames), r.Floor())
		}
	})
}

func TestRing_After(t *testing.T) {
	r := newRing("s", 10)
	for _, rev := range []uint64{11, 15, 16, 30} {
		r.append(ringFrame(rev, 1000), 0, false)
	}
	tests := []struct {
		name        string
		after, upTo uint64
		bytes       int
		want        []uint64
		more, ok    bool
	}{
		{"all", 10, 30, 1 << 20, []uint64{11, 15, 16, 30}, false, true},
		{"between frames", 12, 20, 1 << 20, []uint64{15, 16}, false, true},
		{"nothing new", 30, 40, 1 << 20, nil, false, true},
		{"nothing yet", 31, 40, 1 << 20, nil, false, true},
		{"before the view", 16, 29, 1 << 20, nil, false, true},
		{"at least one", 10, 30, 1, []uint64{11}, true, true},
		{"as many as fit", 10, 30, 2500, []uint64{11, 15}, true, true},
		{"below the floor", 9, 30, 1 << 20, nil, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			frames, more, ok := r.After(test.after, test.upTo, test.bytes)
			if !slices.Equal(revs(frames), test.want) || more != test.more || ok != test.ok {
				t.Errorf("got %v, more %v, ok %v", revs(frames), more, ok)
			}
		})
	}
	if all, some := r.Backlog(10), r.Backlog(15); all <= some || some < 2000 || r.Backlog(30) != 0 {
		t.Errorf("backlogs %d, %d, %d", all, some, r.Backlog(30))
	}
}
