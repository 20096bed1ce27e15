package api

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"conclave/client/wire"
)

// The standard library's decoder accepts what the protocol refuses (duplicate
// members, bytes that are not UTF-8) and would make three passes over each value:
// to check, to decode, to compact. This scanner makes one.

// maxDepth bounds how deep arrays and objects of a request may nest, the request
// itself included. It keeps the recursion here and in every replica small.
const maxDepth = 128

// mapNames is from how many members on an object's names are compared through a
// map rather than one by one.
const mapNames = 16

// compactJSON checks that data is exactly one JSON text (RFC 8259) in valid
// UTF-8, without duplicate members at any depth (names are compared unescaped)
// and at most maxDepth deep, and returns it without white space, everything else
// byte for byte: digits and escapes are the client's. what names the text in an
// error. The result aliases data when there was no white space to drop, so data
// must not be changed afterwards.
func compactJSON(data []byte, what string) ([]byte, *wire.Error) {
	var names [mapNames][]byte // on the stack, enough for most
	s := scanner{in: data}
	s.space()
	if err := s.value(1, names[:0]); err != nil {
		return nil, s.refuse(err, what)
	}
	end := s.pos
	if s.space(); s.pos < len(data) {
		return nil, s.refuse(fmt.Errorf("more data after the end"), what)
	}
	if s.out == nil {
		return data[s.mark:end:end], nil
	}
	// The last space() has flushed everything up to end unless there was none.
	if s.mark < end {
		s.out = append(s.out, data[s.mark:end]...)
	}
	return s.out, nil
}

// scanner walks over one JSON text. What it has passed but not copied yet is
// in[mark:pos]; out stays nil until the first white space inside the text.
type scanner struct {
	in   []byte
	pos  int
	mark int
	out  []byte
}

func (s *scanner) refuse(err error, what string) *wire.Error {
	return wire.Errorf(wire.BadRequest, "%s: malformed JSON at byte %d: %v", what, s.pos, err).With("field", what)
}

// space skips white space and leaves it out of the output.
func (s *scanner) space() {
	start := s.pos
	for s.pos < len(s.in) {
		if c := s.in[s.pos]; c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			break
		}
		s.pos++
	}
	if s.pos == start {
		return
	}
	if s.mark < start { // nothing to keep before the first byte of the text
		if s.out == nil {
			s.out = make([]byte, 0, len(s.in)-s.mark)
		}
		s.out = append(s.out, s.in[s.mark:start]...)
	}
	s.mark = s.pos
}

// peek is the next byte, 0 at the end (which no JSON text has outside strings).
func (s *scanner) peek() byte {
	if s.pos < len(s.in) {
		return s.in[s.pos]
	}
	return 0
}

// value passes one value of any type. depth is how many arrays and objects would
// be open inside it, names what the members of those around it are called: a stack
// that is handed down, for in the scanner it would go to the heap with out.
func (s *scanner) value(depth int, names [][]byte) error {
	switch c := s.peek(); {
	case c == '"':
		_, _, err := s.quoted()
		return err
	case c == '{' || c == '[':
		if depth > maxDepth {
			return fmt.Errorf("nested deeper than %d", maxDepth)
		}
		if c == '{' {
			return s.object(depth, names)
		}
		return s.array(depth, names)
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	case s.pos >= len(s.in):
		return fmt.Errorf("it ends too early")
	default:
		return fmt.Errorf("unexpected %q", c)
	}
}

func (s *scanner) literal(word string) error {
	if len(s.in)-s.pos < len(word) || string(s.in[s.pos:s.pos+len(word)]) != word {
		return fmt.Errorf("not a value")
	}
	s.pos += len(word)
	return nil
}

// number passes a number by RFC 8259's grammar. Its size does not matter: it is
// never converted.
func (s *scanner) number() error {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return fmt.Errorf("a number without digits")
	}
	if s.peek() == '.' {
		if s.pos++; !s.digits() {
			return fmt.Errorf("a number without digits after its point")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return fmt.Errorf("a number without digits in its exponent")
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) array(depth int, names [][]byte) error {
	s.pos++
	if s.space(); s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		if err := s.value(depth+1, names); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case ']':
			s.pos++
			return nil
		default:
			return fmt.Errorf("an array needs a comma or its end")
		}
	}
}

