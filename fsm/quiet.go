package fsm

import "container/list"

// quietTime is for how long, in ms of cluster time, nothing has happened in a
// session when its ring lets go of its frames. It is the longest grace that a peer
// can have: who comes back to its place finds in the ring what it missed.
const quietTime = 10 * 60 * 1000

// quietMost is how many rings one publication relieves at most, so that applying
// never waits long for rooms that fell silent together.
const quietMost = 1024

// quiet knows the rings that hold frames, the one that was silent for longest
// first. Most rooms of a large installation are silent, and the frames of one cost
// as much memory as its state.
type quiet struct {
	order list.List // of *Ring
}

// heard notes that a ring was appended to at a cluster time.
func (q *quiet) heard(r *Ring, now int64) {
	if r.heard = now; r.place == nil {
		r.place = q.order.PushBack(r)
		return
	}
	q.order.MoveToBack(r.place)
}

// drop forgets a ring.
func (q *quiet) drop(r *Ring) {
	if r.place != nil {
		q.order.Remove(r.place)
		r.place = nil
	}
}

// relieve has those rings let go of their frames that were silent for long.
func (q *quiet) relieve(now int64) {
	for range quietMost {
		first := q.order.Front()
		if first == nil {
			return
		}
		r := first.Value.(*Ring)
		if r.heard+quietTime > now {
			return
		}
		q.drop(r)
		r.letGo()
	}
}
