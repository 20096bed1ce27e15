package fsm

// store is one namespace of a session. It may be changed in place while its
// generation is the state's; its entries are immutable. A store without entries
// does not exist.
type store struct {
	gen     uint64
	name    string
	entries tree[*Entry]
	bytes   int
}

// size is what an entry counts towards the session's bytes.
func size(key string, value []byte) int { return len(key) + len(value) }

// put stores an entry whose limits have been checked in the place of old, nil
// when absent, and keeps the session's sums and indices.
func (c *change) put(name string, e, old *Entry) {
	s, st := c.write(), c.writeStore(name)
	st.entries.write(c.s.gen).Set(e.Key, e)
	delta := size(e.Key, e.Value)
	if old != nil {
		delta -= size(old.Key, old.Value)
		c.unindex(name, old)
	} else {
		s.keys++
	}
	st.bytes += delta
	s.bytes += delta
	if e.Expires != 0 {
		s.timed.write(c.s.gen).Set(place(name, e.Key), struct{}{})
	}
	if e.Bound != "" {
		s.bound.write(c.s.gen).Set(place(e.Bound, place(name, e.Key)), struct{}{})
	}
}

// remove takes an entry away, and its store with its last.
func (c *change) remove(name string, e *Entry) {
	s, st := c.write(), c.writeStore(name)
	st.entries.write(c.s.gen).Delete(e.Key)
	n := size(e.Key, e.Value)
	st.bytes -= n
	s.bytes -= n
	s.keys--
	c.unindex(name, e)
	if st.entries.len() == 0 {
		s.stores.write(c.s.gen).Delete(name)
	}
}

// unindex takes an entry that goes out of the indices.
func (c *change) unindex(name string, e *Entry) {
	if e.Expires != 0 {
		c.ses.timed.write(c.s.gen).Delete(place(name, e.Key))
	}
	if e.Bound != "" {
		c.ses.bound.write(c.s.gen).Delete(place(e.Bound, place(name, e.Key)))
	}
}

// writeStore is a store for writing, made if the session has none of the name.
func (c *change) writeStore(name string) *store {
	s := c.write()
	st, ok := s.stores.get(name)
	switch {
	case !ok:
		st = &store{gen: c.s.gen, name: name}
	case st.gen != c.s.gen:
		clone := *st
		clone.gen = c.s.gen
		st = &clone
	default:
		return st
	}
	s.stores.write(c.s.gen).Set(name, st)
	return st
}

// fits checks the limits for a value under a key that holds old now.
func (c *change) fits(name, key string, value []byte, old *Entry) *Refusal {
	lim := &c.ses.Limits
	if len(value) > lim.ValueBytes {
		return overLimit("value_bytes", lim.ValueBytes, len(value))
	}
	if old != nil {
		return c.grows(name, 0, len(value)-len(old.Value))
	}
	return c.grows(name, 1, size(key, value))
}

// grows checks the limits of a store that gets more keys and bytes, or fewer. What
// makes it smaller is always let through.
func (c *change) grows(name string, keys, bytes int) *Refusal {
	lim := &c.ses.Limits
	if keys > 0 {
		total := keys
		if st, ok := c.ses.stores.get(name); ok {
			total += st.entries.len()
		} else if n := c.ses.countStores() + 1; n > lim.Stores && name != DefaultStore {
			return overLimit("stores", lim.Stores, n)
		}
		if total > lim.KeysPerStore {
			return overLimit("keys_per_store", lim.KeysPerStore, total)
		}
	}
	if bytes > 0 && c.ses.bytes+bytes > lim.SessionBytes {
		return overLimit("session_bytes", lim.SessionBytes, c.ses.bytes+bytes)
	}
	return nil
}

// countStores counts the default store whether or not it holds anything.
func (s *Session) countStores() int {
	n := s.stores.len()
	if _, ok := s.stores.get(DefaultStore); !ok {
		n++
	}
	return n
}
