package fsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// modelLimits are so small that histories run into them.
var modelLimits = func() Limits {
	l := standardLimits
	l.ValueBytes, l.KeysPerStore, l.SessionBytes, l.MessageBytes, l.LockWaiters = 60, 4, 110, 12, 3
	return l
}()

var modelKeys = []string{"a", "b", "c", "p/x", "p/y"}

func (m *model) clone() *model {
	c := *m
	c.entries, c.locks, c.fences = maps.Clone(m.entries), maps.Clone(m.locks), maps.Clone(m.fences)
	for key, l := range c.locks {
		c.locks[key] = l.clone()
	}
	return &c
}

// changes are what a write does to the keys: nil deletes.
type changes map[string]*string

// fits is the code with which changes are refused for what there would be then.
func (m *model) fits(by changes) Code {
	keys, before, after := len(m.entries), 0, 0
	for key, value := range by {
		if value != nil && len(*value) > modelLimits.ValueBytes {
			return CodeLimitExceeded
		}
		if e, ok := m.entries[key]; ok {
			keys--
			before += len(key) + len(e.value)
		}
		if value != nil {
			keys++
			after += len(key) + len(*value)
		}
	}
	total := after - before
	for key, e := range m.entries {
		total += len(key) + len(e.value)
	}
	if keys > len(m.entries) && keys > modelLimits.KeysPerStore || after > before && total > modelLimits.SessionBytes {
		return CodeLimitExceeded
	}
	return ""
}

// set stores a value; without keep it clears when the entry ends.
func (m *model) set(op *Operation, key, value string, keep bool, rev uint64) {
	e := m.entries[key]
	next := modelEntry{value: value, version: e.version + 1, rev: rev}
	if keep {
		next.bound, next.expires = e.bound, e.expires
	}
	if op.TTL > 0 {
		next.expires = m.now + op.TTL
	}
	if op.Bind != "" {
		next.bound = op.Bind
	}
	m.entries[key] = next
}

// operation does one step of a transaction of who; acquired are the locks that it
// took before.
func (m *model) operation(op *Operation, who string, rev uint64, acquired map[string]bool) (no Code, changed bool) {
	e, exists := m.entries[op.Key]
	admitted := func() Code {
		if no := m.guard(op.Key, who, op.Fence, acquired[op.Key]); no != "" {
			return no
		}
		if op.If != nil && (op.If.Absent && exists || op.If.Rev != nil && *op.If.Rev != e.rev || op.If.Value != nil &&
			(!exists || !naiveEqual(decodeNaive(string(op.If.Value)), decodeNaive(e.value)))) {
			return CodeConflict
		}
		return ""
	}
	switch op.Kind {
	case OpPut:
		value := string(op.Value)
		if no = m.fits(changes{op.Key: &value}); no == "" {
			no = admitted()
		}
		if no == "" {
			m.set(op, op.Key, value, false, rev)
		}
		return no, no == ""
	case OpUpdate, OpAppend, OpRemove, OpAdd, OpPatch:
		value, wrong := naiveCompute(op, e.value, modelLimits.ValueBytes)
		if wrong == "" && value != "" {
			wrong = m.fits(changes{op.Key: &value})
		}
		if wrong == CodeLimitExceeded {
			return wrong, false
		}
		if no = admitted(); no == "" {
			no = wrong
		}
		if no != "" || value == "" || value == e.value && op.TTL == 0 && op.Bind == "" {
			return no, false
		}
		m.set(op, op.Key, value, true, rev)
		return "", true
	case OpDelete:
		if no = admitted(); no != "" || !exists {
			return no, false
		}
		delete(m.entries, op.Key)
		return "", true
	case OpMerge, OpReplace, OpDeletePrefix:
		return m.several(op, who, rev, acquired)
	case OpSend:
		if len(op.Message.Data) > modelLimits.MessageBytes {
			return CodeLimitExceeded, false
		}
		return "", true
	case OpAcquire:
		no, _, changed = m.acquire(op.Key, op.Lock.asks(who), 0, rev)
		acquired[op.Key] = true
	case OpRelease:
		no, changed = m.release(op.Key, who, op.Fence, op.Break, rev)
	}
	return no, changed
}

