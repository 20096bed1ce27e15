package fsm

import (
	"cmp"
	"slices"
)

// edit is what a write of several keys does to one of them.
type edit struct {
	key   string
	old   *Entry // nil when absent
	value []byte // nil: deleted
}

// merges are the edits of an OpMerge.
func (c *change) merges(op *Operation) []edit {
	edits := make([]edit, 0, len(op.Set)+len(op.Delete))
	for i := range op.Set {
		kv := &op.Set[i]
		edits = append(edits, edit{kv.Key, c.ses.Entry(op.Store, kv.Key), kv.Value})
	}
	for _, key := range op.Delete {
		if old := c.ses.Entry(op.Store, key); old != nil {
			edits = append(edits, edit{key, old, nil})
		}
	}
	sortEdits(edits)
	return edits
}

// replaces are the edits of an OpReplace. Comparing values counts as work.
func (c *change) replaces(op *Operation) (edits []edit, no *Refusal) {
	for i := range op.Set {
		kv := &op.Set[i]
		old := c.ses.Entry(op.Store, kv.Key)
		if old != nil {
			if !c.work.spend(len(old.Value) + len(kv.Value)) {
				return nil, c.overWork()
			}
			if EqualJSON(old.Value, kv.Value) {
				continue
			}
		}
		edits = append(edits, edit{kv.Key, old, kv.Value})
	}
	c.ses.Entries(op.Store, "", "", func(e *Entry) bool {
		if _, stays := op.setTo(e.Key); !stays {
			edits = append(edits, edit{e.Key, e, nil})
		}
		return true
	})
	sortEdits(edits)
	return edits, nil
}

func sortEdits(edits []edit) {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.key, b.key) })
}

// deletesPrefix are the edits of an OpDeletePrefix.
func (c *change) deletesPrefix(op *Operation) (edits []edit) {
	c.ses.Entries(op.Store, op.Key, "", func(e *Entry) bool {
		edits = append(edits, edit{e.Key, e, nil})
		return true
	})
	return edits
}

// setTo finds a key among those that an operation sets.
func (op *Operation) setTo(key string) (at int, ok bool) {
	return slices.BinarySearchFunc(op.Set, key, func(kv KeyValue, key string) int { return cmp.Compare(kv.Key, key) })
}

// fenceOf finds the fence that is named for a key.
func fenceOf(fences []KeyFence, key string) (at int, ok bool) {
	return slices.BinarySearchFunc(fences, key, func(f KeyFence, key string) int { return cmp.Compare(f.Key, key) })
}

// edit makes all edits, or refuses before the first: limits, then locks.
func (c *change) edit(store string, edits []edit, fences []KeyFence, reason string) *Refusal {
	if no := c.editsFit(store, edits); no != nil {
		return no
	}
	for i := range fences {
		if no := c.guard(store, fences[i].Key, fences[i].Fence); no != nil {
			return no
		}
	}
	for i := range edits {
		if _, named := fenceOf(fences, edits[i].key); named {
			continue
		}
		if no := c.guard(store, edits[i].key, 0); no != nil {
			return no
		}
	}
	for i := range edits {
		e := &edits[i]
		if e.value == nil {
			c.delete(store, e.old, reason)
			continue
		}
		next := c.newEntry(e.key, e.value, e.old)
		next.keeps(e.old)
		c.store(store, next, e.old)
	}
	return nil
}

// editsFit checks the limits of what the store and the session hold afterwards.
func (c *change) editsFit(name string, edits []edit) *Refusal {
	lim := &c.ses.Limits
	keys, bytes := 0, 0
	for i := range edits {
		e := &edits[i]
		if e.value != nil {
			if len(e.value) > lim.ValueBytes {
				return overLimit("value_bytes", lim.ValueBytes, len(e.value))
			}
			keys++
			bytes += size(e.key, e.value)
		}
		if e.old != nil {
			keys--
			bytes -= size(e.key, e.old.Value)
		}
	}
	return c.grows(name, keys, bytes)
}
