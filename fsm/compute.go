package fsm

// A computation gives the value that a write stores, from the one that is there
// (nil when absent). It is a pure function of texts.

// work is what computing may still cost in a transaction, in bytes split, compared
// or copied. The one goroutine that applies must not stand still for one caller's
// patches; short ones can ask for much.
type work int

// minWork is what any session grants a transaction; see worksFor.
const minWork = 4 << 20

// worksFor is enough to compare all that a session may hold, and besides for many
// splits of its largest value.
func worksFor(lim *Limits) work { return work(max(minWork, 16*lim.ValueBytes) + lim.SessionBytes) }

// spend takes n from what is left; false when that is not enough.
func (w *work) spend(n int) bool {
	*w -= work(n)
	return *w >= 0
}

func (c *change) overWork() *Refusal {
	most := int(worksFor(&c.ses.Limits))
	return overLimit("work_bytes", most, most-int(c.work))
}

// compute runs an operation on the value that is there. It refuses with bad_request
// what is malformed, and with limit_exceeded what is too large; all other refusals
// are about the value.
func (c *change) compute(op *Operation, old []byte) ([]byte, *Refusal) {
	depth, ok := jsonDepth(op.Value)
	switch {
	case !ok:
		return nil, badRequest("value", "value is not JSON")
	case depth > maxDocumentDepth:
		return nil, overLimit("depth", maxDocumentDepth, depth)
	case !c.work.spend(len(old) + len(op.Value)):
		return nil, c.overWork()
	}
	switch op.Kind {
	case OpUpdate:
		return updateValue(op, old)
	case OpAppend:
		return appendItems(op, old)
	case OpRemove:
		return removeItems(op, old)
	case OpAdd:
		return addNumber(op, old)
	}
	if op.Steps {
		return c.patch(op, old)
	}
	m := merger{work: &c.work}
	value := m.merge(old, op.Value)
	switch {
	case m.over:
		return nil, c.overWork()
	case m.malformed:
		return nil, badRequest("merge", "merge has a member twice")
	}
	return value, nil
}

func wrongType(op *Operation, text []byte) *Refusal {
	return &Refusal{
		Code: CodeWrongType, Message: "the value is of another type",
		Details: Details{Store: op.Store, Key: op.Key, Type: jsonType(text)},
	}
}

// updateValue appends an array to an array, puts the members of an object into an
// object, and else replaces.
func updateValue(op *Operation, old []byte) ([]byte, *Refusal) {
	kind := jsonType(op.Value)
	if kind != "object" && kind != "array" || jsonType(old) != kind {
		return op.Value, nil
	}
	if kind == "array" {
		return concatenate(op, old, op.Value)
	}
	add, ok := splitObject(op.Value)
	if !ok {
		return nil, badRequest("value", "value has a member twice")
	}
	members, ok := splitObject(old)
	if !ok {
		return nil, wrongType(op, old)
	}
	at := make(map[string]int, len(members))
	for i := range members {
		at[members[i].name] = i
	}
	for _, m := range add {
		if i, ok := at[m.name]; ok {
			members[i].value = m.value
		} else {
			members = append(members, m)
		}
	}
	return joinObject(members), nil
}

// concatenate joins two arrays without looking into the one that is stored.
func concatenate(op *Operation, old, more []byte) ([]byte, *Refusal) {
	items, ok := splitArray(more)
	switch {
	case !ok:
		return nil, badRequest("value", "value is not an array")
	case len(old) < 2 || old[0] != '[' || old[len(old)-1] != ']':
		return nil, wrongType(op, old)
	case len(items) == 0:
		return old, nil
	case len(old) == 2:
		return joinArray(items), nil
	}
	tail := joinArray(items)
	value := append(make([]byte, 0, len(old)+len(tail)), old[:len(old)-1]...)
	value = append(value, ',')
	return append(value, tail[1:]...), nil
}

// appendItems puts items at the end of an array; with Unique those only that are
// not in it.
func appendItems(op *Operation, old []byte) ([]byte, *Refusal) {
	if jsonType(op.Value) != "array" {
		return nil, badRequest("values", "values must be an array")
	}
	if old == nil {
		old = []byte("[]")
	}
	if jsonType(old) != "array" {
		return nil, wrongType(op, old)
	}
	if !op.Unique {
		return concatenate(op, old, op.Value)
	}
	have, ok := splitArray(old)
	if !ok {
		return nil, wrongType(op, old)
	}
	seen := make(map[string]struct{}, len(have))
	for _, item := range have {
		seen[string(canonical(item))] = struct{}{}
	}
	var fresh [][]byte
	items, _ := splitArray(op.Value)
	for _, item := range items {
		name := string(canonical(item))
		if _, double := seen[name]; !double {
			seen[name] = struct{}{}
			fresh = append(fresh, item)
		}
	}
	return concatenate(op, old, joinArray(fresh))
}

// removeItems takes every item out of an array that is equal to one of those given.
func removeItems(op *Operation, old []byte) ([]byte, *Refusal) {
	if jsonType(op.Value) != "array" {
		return nil, badRequest("values", "values must be an array")
	}
	if old == nil {
		return nil, nil
	}
	items, ok := splitArray(old)
	if !ok {
		return nil, wrongType(op, old)
	}
	given, _ := splitArray(op.Value)
	out := make(map[string]struct{}, len(given))
	for _, item := range given {
		out[string(canonical(item))] = struct{}{}
	}
	kept := items[:0]
	for _, item := range items {
		if _, gone := out[string(canonical(item))]; !gone {
			kept = append(kept, item)
		}
	}
	return joinArray(kept), nil
}

// addNumber adds exactly; see decimal. Adding nothing leaves the digits alone.
func addNumber(op *Operation, old []byte) ([]byte, *Refusal) {
	by, no, ok := parseDecimal(op.Value)
	switch {
	case !ok:
		return nil, badRequest("by", "by must be a number")
	case no != nil:
		return nil, no
	case old == nil:
		old = []byte("0")
	}
	n, no, ok := parseDecimal(old)
	switch {
	case !ok:
		return nil, wrongType(op, old)
	case by.text == "":
		return old, nil
	case no != nil:
		return nil, no
	}
	if n, no = n.add(by); no != nil {
		return nil, no
	}
	return n.appendTo(nil), nil
}

// merger applies an RFC 7396 merge patch. Each level is split anew, which counts as
// work; members keep their places, new ones follow in the patch's order.
type merger struct {
	work            *work
	over, malformed bool // of no result, then
}

func (m *merger) merge(target, patch []byte) []byte {
	if jsonType(patch) != "object" {
		return patch
	}
	if !m.work.spend(len(target) + len(patch)) {
		m.over = true
		return nil
	}
	changes, ok := splitObject(patch)
	if !ok {
		m.malformed = true
		return nil
	}
	members, _ := splitObject(target) // of anything else than an object: none
	with := make(map[string][]byte, len(changes))
	for i := range changes {
		with[changes[i].name] = changes[i].value
	}
	merged := make([]member, 0, len(members)+len(changes))
	for _, old := range members {
		change, named := with[old.name]
		delete(with, old.name)
		if named && jsonType(change) == "null" {
			continue
		}
		if named {
			old.value = m.merge(old.value, change)
		}
		merged = append(merged, old)
	}
	for _, fresh := range changes {
		if _, left := with[fresh.name]; left && jsonType(fresh.value) != "null" {
			fresh.value = m.merge(nil, fresh.value)
			merged = append(merged, fresh)
		}
	}
	if m.over || m.malformed {
		return nil
	}
	return joinObject(merged)
}