// several does what changes several keys.
func (m *model) several(op *Operation, who string, rev uint64, acquired map[string]bool) (no Code, changed bool) {
	by := changes{}
	for key := range m.entries {
		if op.Kind == OpReplace || op.Kind == OpDeletePrefix && strings.HasPrefix(key, op.Key) || slices.Contains(op.Delete, key) {
			by[key] = nil
		}
	}
	for _, kv := range op.Set {
		value := string(kv.Value)
		e, exists := m.entries[kv.Key]
		if by[kv.Key] = &value; op.Kind == OpReplace && exists && naiveEqual(decodeNaive(e.value), decodeNaive(value)) {
			delete(by, kv.Key)
		}
	}
	if no := m.fits(by); no != "" {
		return no, false
	}
	fences := map[string]uint64{}
	for _, f := range op.Fences {
		fences[f.Key] = f.Fence
		if no := m.guard(f.Key, who, f.Fence, false); no != "" {
			return no, false
		}
	}
	for _, key := range slices.Sorted(maps.Keys(by)) {
		if fences[key] == 0 {
			if no := m.guard(key, who, 0, acquired[key]); no != "" {
				return no, false
			}
		}
	}
	for key, value := range by {
		if value == nil {
			delete(m.entries, key)
		} else {
			m.set(op, key, *value, true, rev)
		}
	}
	return "", len(by) > 0
}

// write is one operation, txn several of which each sees what those before did.
func (c *checked) write(t *rapid.T) { c.operations(t, 1) }
func (c *checked) txn(t *rapid.T)   { c.operations(t, rapid.IntRange(2, 4).Draw(t, "operations")) }

func (c *checked) operations(t *rapid.T, n int) {
	who, want := c.who(t)
	ops := make([]Operation, n)
	for i := range ops {
		ops[i] = c.operation(t, who)
	}
	cmd := Command{Kind: CommandTxn, Room: modelRoom, Caller: c.caller(who), Txn: &Txn{Then: ops, Single: n == 1}}
	changed, refused := false, 0
	after := c.m.clone()
	acquired := map[string]bool{}
	for i := 0; i < n && want == ""; i++ {
		var changes bool
		if want, changes = after.operation(&ops[i], who, c.m.rev+1, acquired); want != "" {
			refused = i
		}
		changed = changed || changes
	}
	inSession := c.m.session != ""
	before := c.m
	if want == "" {
		c.m = after
	}
	r := c.run(cmd, want, changed && want == "")
	switch {
	case want == "":
		c.answered(ops[n-1], r.Ops[n-1])
	case want == CodeConflict:
		op := ops[refused]
		if d := r.Refusal.Details; n == 1 && (d.Version != before.entries[op.Key].version || string(d.Value) != before.entries[op.Key].value) {
			t.Fatalf("the conflict tells of %+v, the entry is %+v", d, before.entries[op.Key])
		}
	}
	if n > 1 && inSession && want != "" && want != CodeUnavailable && *r.Refusal.Details.Index != refused {
		t.Fatalf("operation %d is refused, want %d", *r.Refusal.Details.Index, refused)
	}
}

// answered holds the answer to the last operation against the model.
func (c *checked) answered(op Operation, got OpResult) {
	c.t.Helper()
	e := c.m.entries[op.Key]
	switch op.Kind {
	case OpPut:
		if got.Version != e.version || got.Rev != e.rev {
			c.t.Fatalf("a put answers %+v, the entry is %+v", got, e)
		}
	case OpUpdate, OpAppend, OpRemove, OpAdd, OpPatch:
		if value := string(got.Value); value != e.value && (e.version > 0 || value != "[]") || got.Version != e.version || got.Rev != e.rev {
			c.t.Fatalf("%+v answers %+v, the entry is %+v", op, got, e)
		}
	}
}

// operation draws one that changes something, or nothing.
func (c *checked) operation(t *rapid.T, who string) Operation {
	key := rapid.SampledFrom(modelKeys).Draw(t, "key")
	op := Operation{Store: DefaultStore, Key: key, Fence: c.fence(t, key), Kind: rapid.SampledFrom([]OpKind{
		OpPut, OpPut, OpDelete, OpUpdate, OpUpdate, OpAppend, OpRemove, OpAdd, OpPatch, OpPatch, OpMerge, OpReplace, OpDeletePrefix, OpSend, OpAcquire, OpRelease,
	}).Draw(t, "kind")}
	switch op.Kind {
	case OpPut, OpUpdate:
		op.Value = []byte(drawJSON(t, 2))
	case OpAppend, OpRemove:
		op.Value = []byte("[" + strings.Join(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawJSON(t, 1) }), 0, 3).Draw(t, "items"), ",") + "]")
		op.Unique = rapid.Bool().Draw(t, "unique")
	case OpAdd:
		op.Value = []byte(rapid.SampledFrom(modelNumbers).Draw(t, "by"))
	case OpPatch:
		op.Value = []byte(drawJSON(t, 2))
		if op.Steps = rapid.Bool().Draw(t, "steps"); op.Steps {
			op.Value = []byte(drawSteps(t))
		}
	case OpMerge, OpReplace, OpDeletePrefix:
		return c.drawSeveral(t, op)
	case OpSend:
		return Operation{Kind: OpSend, Message: &Message{Topic: "chat", Data: []byte(drawJSON(t, 1))}}
	case OpAcquire:
		return Operation{Kind: OpAcquire, Store: DefaultStore, Key: key, Lock: lockRequest(t, who)}
	case OpRelease:
		op.Break = rapid.IntRange(0, 4).Draw(t, "break") == 0
		return op
	}
	e := c.m.entries[key]
	switch rapid.IntRange(0, 9).Draw(t, "if") {
	case 0:
		op.If = &If{Rev: &e.rev}
	case 1:
		wrong := e.rev + 1
		op.If = &If{Rev: &wrong}
	case 2:
		op.If = &If{Absent: true}
	case 3:
		op.If = &If{Value: []byte(drawJSON(t, 0))}
	}
	if op.Kind != OpDelete {
		if who != job && rapid.IntRange(0, 3).Draw(t, "bind") == 0 && c.m.session != "" {
			op.Bind = who
		}
		op.TTL = int64(rapid.SampledFrom([]int{0, 0, 0, 5000}).Draw(t, "ttl"))
	}
	return op
}

