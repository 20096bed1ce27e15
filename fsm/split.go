package fsm

import (
	"bytes"
	"unicode/utf8"
)

// Values are computed on their text, so that numbers keep their digits, strings
// their escapes and members their order. A text is split one level deep; whatever
// an operation does not touch is copied as it is.

// maxDocumentDepth bounds the nesting of a computed value. The api admits as much
// in a request, so a stored value has no more.
const maxDocumentDepth = 128

// member is one of an object, as it is written.
type member struct {
	name   string // decoded
	quoted []byte // the name as written
	value  []byte
}

// size is what a member takes, without the comma before it.
func (m *member) size() int { return len(m.quoted) + 1 + len(m.value) }

// jsonType is the protocol's name for what sort of value a text is; "" for what is
// none.
func jsonType(text []byte) string {
	if len(text) == 0 {
		return ""
	}
	switch c := text[0]; {
	case c == '[':
		return "array"
	case c == '{':
		return "object"
	case c == '"':
		return "string"
	case c == '-' || c >= '0' && c <= '9':
		return "number"
	case c == 't' || c == 'f':
		return "boolean"
	case c == 'n':
		return "null"
	}
	return ""
}

// jsonDepth is how many arrays and objects a text nests; ok is false when it is
// not JSON. Double members are not looked for.
func jsonDepth(text []byte) (depth int, ok bool) {
	p := jsonParser{text: text}
	if p.space(); !p.skip(0) {
		return 0, false
	}
	p.space()
	return p.deepest, p.at == len(text)
}

// splitArray returns the texts of an array's items.
func splitArray(text []byte) (items [][]byte, ok bool) {
	p := jsonParser{text: text}
	p.space()
	ok = p.each('[', ']', func() bool {
		start := p.at
		ok := p.skip(1)
		items = append(items, text[start:p.at:p.at])
		return ok
	})
	p.space()
	return items, ok && p.at == len(text)
}

// splitObject returns an object's members in their order. Double ones, which have
// no agreed meaning, are refused.
func splitObject(text []byte) (members []member, ok bool) {
	p := jsonParser{text: text}
	p.space()
	seen := make(map[string]struct{})
	ok = p.each('{', '}', func() bool {
		start := p.at
		name, ok := p.string()
		if _, double := seen[name]; !ok || double {
			return false
		}
		seen[name] = struct{}{}
		m := member{name: name, quoted: text[start:p.at:p.at]}
		if p.space(); !p.take(":") {
			return false
		}
		p.space()
		start = p.at
		ok = p.skip(1)
		m.value = text[start:p.at:p.at]
		members = append(members, m)
		return ok
	})
	p.space()
	return members, ok && p.at == len(text)
}

// each passes an array or object; one is called where an item or member starts.
func (p *jsonParser) each(first, last byte, one func() bool) bool {
	if p.peek() != first {
		return false
	}
	p.at++
	if p.space(); p.peek() == last {
		p.at++
		return true
	}
	for {
		p.space()
		if !one() {
			return false
		}
		p.space()
		switch c := p.peek(); c {
		case last:
			p.at++
			return true
		case ',':
			p.at++
		default:
			return false
		}
	}
}

// skip passes a value without building it. depth is how many arrays and objects it
// is in; the parser keeps the greatest.
func (p *jsonParser) skip(depth int) bool {
	switch p.peek() {
	case '{', '[':
		if depth++; depth > maxJSONDepth {
			return false
		}
		p.deepest = max(p.deepest, depth)
		if p.peek() == '[' {
			return p.each('[', ']', func() bool { return p.skip(depth) })
		}
		return p.each('{', '}', func() bool {
			if !p.skipString() {
				return false
			}
			if p.space(); !p.take(":") {
				return false
			}
			p.space()
			return p.skip(depth)
		})
	case '"':
		return p.skipString()
	case 't':
		return p.take("true")
	case 'f':
		return p.take("false")
	case 'n':
		return p.take("null")
	}
	return p.skipNumber()
}

func (p *jsonParser) skipString() bool {
	if !p.take(`"`) {
		return false
	}
	for {
		switch c := p.peek(); {
		case c < ' ':
			return false
		case c == '"':
			p.at++
			return true
		case c == '\\':
			p.at++
			var spare [utf8.UTFMax]byte
			if _, ok := p.escape(spare[:0]); !ok {
				return false
			}
		default:
			p.at++
		}
	}
}

func (p *jsonParser) skipNumber() bool {
	p.take("-")
	if whole := p.digits(); len(whole) == 0 || len(whole) > 1 && whole[0] == '0' {
		return false
	}
	if p.take(".") && len(p.digits()) == 0 {
		return false
	}
	if p.take("e") || p.take("E") {
		if !p.take("-") {
			p.take("+")
		}
		return len(p.digits()) > 0
	}
	return true
}

// joinArray and joinObject are the inverse of the splits.

func joinArray(items [][]byte) []byte {
	return append(append([]byte{'['}, bytes.Join(items, []byte{','})...), ']')
}

func joinObject(members []member) []byte {
	size := 2 + len(members)
	for i := range members {
		size += members[i].size()
	}
	b := append(make([]byte, 0, size), '{')
	for i := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendMember(b, members[i].quoted)
		b = append(b, members[i].value...)
	}
	return append(b, '}')
}

func appendMember(b, quoted []byte) []byte { return append(append(b, quoted...), ':') }

// quoteName writes a member's name. Control characters are escaped, and halves of
// surrogate pairs, which only an escape can have said; all else stands as it is.
func quoteName(name string) []byte {
	const hex = "0123456789abcdef"
	escape := func(b []byte, r int) []byte {
		return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
	}
	b := append(make([]byte, 0, len(name)+2), '"')
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = escape(b, int(c))
		case c == 0xED && i+2 < len(name) && name[i+1] >= 0xA0:
			b = escape(b, 0xD000|int(name[i+1]&0x3F)<<6|int(name[i+2]&0x3F))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
