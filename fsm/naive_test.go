package fsm

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// The computing operations written over decoded values, by the words of the
// protocol and the RFCs, without thought of cost. Values are nil, bool, string,
// json.Number, []any and object; numbers keep their digits, members their order.

type object []pair

// absent is the value of a key that is not there.
type absent struct{}

type pair struct {
	name  string
	value any
}

func (o object) get(name string) int {
	return slices.IndexFunc(o, func(p pair) bool { return p.name == name })
}

// with is the object with a member set: in its place, else at the end.
func (o object) with(name string, v any) object {
	o = slices.Clone(o)
	if i := o.get(name); i >= 0 {
		o[i].value = v
		return o
	}
	return append(o, pair{name, v})
}

func (o object) without(name string) object {
	return slices.DeleteFunc(slices.Clone(o), func(p pair) bool { return p.name == name })
}

func decodeNaive(text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	return decodeToken(d)
}

func decodeToken(d *json.Decoder) any {
	token, err := d.Token()
	if err != nil {
		panic(err)
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			list = append(list, decodeToken(d))
		}
		_, _ = d.Token()
		return list
	case json.Delim('{'):
		o := object{}
		for d.More() {
			name, _ := d.Token()
			o = append(o, pair{name.(string), decodeToken(d)})
		}
		_, _ = d.Token()
		return o
	}
	return token
}

