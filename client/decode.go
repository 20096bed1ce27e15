package client

import (
	"bytes"
	"encoding/json"

	"conclave/client/wire"
)

// decodeFrame decodes a frame, of which it keeps nothing. Answers and events, which
// are nearly all that a server sends, are taken apart here, in two fifths of the time of
// the standard library, which was a quarter of what a watcher costs its program. It
// leaves to the library what is not one of those, as our servers write them.
func decodeFrame(data []byte) (*wire.Frame, error) {
	f := new(wire.Frame)
	if json.Valid(data) {
		if s := (scan{in: data}); s.frame(f) && s.at == len(data) {
			return f, nil
		}
		*f = wire.Frame{}
	}
	if err := json.Unmarshal(data, f); err != nil {
		return nil, err
	}
	return f, nil
}

// scan walks over valid JSON. Its methods say false to what they do not take: white
// space, names that they do not know, strings with escapes or beyond ASCII, numbers
// that are not whole.
type scan struct {
	in []byte
	at int
}

func (s *scan) frame(f *wire.Frame) bool {
	return s.object(func(name []byte) (ok bool) {
		switch string(name) {
		case "id":
			f.ID, ok = s.number()
		case "ok":
			f.OK, ok = s.raw()
		case "rev":
			f.Rev = new(uint64)
			*f.Rev, ok = s.number()
		case "events":
			ok = s.events(f)
		}
		return ok
	})
}

func (s *scan) events(f *wire.Frame) bool {
	if f.Events != nil || !s.next('[') {
		return false
	}
	f.Events = []wire.Event{}
	if s.next(']') {
		return true
	}
	for {
		var e wire.Event
		if !s.event(&e) {
			return false
		}
		f.Events = append(f.Events, e)
		if !s.next(',') {
			return s.next(']')
		}
	}
}

// event takes an event. Its strings are parts of one.
func (s *scan) event(e *wire.Event) bool {
	begin := s.at
	if !s.skip() {
		return false
	}
	text := string(s.in[begin:s.at])
	s.at = begin
	part := func(to *string) bool {
		from, end, ok := s.plain()
		if ok {
			*to = text[from-begin : end-begin]
		}
		return ok
	}
	author := func(to **wire.By) bool {
		if *to != nil {
			return false
		}
		by := new(wire.By)
		*to = by
		return s.object(func(name []byte) bool {
			switch string(name) {
			case "kind":
				return part(&by.Kind)
			case "peer":
				return part(&by.Peer)
			case "ref":
				return part(&by.Ref)
			case "user":
				return part(&by.User)
			}
			return false
		})
	}
	return s.object(func(name []byte) (ok bool) {
		switch string(name) {
		case "type":
			return part(&e.Type)
		case "store":
			return part(&e.Store)
		case "key":
			return part(&e.Key)
		case "value":
			e.Value, ok = s.raw()
		case "version":
			e.Version, ok = s.number()
		case "rev":
			e.Rev, ok = s.number()
		case "created_rev":
			e.CreatedRev, ok = s.number()
		case "by":
			return author(&e.By)
		case "at":
			return part(&e.At)
		case "expires_at":
			return part(&e.ExpiresAt)
		case "bound_to":
			return part(&e.BoundTo)
		case "state":
			return part(&e.State)
		case "owner":
			return part(&e.Owner)
		case "fence":
			e.Fence, ok = s.number()
		case "topic":
			return part(&e.Topic)
		case "data":
			e.Data, ok = s.raw()
		case "from":
			return author(&e.From)
		}
		return ok
	})
}

// next passes a character.
func (s *scan) next(c byte) bool {
	if s.at == len(s.in) || s.in[s.at] != c {
		return false
	}
	s.at++
	return true
}

// object passes an object; member passes the value of one.
func (s *scan) object(member func(name []byte) bool) bool {
	if !s.next('{') {
		return false
	}
	if s.next('}') {
		return true
	}
	for {
		from, end, ok := s.plain()
		if !ok || !s.next(':') || !member(s.in[from:end]) {
			return false
		}
		if !s.next(',') {
			return s.next('}')
		}
	}
}

// plain passes a string, and says where in the input it is.
func (s *scan) plain() (from, end int, ok bool) {
	if !s.next('"') {
		return 0, 0, false
	}
	for from = s.at; s.at < len(s.in); s.at++ {
		switch c := s.in[s.at]; {
		case c == '"':
			s.at++
			return from, s.at - 1, true
		case c == '\\' || c >= 0x80:
			return 0, 0, false
		}
	}
	return 0, 0, false
}

// number passes a whole number of at most 18 digits.
func (s *scan) number() (n uint64, ok bool) {
	begin := s.at
	for ; s.at < len(s.in) && '0' <= s.in[s.at] && s.in[s.at] <= '9'; s.at++ {
		n = n*10 + uint64(s.in[s.at]-'0')
	}
	digits := s.at - begin
	return n, 0 < digits && digits <= 18 && !s.fraction()
}

func (s *scan) fraction() bool {
	return s.at < len(s.in) && (s.in[s.at] == '.' || s.in[s.at] == 'e' || s.in[s.at] == 'E')
}

// raw passes any value, and copies it.
func (s *scan) raw() (json.RawMessage, bool) {
	begin := s.at
	ok := s.skip()
	return bytes.Clone(s.in[begin:s.at]), ok
}

// skip passes any value.
func (s *scan) skip() bool {
	for depth := 0; s.at < len(s.in); {
		switch s.in[s.at] {
		case '"':
			for s.at++; s.in[s.at] != '"'; s.at++ {
				if s.in[s.at] == '\\' {
					s.at++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return true // the end of what a number or a word was in
			}
			depth--
		case ',':
			if depth == 0 {
				return true
			}
		case ' ', '\t', '\n', '\r':
			if depth == 0 {
				return false
			}
		default:
			s.at++
			continue // a number or a word ends with what comes after it
		}
		if s.at++; depth == 0 {
			return true
		}
	}
	return false
}