// object passes an object. Its names are on the stack while it is open, above
// those of the objects around it, so most objects cost no allocation.
func (s *scanner) object(depth int, around [][]byte) error {
	s.pos++
	if s.space(); s.peek() == '}' {
		s.pos++
		return nil
	}
	names := around[len(around):]
	var seen map[string]struct{}
	for {
		if s.peek() != '"' {
			return fmt.Errorf("an object needs a member name")
		}
		raw, escaped, err := s.quoted()
		if err != nil {
			return err
		}
		if escaped {
			raw, _ = unescape(raw)
		}
		if names, seen, err = declare(raw, names, seen); err != nil {
			return err
		}
		if s.space(); s.peek() != ':' {
			return fmt.Errorf("a member name needs a colon")
		}
		s.pos++
		s.space()
		if err := s.value(depth+1, names); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case '}':
			s.pos++
			return nil
		default:
			return fmt.Errorf("an object needs a comma or its end")
		}
	}
}

// declare refuses a name that the object with these names has already, and
// remembers it. seen takes over from the stack once there are many names.
func declare(name []byte, names [][]byte, seen map[string]struct{}) ([][]byte, map[string]struct{}, error) {
	double := false
	if seen != nil {
		_, double = seen[string(name)]
		seen[string(name)] = struct{}{}
	} else {
		for _, n := range names {
			double = double || bytes.Equal(n, name)
		}
		names = append(names, name)
		if len(names) == mapNames {
			seen = make(map[string]struct{}, 2*mapNames)
			for _, n := range names {
				seen[string(n)] = struct{}{}
			}
		}
	}
	if double {
		return nil, nil, fmt.Errorf("duplicate member %q", name)
	}
	return names, seen, nil
}

// quoted passes a string and returns what is between its quotation marks.
func (s *scanner) quoted() (raw []byte, escaped bool, err error) {
	s.pos++
	start := s.pos
	for s.pos < len(s.in) {
		switch c := s.in[s.pos]; {
		case c == '"':
			raw = s.in[start:s.pos]
			s.pos++
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, fmt.Errorf("a control character in a string")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			r, size := utf8.DecodeRune(s.in[s.pos:])
			if r == utf8.RuneError && size == 1 {
				return nil, false, fmt.Errorf("not UTF-8")
			}
			s.pos += size
		}
	}
	return nil, false, fmt.Errorf("a string without its end")
}

// escape passes one escape sequence. Halves of surrogate pairs pass: JavaScript
// makes them of a text cut in the middle of a character, and values are kept as
// they were sent.
func (s *scanner) escape() error {
	s.pos++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		if _, ok := hex4(s.in[s.pos+1:]); ok {
			s.pos += 5
			return nil
		}
	}
	return fmt.Errorf("an unknown escape in a string")
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

var shortEscapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unescape decodes the inside of a string that a scanner has passed. whole is
// false when it holds half a surrogate pair, which UTF-8 cannot say: the half is
// written as if it could, so that different names stay different.
func unescape(raw []byte) (text []byte, whole bool) {
	out := make([]byte, 0, len(raw))
	whole = true
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		if raw[i] != 'u' {
			out = append(out, shortEscapes[raw[i]])
			continue
		}
		r, _ := hex4(raw[i+1:])
		if r < 0xD800 || r > 0xDFFF {
			out = utf8.AppendRune(out, r)
			i += 4
			continue
		}
		if low, ok := lowSurrogate(raw[i+5:]); ok && r < 0xDC00 {
			out = utf8.AppendRune(out, 0x10000+(r-0xD800)<<10+low-0xDC00)
			i += 10
			continue
		}
		whole = false
		out = append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0x3F, 0x80|byte(r)&0x3F)
		i += 4
	}
	return out, whole
}

// lowSurrogate reads the second escape of a surrogate pair.
func lowSurrogate(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	r, ok := hex4(b[2:])
	return r, ok && r >= 0xDC00 && r <= 0xDFFF
}

// skip returns the index after the value that starts at i of a compacted text. It
// trusts the text to be one, which makes it several times faster than the scanner.
func skip(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}