func encodeNaive(v any) string {
	var list []string
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			list = append(list, encodeNaive(item))
		}
		return "[" + strings.Join(list, ",") + "]"
	case object:
		for _, p := range v {
			list = append(list, encodeNaive(p.name)+":"+encodeNaive(p.value))
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

// naiveEqual is JSON equality with exact fractions.
func naiveEqual(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		x, _ := new(big.Rat).SetString(a.String())
		y, _ := new(big.Rat).SetString(b.String())
		return ok && x.Cmp(y) == 0
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, naiveEqual)
	case object:
		b, ok := b.(object)
		if !ok || len(a) != len(b) {
			return false
		}
		for _, p := range a {
			if i := b.get(p.name); i < 0 || !naiveEqual(p.value, b[i].value) {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case json.Number, []any, object:
		return false
	}
	return a == b
}

func naiveHas(list []any, v any) bool {
	return slices.ContainsFunc(list, func(item any) bool { return naiveEqual(item, v) })
}

// naiveCompute is the value that an operation on old, "" when absent, gives; "" when
// it makes none. No step of a patch may make more than limit bytes.
func naiveCompute(op *Operation, old string, limit int) (string, Code) {
	given := decodeNaive(string(op.Value))
	var v any
	if old != "" {
		v = decodeNaive(old)
	}
	switch op.Kind {
	case OpUpdate:
		return encodeNaive(naiveUpdate(v, given)), ""
	case OpAppend, OpRemove:
		if old == "" {
			v = []any{}
		}
		list, ok := v.([]any)
		if !ok {
			return "", CodeWrongType
		}
		if op.Kind == OpAppend {
			for _, item := range given.([]any) {
				if !op.Unique || !naiveHas(list, item) {
					list = append(list, item)
				}
			}
		} else if old == "" {
			return "", ""
		} else {
			list = slices.DeleteFunc(list, func(item any) bool { return naiveHas(given.([]any), item) })
		}
		return encodeNaive(list), ""
	case OpAdd:
		if old == "" {
			v = json.Number("0")
		}
		n, ok := v.(json.Number)
		if !ok {
			return "", CodeWrongType
		}
		return naiveAdd(n, given.(json.Number)), ""
	}
	if !op.Steps {
		return encodeNaive(naiveMerge(v, given)), ""
	}
	if old == "" {
		v = absent{}
	}
	for _, s := range given.([]any) {
		var no Code
		if v, no = naiveStep(v, s.(object)); no != "" {
			return "", no
		}
		if len(encodeNaive(v)) > limit {
			return "", CodeLimitExceeded
		}
	}
	if _, ok := v.(absent); ok {
		return "", CodeConflict
	}
	return encodeNaive(v), ""
}

func naiveUpdate(v, given any) any {
	if list, ok := v.([]any); ok {
		if more, ok := given.([]any); ok {
			return append(list, more...)
		}
	}
	if o, ok := v.(object); ok {
		if more, ok := given.(object); ok {
			for _, p := range more {
				o = o.with(p.name, p.value)
			}
			return o
		}
	}
	return given
}

func naiveAdd(n, by json.Number) string {
	x, _ := new(big.Rat).SetString(n.String())
	y, _ := new(big.Rat).SetString(by.String())
	if y.Sign() == 0 {
		return n.String()
	}
	s := x.Add(x, y).FloatString(40)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// naiveMerge is the pseudocode of RFC 7396, section 2.
func naiveMerge(target, patch any) any {
	changes, ok := patch.(object)
	if !ok {
		return patch
	}
	o, ok := target.(object)
	if !ok {
		o = object{}
	}
	for _, p := range changes {
		if p.value == nil {
			o = o.without(p.name)
		} else if i := o.get(p.name); i >= 0 {
			o = o.with(p.name, naiveMerge(o[i].value, p.value))
		} else {
			o = o.with(p.name, naiveMerge(nil, p.value))
		}
	}
	return o
}

func naiveStep(doc any, s object) (any, Code) {
	member := func(name string) any { return s[s.get(name)].value }
	path := strings.Split(member("path").(string), "/")[1:]
	switch op := member("op"); op {
	case "add", "replace":
		return naiveSet(doc, path, member("value"), op == "add")
	case "remove":
		return naiveTake(doc, path)
	case "test":
		v, no := naiveGet(doc, path)
		if no == "" && !naiveEqual(v, member("value")) {
			no = CodeConflict
		}
		return doc, no
	}
	from := strings.Split(member("from").(string), "/")[1:]
	v, no := naiveGet(doc, from)
	if no == "" && member("op") == "move" {
		if slices.Equal(from, path) {
			return doc, ""
		}
		doc, no = naiveTake(doc, from)
	}
	if no != "" {
		return nil, no
	}
	return naiveSet(doc, path, v, true)
}

// naiveAt is the place of a token in a list of n, n for the place behind its last.
func naiveAt(token string, n int) (int, Code) {
	if token == "-" {
		return n, ""
	}
	i, err := strconv.Atoi(token)
	if err != nil || i < 0 || i > n || strconv.Itoa(i) != token {
		return 0, CodeConflict
	}
	return i, ""
}

func naiveGet(v any, path []string) (any, Code) {
	if _, ok := v.(absent); ok {
		return nil, CodeConflict
	}
	if len(path) == 0 {
		return v, ""
	}
	switch v := v.(type) {
	case []any:
		i, no := naiveAt(path[0], len(v))
		if no != "" || i == len(v) {
			return nil, CodeConflict
		}
		return naiveGet(v[i], path[1:])
	case object:
		i := v.get(path[0])
		if i < 0 {
			return nil, CodeConflict
		}
		return naiveGet(v[i].value, path[1:])
	}
	return nil, CodeWrongType
}

// naiveSet adds or, without add, replaces.
func naiveSet(v any, path []string, value any, add bool) (any, Code) {
	if !add {
		if _, no := naiveGet(v, path); no != "" {
			return nil, no
		}
	}
	if len(path) == 0 {
		return value, ""
	}
	if _, ok := v.(absent); ok {
		return nil, CodeConflict
	}
	if len(path) > 1 {
		inner, no := naiveGet(v, path[:1])
		if no != "" {
			return nil, no
		}
		if value, no = naiveSet(inner, path[1:], value, add); no != "" {
			return nil, no
		}
		return naiveSet(v, path[:1], value, false)
	}
	switch v := v.(type) {
	case []any:
		i, no := naiveAt(path[0], len(v))
		if no != "" {
			return nil, no
		}
		v = slices.Clone(v)
		if add {
			return slices.Insert(v, i, value), ""
		}
		v[i] = value
		return v, ""
	case object:
		return v.with(path[0], value), ""
	}
	return nil, CodeWrongType
}

func naiveTake(v any, path []string) (any, Code) {
	if _, no := naiveGet(v, path); no != "" {
		return nil, no
	}
	if len(path) > 1 {
		inner, _ := naiveGet(v, path[:1])
		inner, _ = naiveTake(inner, path[1:])
		return naiveSet(v, path[:1], inner, false)
	}
	if o, ok := v.(object); ok {
		return o.without(path[0]), ""
	}
	i, _ := strconv.Atoi(path[0])
	return slices.Delete(slices.Clone(v.([]any)), i, i+1), ""
}