func (c *checked) drawSeveral(t *rapid.T, op Operation) Operation {
	op.Key, op.Fence = "", 0
	for _, key := range modelKeys {
		if f := c.fence(t, key); f != 0 && rapid.IntRange(0, 1).Draw(t, "name it") == 0 {
			op.Fences = append(op.Fences, KeyFence{key, f})
		}
		if op.Kind == OpDeletePrefix {
			continue
		}
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			op.Set = append(op.Set, KeyValue{key, []byte(drawJSON(t, 1))})
		case 1: // equal, or nearly
			if e, ok := c.m.entries[key]; ok {
				op.Set = append(op.Set, KeyValue{key, []byte(strings.ReplaceAll(e.value, "1.0", "1"))})
			}
		case 2:
			if op.Kind == OpMerge {
				op.Delete = append(op.Delete, key)
			}
		}
	}
	if op.Kind == OpDeletePrefix {
		op.Key = rapid.SampledFrom([]string{"", "p/", "a", "z"}).Draw(t, "prefix")
	}
	return op
}

var modelNumbers = []string{"0", "1", "-2", "1.0", "0.5", "2.50", "1e2", "-0.125", "9007199254740993", "-0", "1E+2", "25e-3"}

// drawJSON is a value of any kind, in the text that encoding it again gives.
func drawJSON(t *rapid.T, depth int) string {
	kinds := []string{"number", "number", "string", "word"}
	if depth > 0 {
		kinds = append(kinds, "array", "array", "object", "object", "object")
	}
	switch rapid.SampledFrom(kinds).Draw(t, "json") {
	case "number":
		return rapid.SampledFrom(modelNumbers).Draw(t, "number")
	case "string":
		return rapid.SampledFrom([]string{`""`, `"1"`, `"é<\n\""`, `"x"`, `"日本 🎈"`, `"\u2028\\"`}).Draw(t, "string")
	case "word":
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
	case "array":
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			items = append(items, drawJSON(t, depth-1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	var members []string
	for _, name := range []string{"x", "y", "0"} {
		if rapid.Bool().Draw(t, name) {
			members = append(members, fmt.Sprintf("%q:%s", name, drawJSON(t, depth-1)))
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// drawSteps is a JSON patch of good form; its paths often are there.
func drawSteps(t *rapid.T) string {
	path := func(label string) string {
		return strings.Join(append([]string{""}, rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "0", "1", "-", "01"}), 0, 2).Draw(t, label)...), "/")
	}
	var steps []string
	for range rapid.IntRange(0, 4).Draw(t, "steps") {
		op, at := rapid.SampledFrom([]string{"add", "add", "replace", "test", "remove", "copy", "copy", "move"}).Draw(t, "op"), path("path")
		switch op {
		case "add", "replace", "test":
			steps = append(steps, fmt.Sprintf(`{"op":%q,"path":%q,"value":%s}`, op, at, drawJSON(t, 1)))
		case "copy", "move":
			from := path("from")
			if op == "move" && strings.HasPrefix(at+"/", from+"/") && at != from {
				continue // of bad form
			}
			steps = append(steps, fmt.Sprintf(`{"op":%q,"from":%q,"path":%q}`, op, from, at))
		case "remove":
			if at != "" {
				steps = append(steps, fmt.Sprintf(`{"op":"remove","path":%q}`, at))
			}
		}
	}
	return "[" + strings.Join(steps, ",") + "]"
}
