package fsm

import (
	"container/list"
	"slices"
	"sort"
	"sync"
)

// ringBytes is what a ring holds at least. A session that changes often keeps its
// last events in it; whoever is further behind gets a snapshot. What a snapshot
// takes, the ring holds too: so a reader whose link carries more than the session
// brings finds everything there that came while it was taking its snapshot.
const ringBytes = 1 << 20

// Ring holds the recent frames of one session, for resumption and fan-out. The
// machine appends, any goroutine reads. It lives outside the replicated state:
// after a restart, an installed snapshot or a long silence it is empty, with the
// session's last event revision as its floor.
type Ring struct {
	session string

	place *list.Element // among the rings that hold frames, nil if it has none; the machine's mu guards it
	heard int64         // cluster time of the newest frame; likewise

	mu       sync.RWMutex
	slots    []slot // oldest first
	floor    uint64
	total    int64 // bytes ever appended
	closed   bool
	restored bool
}

// slot is a frame with the sum of bytes up to and including it, so that any
// difference is a subtraction.
type slot struct {
	frame *Frame
	upTo  int64
}

func newRing(session string, floor uint64) *Ring { return &Ring{session: session, floor: floor} }

// Session is the id of the session whose ring it is.
func (r *Ring) Session() string { return r.session }

// Floor is the revision of the newest event that the ring no longer holds:
// whoever has seen everything up to it, or more, can go on without a gap.
func (r *Ring) Floor() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.floor
}

// After returns, oldest first, the frames with rev in (after, upTo], and whether
// the ring still holds everything after `after`. It stops early once the frames
// reach maxBytes (but returns at least one); more then says so.
func (r *Ring) After(after, upTo uint64, maxBytes int) (frames []*Frame, more, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if after < r.floor {
		return nil, false, false
	}
	from := r.first(after)
	to := r.first(upTo)
	if from >= to {
		return nil, false, true
	}
	start := r.before(from)
	end := from + 1
	for end < to && r.slots[end].upTo-start <= int64(maxBytes) {
		end++
	}
	frames = make([]*Frame, 0, end-from)
	for _, s := range r.slots[from:end] {
		frames = append(frames, s.frame)
	}
	return frames, end < to, true
}

// Backlog is the size in bytes (about, as encoded) of the frames after a revision.
func (r *Ring) Backlog(after uint64) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int(r.total - r.before(r.first(after)))
}

// Closed reports that nothing will be appended any more: the session has ended
// (its last frame says so), or a restore has replaced the state.
func (r *Ring) Closed() (closed, restored bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.closed, r.restored
}

// first is the index of the first frame after a revision.
func (r *Ring) first(after uint64) int {
	n := len(r.slots)
	if n == 0 || r.slots[n-1].frame.Rev <= after {
		return n
	}
	return sort.Search(n, func(i int) bool { return r.slots[i].frame.Rev > after })
}

// before is the sum of bytes before the frame at an index.
func (r *Ring) before(i int) int64 {
	if i == len(r.slots) {
		return r.total
	}
	return r.slots[i].upTo - int64(r.slots[i].frame.bytes())
}

// append adds a frame and drops the oldest beyond the bound, which is most bytes
// if that is more than ringBytes; the newest stays whatever its size.
func (r *Ring) append(f *Frame, most int, last bool) {
	most = max(most, ringBytes)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total += int64(f.bytes())
	r.slots = append(r.slots, slot{f, r.total})
	drop := 0
	for drop < len(r.slots)-1 && r.total-r.before(drop) > int64(most) {
		drop++
	}
	if drop > 0 {
		r.floor = r.slots[drop-1].frame.Rev
		clear(r.slots[:drop])
		r.slots = r.slots[drop:]
		if 4*len(r.slots) < cap(r.slots) {
			r.slots = slices.Clone(r.slots)
		}
	}
	r.closed = r.closed || last
}

// letGo drops all frames. Who has seen the last of them can still go on.
func (r *Ring) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.slots); n > 0 {
		r.floor, r.slots = r.slots[n-1].frame.Rev, nil
	}
}

func (r *Ring) close(restored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.restored = true, restored
}

// eventBytes is about what an event costs besides what users sent; it is not more
// than what the shortest takes on the wire.
const eventBytes = 160

func (f *Frame) bytes() int {
	n := 32
	for _, e := range f.Events {
		n += eventBytes + len(e.Key) + len(e.Data)
		if e.Entry != nil {
			n += len(e.Entry.Value)
		}
		if e.To != nil {
			n += len(e.Topic) + e.To.bytes()
		}
		if e.Peer != nil {
			n += len(e.Peer.Data) + len(e.Peer.Name) + len(e.Peer.Ref)
		}
	}
	return n
}

// bytes is about what the names of recipients take.
func (to *Recipients) bytes() (n int) {
	for _, list := range [...][]string{to.Peers, to.Refs, to.Roles} {
		for _, who := range list {
			n += 16 + len(who)
		}
	}
	return n
}
