package fsm

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting that EqualJSON follows; the api admits less.
const maxJSONDepth = 512

// EqualJSON tells whether two JSON texts have the same value: numbers as exact
// decimals (1.0, 1 and 10e-1 are equal, and no exponent costs memory), strings by
// what they stand for, objects without regard to the order of members. Texts that
// are not JSON, or nested too deep, are equal only if their bytes are.
//
// Its meaning is part of the log's: a change is a new command version.
func EqualJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, ok := parseJSON(a)
	if !ok {
		return false
	}
	y, ok := parseJSON(b)
	return ok && x.equal(y)
}

// jsonValue is a parsed value. Its kind is the byte by which the text of such a
// value starts; '0' for numbers.
type jsonValue struct {
	kind    byte
	text    string // of a string, decoded; of a number, its digits without outer zeros
	neg     bool   // of a number
	exp     int64  // of a number: text is the fraction 0.text, times 10 to this
	items   []jsonValue
	members []jsonMember // sorted by name
}

type jsonMember struct {
	name  string
	value jsonValue
}

// equal compares two trees, members by name.
func (x *jsonValue) equal(y jsonValue) bool {
	return x.kind == y.kind && x.text == y.text && x.neg == y.neg && x.exp == y.exp &&
		slices.EqualFunc(x.items, y.items, func(a, b jsonValue) bool { return a.equal(b) }) &&
		slices.EqualFunc(x.members, y.members, func(a, b jsonMember) bool {
			return a.name == b.name && a.value.equal(b.value)
		})
}

// canonical is a text that is the same for equal values and for no others: a key by
// which items are looked up. Of most scalars it is the text itself.
func canonical(text []byte) []byte {
	if plain(text) {
		return text
	}
	v, ok := parseJSON(text)
	if !ok {
		return append([]byte{'!'}, text...)
	}
	return v.appendCanonical(nil)
}

// plain tells whether a scalar stands as appendCanonical would write it.
func plain(text []byte) bool {
	switch jsonType(text) {
	case "string": // 0xED begins what could be half of a surrogate pair
		return len(text) > 1 && bytes.IndexByte(text, '\\') < 0 && bytes.IndexByte(text, 0xED) < 0 && bytes.IndexByte(text[1:], '"') == len(text)-2
	case "number":
		p := jsonParser{text: text}
		p.take("-")
		digits := p.digits()
		return p.at == len(text) && len(digits) > 0 && len(digits) <= maxNumberDigits && (digits[0] != '0' || len(text) == 1)
	}
	return false
}

// appendCanonical writes a value with its numbers and strings in their one form, its
// members sorted.
func (x *jsonValue) appendCanonical(b []byte) []byte {
	switch x.kind {
	case '"':
		return append(b, quoteName(x.text)...)
	case '0':
		if strings.IndexByte(x.text, 'e') >= 0 || strings.IndexByte(x.text, 'E') >= 0 { // kept as written
			return append(b, x.text...)
		}
		return decimal{x.neg, x.text, x.exp}.appendTo(b)
	case '[':
		b = append(b, '[')
		for i := range x.items {
			b = append(x.items[i].appendCanonical(b), ',')
		}
		return append(b, ']')
	case '{':
		b = append(b, '{')
		for i := range x.members {
			b = appendMember(b, quoteName(x.members[i].name))
			b = append(x.members[i].value.appendCanonical(b), ',')
		}
		return append(b, '}')
	}
	return append(b, x.kind) // null, true, false
}

// parseJSON parses a whole text.
func parseJSON(text []byte) (jsonValue, bool) {
	p := jsonParser{text: text}
	v, ok := p.value(0)
	p.space()
	return v, ok && p.at == len(text)
}

type jsonParser struct {
	text    []byte
	at      int
	deepest int // of what skip has passed
}

