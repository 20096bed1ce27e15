package api

import (
	"bytes"
	"strconv"

	"conclave/client/wire"
)

// maxNumber is the first number that revisions, versions, fences and durations
// may not reach: JavaScript tells integers apart only below it.
const maxNumber = 1 << 53

// object is a JSON object of a request, read member by member. Readers take a
// member and check its type; done refuses what nobody took. The first thing
// found wrong is kept for the whole request, so callers read all members and
// check once. A reader answers the zero value for a member that is absent or
// wrong.
type object struct {
	path    string // of the object in the request, with its dot: "then[2]."
	members []member
	fault   *fault
}

type member struct {
	name  []byte // unescaped
	raw   []byte // compact JSON
	taken bool
}

// fault is the first thing wrong with a request.
type fault struct{ err *wire.Error }

// parseObject reads a request that must be one JSON object. The values that its
// readers return alias data, which must not be changed afterwards.
func parseObject(data []byte, what string) (*object, *wire.Error) {
	compact, err := compactJSON(data, what)
	if err != nil {
		return nil, err
	}
	if compact[0] != '{' {
		return nil, wire.Errorf(wire.BadRequest, "%s must be a JSON object", what).With("field", what)
	}
	// Most requests are one such piece of memory.
	r := &struct {
		object
		fault fault
		few   [6]member
	}{}
	r.object.fault, r.members = &r.fault, r.few[:0]
	r.cut(compact)
	return &r.object, nil
}

// split is an object inside a request.
func split(raw []byte, path string, f *fault) *object {
	o := &object{path: path, fault: f, members: make([]member, 0, 8)}
	o.cut(raw)
	return o
}

// cut takes a compacted object apart. It skips over the values, so a value is
// checked and copied once however deep it sits.
func (o *object) cut(raw []byte) {
	for i := 1; raw[i] != '}'; {
		start := i
		i = skip(raw, i)
		name, _ := inside(raw[start:i])
		i++ // the colon
		start = i
		i = skip(raw, i)
		o.members = append(o.members, member{name: name, raw: raw[start:i:i]})
		if raw[i] == ',' {
			i++
		}
	}
}

// refuse records a fault of a member.
func (o *object) refuse(name, format string, args ...any) {
	if o.fault.err != nil {
		return
	}
	field := o.path + name
	o.fault.err = wire.Errorf(wire.BadRequest, field+": "+format, args...).With("field", field)
}

// done is the first fault of the request; a member that nobody took is one.
func (o *object) done() *wire.Error {
	for _, m := range o.members {
		if !m.taken {
			o.refuse(string(m.name), "unknown member")
		}
	}
	return o.fault.err
}

// has reports whether a member is there, without taking it.
func (o *object) has(name string) bool {
	for i := range o.members {
		if string(o.members[i].name) == name {
			return true
		}
	}
	return false
}

// raw takes a member of any type as compact JSON, nil when absent.
func (o *object) raw(name string) []byte {
	for i := range o.members {
		if string(o.members[i].name) == name {
			o.members[i].taken = true
			return o.members[i].raw
		}
	}
	return nil
}

// str takes a string.
func (o *object) str(name string) (s string, ok bool) {
	raw := o.raw(name)
	if raw == nil {
		return "", false
	}
	if s, ok = text(raw); !ok {
		o.refuse(name, "must be a string of whole characters")
	}
	return s, ok
}

// text decodes a JSON string, false when raw is none or holds half a character.
func text(raw []byte) (string, bool) {
	if raw[0] != '"' {
		return "", false
	}
	b, whole := inside(raw)
	return string(b), whole
}

// inside is what a JSON string says; it aliases raw when nothing is escaped.
func inside(raw []byte) (text []byte, whole bool) {
	text = raw[1 : len(raw)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		return unescape(text)
	}
	return text, true
}

// bounded takes a string of at most max bytes.
func (o *object) bounded(name string, max int) string {
	s, _ := o.str(name)
	if len(s) > max {
		o.refuse(name, "must have at most %d bytes", max)
	}
	return s
}

// number takes an integer from min to max.
func (o *object) number(name string, min, max int64) (n int64, ok bool) {
	raw := o.raw(name)
	if raw == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < min || n > max {
		o.refuse(name, "must be an integer from %d to %d", min, max)
		return 0, false
	}
	return n, true
}

// counter takes a revision, version, fence or request id; nil when absent.
func (o *object) counter(name string, min int64) *uint64 {
	n, ok := o.number(name, min, maxNumber-1)
	if !ok {
		return nil
	}
	u := uint64(n)
	return &u
}

// flag takes a boolean.
func (o *object) flag(name string) bool {
	switch raw := o.raw(name); {
	case raw == nil || string(raw) == "false":
		return false
	case string(raw) == "true":
		return true
	}
	o.refuse(name, "must be true or false")
	return false
}

// mark takes a member that only makes sense as true.
func (o *object) mark(name string) bool {
	raw := o.raw(name)
	if raw != nil && string(raw) != "true" {
		o.refuse(name, "must be true when given")
	}
	return raw != nil
}

// object takes an object, nil when absent.
func (o *object) object(name string) *object {
	raw := o.raw(name)
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		o.refuse(name, "must be an object")
		return nil
	}
	return split(raw, o.path+name+".", o.fault)
}

// array takes an array of at most max items, each as compact JSON.
func (o *object) array(name string, max int) (items [][]byte) {
	raw := o.raw(name)
	if raw == nil {
		return nil
	}
	if raw[0] != '[' {
		o.refuse(name, "must be an array")
		return nil
	}
	for i := 1; raw[i] != ']'; {
		start := i
		i = skip(raw, i)
		items = append(items, raw[start:i:i])
		if raw[i] == ',' {
			i++
		}
	}
	if len(items) > max {
		o.refuse(name, "must have at most %d items", max)
		return nil
	}
	return items
}

// objects takes an array of objects.
func (o *object) objects(name string, max int) (items []*object) {
	for i, raw := range o.array(name, max) {
		at := name + "[" + strconv.Itoa(i) + "]"
		if raw[0] != '{' {
			o.refuse(at, "must be an object")
			return nil
		}
		items = append(items, split(raw, o.path+at+".", o.fault))
	}
	return items
}

// store takes the name of a store, the default one when absent.
func (o *object) store() string {
	s, ok := o.str("store")
	if !ok {
		return defaultStore
	}
	if wrong := badStore(s); wrong != "" {
		o.refuse("store", "%s", wrong)
	}
	return s
}

// key takes the name of a key, which must be there.
func (o *object) key() string {
	s, _ := o.str("key")
	if wrong := badKey(s); wrong != "" {
		o.refuse("key", "%s", wrong)
	}
	return s
}
