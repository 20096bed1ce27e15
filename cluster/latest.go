package cluster

// Burst is ephemeral messages that came together. One goroutine uses it at a time.
type Burst struct {
	items []*Ephemeral
	keys  map[string]struct{} // made when a reader is found to be slow
}

// NewBurst makes a burst; it is in the order of sending.
func NewBurst(items []*Ephemeral) *Burst { return &Burst{items: items} }

// has reports whether the burst has a newer message in place of e: one of the same
// sender on the same topic, for the same recipients.
func (b *Burst) has(e *Ephemeral) bool {
	if b.keys == nil {
		b.keys = make(map[string]struct{}, len(b.items))
		for _, e := range b.items {
			b.keys[e.key] = struct{}{}
		}
	}
	_, ok := b.keys[e.key]
	return ok
}

// Latest is what waits for one reader, in the order of sending. A reader that
// takes each burst before the next comes gets everything. For one that is slower,
// what it has not taken gives way to what is newer in its place. The zero value is
// empty.
type Latest struct {
	items []*Ephemeral
	bytes int
}

// Add takes in those of a burst that keep picks; nil picks all. superseded is how
// many gave way to newer ones, lost how many of the oldest went because there was
// no room: for items, and for bytes, which a single message may exceed.
func (q *Latest) Add(b *Burst, keep func(*Ephemeral) bool, items, bytes int) (superseded, lost int) {
	if len(b.items) == 0 {
		return 0, 0
	}
	if len(q.items) > 0 {
		left := q.items[:0]
		for _, old := range q.items {
			if b.has(old) {
				q.bytes -= old.Size()
				superseded++
				continue
			}
			left = append(left, old)
		}
		clear(q.items[len(left):])
		q.items = left
	}
	for _, e := range b.items {
		if keep == nil || keep(e) {
			q.items = append(q.items, e)
			q.bytes += e.Size()
		}
	}
	for len(q.items) > items || q.bytes > bytes && len(q.items) > 1 {
		q.bytes -= q.items[0].Size()
		lost++
		q.items = q.items[1:]
	}
	return superseded, lost
}

// Len is how many wait.
func (q *Latest) Len() int { return len(q.items) }

// Take takes out as many of the oldest as fit into bytes, but one at least if any
// waits.
func (q *Latest) Take(bytes int) []*Ephemeral {
	n, size := 0, 0
	for n < len(q.items) && (n == 0 || size+q.items[n].Size() <= bytes) {
		size += q.items[n].Size()
		n++
	}
	taken := q.items[:n:n]
	if q.items, q.bytes = q.items[n:], q.bytes-size; len(q.items) == 0 {
		*q = Latest{} // an idle reader keeps no memory
	}
	return taken
}

// Return puts back, before everything else, what was taken.
func (q *Latest) Return(taken []*Ephemeral) {
	if len(taken) == 0 {
		return
	}
	for _, e := range taken {
		q.bytes += e.Size()
	}
	q.items = append(taken[:len(taken):len(taken)], q.items...)
}