// peek is the next byte, 0 at the end.
func (p *jsonParser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

// space skips white space, of which JSON has four kinds.
func (p *jsonParser) space() {
	for c := p.peek(); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = p.peek() {
		p.at++
	}
}

// take goes on if the text does so.
func (p *jsonParser) take(s string) bool {
	if !bytes.HasPrefix(p.text[p.at:], []byte(s)) {
		return false
	}
	p.at += len(s)
	return true
}

// value parses any value; depth is how many arrays and objects it is in.
func (p *jsonParser) value(depth int) (v jsonValue, ok bool) {
	if depth > maxJSONDepth {
		return v, false
	}
	p.space()
	v.kind = p.peek()
	switch v.kind {
	case 'n':
		return v, p.take("null")
	case 't':
		return v, p.take("true")
	case 'f':
		return v, p.take("false")
	case '"':
		v.text, ok = p.string()
		return v, ok
	case '[':
		v.items, ok = p.array(depth)
		return v, ok
	case '{':
		v.members, ok = p.object(depth)
		return v, ok
	}
	return p.number()
}

func (p *jsonParser) array(depth int) (items []jsonValue, ok bool) {
	p.at++
	if p.space(); p.take("]") {
		return nil, true
	}
	for {
		v, ok := p.value(depth + 1)
		if !ok {
			return nil, false
		}
		items = append(items, v)
		p.space()
		if p.take("]") {
			return items, true
		}
		if !p.take(",") {
			return nil, false
		}
	}
}

func (p *jsonParser) object(depth int) (members []jsonMember, ok bool) {
	p.at++
	if p.space(); p.take("}") {
		return nil, true
	}
	for {
		p.space()
		name, ok := p.string()
		if !ok {
			return nil, false
		}
		if p.space(); !p.take(":") {
			return nil, false
		}
		v, ok := p.value(depth + 1)
		if !ok {
			return nil, false
		}
		members = append(members, jsonMember{name, v})
		p.space()
		if p.take("}") {
			return sortMembers(members)
		}
		if !p.take(",") {
			return nil, false
		}
	}
}

// sortMembers sorts by name; duplicates, which have no agreed meaning, are no
// value.
func sortMembers(members []jsonMember) ([]jsonMember, bool) {
	slices.SortFunc(members, func(a, b jsonMember) int { return cmp.Compare(a.name, b.name) })
	for i := 1; i < len(members); i++ {
		if members[i-1].name == members[i].name {
			return nil, false
		}
	}
	return members, true
}

// string decodes a string. A lone surrogate, which UTF-8 cannot say, stands for
// itself in the generalized form of three bytes.
func (p *jsonParser) string() (string, bool) {
	if !p.take(`"`) {
		return "", false
	}
	start := p.at
	for c := p.peek(); c != '"' && c != '\\'; c = p.peek() {
		if c < ' ' {
			return "", false
		}
		p.at++
	}
	if p.peek() == '"' {
		p.at++
		return string(p.text[start : p.at-1]), true
	}
	out := append([]byte(nil), p.text[start:p.at]...)
	for {
		c := p.peek()
		switch {
		case c < ' ':
			return "", false
		case c == '"':
			p.at++
			return string(out), true
		case c != '\\':
			out = append(out, c)
			p.at++
			continue
		}
		p.at++
		var ok bool
		if out, ok = p.escape(out); !ok {
			return "", false
		}
	}
}

// escape decodes what follows a backslash. Two \u that make one character count as
// one, as in UTF-16, where JSON's strings come from.
func (p *jsonParser) escape(out []byte) ([]byte, bool) {
	c := p.peek()
	p.at++
	if c == 'u' {
		r, ok := p.hex4()
		if !ok {
			return nil, false
		}
		if r >= 0xD800 && r < 0xDC00 && p.take(`\u`) {
			low, ok := p.hex4()
			if !ok {
				return nil, false
			}
			if low >= 0xDC00 && low < 0xE000 {
				return utf8.AppendRune(out, (r-0xD800)<<10+(low-0xDC00)+0x10000), true
			}
			p.at -= len(`\uXXXX`) // another character
		}
		if r >= 0xD800 && r < 0xE000 {
			return append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0xBF), true
		}
		return utf8.AppendRune(out, r), true
	}
	at := strings.IndexByte(`"\/bfnrt`, c)
	if c == 0 || at < 0 {
		return nil, false
	}
	return append(out, "\"\\/\b\f\n\r\t"[at]), true
}

func (p *jsonParser) hex4() (rune, bool) {
	if p.at+4 > len(p.text) {
		return 0, false
	}
	n := rune(0)
	for _, c := range p.text[p.at : p.at+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		n = n<<4 | rune(c)
	}
	p.at += 4
	return n, true
}

// number parses a number to its decimal form: the digits from the first to the
// last that is not zero, and the power of ten.
func (p *jsonParser) number() (v jsonValue, ok bool) {
	start := p.at
	v.kind, v.neg = '0', p.take("-")
	whole := p.digits()
	if len(whole) == 0 || len(whole) > 1 && whole[0] == '0' {
		return v, false
	}
	var fraction, exponent []byte
	if p.take(".") {
		if fraction = p.digits(); len(fraction) == 0 {
			return v, false
		}
	}
	down := false
	if p.take("e") || p.take("E") {
		if down = p.take("-"); !down {
			p.take("+")
		}
		if exponent = p.digits(); len(exponent) == 0 {
			return v, false
		}
	}
	all := string(whole) + string(fraction)
	v.text = strings.TrimRight(strings.TrimLeft(all, "0"), "0")
	if v.text == "" {
		return jsonValue{kind: '0'}, true
	}
	exp := strings.TrimLeft(string(exponent), "0")
	if len(exp) > 17 {
		// Beyond any arithmetic: such a number equals itself as written.
		v.text = string(p.text[start:p.at])
		return v, true
	}
	if exp != "" {
		n, err := strconv.ParseInt(exp, 10, 64)
		if err != nil {
			return v, false
		}
		if v.exp = n; down {
			v.exp = -n
		}
	}
	v.exp += int64(len(whole)) - int64(len(all)-len(strings.TrimLeft(all, "0")))
	return v, true
}

func (p *jsonParser) digits() []byte {
	start := p.at
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	return p.text[start:p.at]
}
