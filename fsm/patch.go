package fsm

import (
	"slices"
	"strconv"
	"strings"
)

// maxPatchSteps bounds the operations of one JSON patch.
const maxPatchSteps = 1000

// step is one operation of a JSON patch (RFC 6902).
type step struct {
	op         string
	path, from []string // reference tokens (RFC 6901), decoded
	value      []byte
}

// patch applies a JSON patch, all of it or nothing. After every step the document
// is within the limits of a value, in size and in depth, so that no run of copies
// can grow. A test that fails, and a location that is not there, is a conflict; a
// location inside of what has no members is of the wrong type.
func (c *change) patch(op *Operation, old []byte) ([]byte, *Refusal) {
	steps, no := parseSteps(op.Value)
	if no != nil {
		return nil, no
	}
	d := &document{c: c, op: op}
	if old != nil {
		d.root = &part{text: old, size: len(old)}
	}
	for i := range steps {
		if no := d.apply(&steps[i]); no != nil {
			return nil, no
		}
		if lim := c.ses.Limits.ValueBytes; d.root.size > lim {
			return nil, overLimit("value_bytes", lim, d.root.size)
		}
	}
	if d.root == nil {
		return nil, d.conflict("path")
	}
	return d.root.appendTo(make([]byte, 0, d.root.size)), nil
}

// parseSteps checks the form of all steps before any is applied. Members that RFC
// 6902 does not name are ignored, as it says.
func parseSteps(text []byte) ([]step, *Refusal) {
	list, ok := splitArray(text)
	if !ok {
		return nil, badRequest("ops", "ops must be an array")
	}
	if len(list) > maxPatchSteps {
		return nil, overLimit("patch_operations", maxPatchSteps, len(list))
	}
	steps := make([]step, len(list))
	for i, item := range list {
		members, ok := splitObject(item)
		if !ok || !steps[i].parse(members) {
			return nil, badRequest("ops", "operation "+strconv.Itoa(i)+" of ops is malformed")
		}
	}
	return steps, nil
}

func (s *step) parse(members []member) bool {
	var hasPath, hasFrom bool
	for _, m := range members {
		switch m.name {
		case "op":
			s.op, _ = stringValue(m.value)
		case "path":
			s.path, hasPath = parsePointer(m.value)
		case "from":
			s.from, hasFrom = parsePointer(m.value)
		case "value":
			s.value = m.value
		}
	}
	if !hasPath {
		return false
	}
	switch s.op {
	case "add", "replace", "test":
		return s.value != nil
	case "remove":
		return len(s.path) > 0 // a delete is a verb of its own
	case "copy":
		return hasFrom
	case "move": // what is moved cannot be moved into itself
		return hasFrom && (len(s.path) <= len(s.from) || !slices.Equal(s.from, s.path[:len(s.from)]))
	}
	return false
}

func stringValue(text []byte) (string, bool) {
	p := jsonParser{text: text}
	s, ok := p.string()
	return s, ok && p.at == len(text)
}

// parsePointer decodes a JSON pointer into its tokens: none for the whole document.
func parsePointer(text []byte) ([]string, bool) {
	s, ok := stringValue(text)
	switch {
	case !ok || s != "" && s[0] != '/':
		return nil, false
	case s == "":
		return nil, true
	}
	tokens := strings.Split(s[1:], "/")
	for i, token := range tokens {
		if !strings.Contains(token, "~") {
			continue
		}
		rest := strings.ReplaceAll(strings.ReplaceAll(token, "~0", ""), "~1", "")
		if strings.Contains(rest, "~") {
			return nil, false
		}
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
	}
	return tokens, true
}

// document is a value while a patch is applied to it.
type document struct {
	c    *change
	op   *Operation
	root *part // nil while the entry is absent
}

func (d *document) apply(s *step) *Refusal {
	switch s.op {
	case "add":
		return d.add(s.path, s.value)
	case "remove":
		_, no := d.take(s.path)
		return no
	case "replace":
		if _, no := d.find(s.path); no != nil {
			return no
		}
		if len(s.path) > 0 {
			return d.set(s.path, s.value)
		}
		return d.add(s.path, s.value)
	case "test":
		return d.test(s)
	}
	from, no := d.find(s.from)
	switch {
	case no != nil:
		return no
	case s.op != "move":
	case slices.Equal(s.from, s.path):
		return nil
	default:
		if _, no := d.take(s.from); no != nil {
			return no
		}
	}
	if !d.c.work.spend(from.size) {
		return d.c.overWork()
	}
	return d.add(s.path, from.appendTo(make([]byte, 0, from.size)))
}

// test compares as conditions do: numbers by value, objects in any order.
func (d *document) test(s *step) *Refusal {
	p, no := d.find(s.path)
	if no != nil {
		return no
	}
	if !d.c.work.spend(2*p.size + 2*len(s.value)) { // comparing parses both
		return d.c.overWork()
	}
	if !EqualJSON(p.appendTo(nil), s.value) {
		return d.conflict("test")
	}
	return nil
}

// find is the part at a location.
func (d *document) find(path []string) (*part, *Refusal) {
	chain, no := d.walk(path)
	if no != nil {
		return nil, no
	}
	return chain[len(chain)-1], nil
}

// walk returns the parts from the whole document to the one at a location.
func (d *document) walk(path []string) ([]*part, *Refusal) {
	if d.root == nil {
		return nil, d.conflict("path")
	}
	chain := make([]*part, 1, min(len(path), maxDocumentDepth)+1)
	chain[0] = d.root
	for i, token := range path {
		p := chain[i]
		if no := d.open(p); no != nil {
			return nil, no
		}
		at, ok := p.index(token)
		if !ok || at == len(p.parts) {
			return nil, d.conflict("path")
		}
		chain = append(chain, p.parts[at])
	}
	return chain, nil
}

// open splits a part, once, so that it can be changed.
func (d *document) open(p *part) *Refusal {
	if !d.c.work.spend(16 + len(p.parts)) { // to look through it, or to move what follows
		return d.c.overWork()
	}
	if p.kind != 0 {
		return nil
	}
	if !d.c.work.spend(p.size) {
		return d.c.overWork()
	}
	switch jsonType(p.text) {
	case "array":
		items, ok := splitArray(p.text)
		if !ok {
			break
		}
		p.kind, p.parts = '[', make([]*part, len(items))
		for i, item := range items {
			p.parts[i] = &part{text: item, size: len(item)}
		}
	case "object":
		members, ok := splitObject(p.text)
		if !ok {
			break
		}
		p.kind, p.parts = '{', make([]*part, len(members))
		for i, m := range members {
			p.parts[i] = &part{text: m.value, size: len(m.value), name: m.name, quoted: m.quoted}
		}
	}
	if p.kind == 0 {
		return wrongType(d.op, p.text)
	}
	p.text = nil
	return nil
}

// parent walks to what holds a location, and opens it.
func (d *document) parent(path []string) (chain []*part, at int, ok bool, no *Refusal) {
	chain, no = d.walk(path[:len(path)-1])
	if no != nil {
		return nil, 0, false, no
	}
	p := chain[len(chain)-1]
	if no := d.open(p); no != nil {
		return nil, 0, false, no
	}
	at, ok = p.index(path[len(path)-1])
	return chain, at, ok, nil
}

// add puts a value at a location, as RFC 6902 section 4.1 says: it replaces a
// member, and moves the items of an array behind it on.
func (d *document) add(path []string, text []byte) *Refusal {
	value := &part{text: text, size: len(text)}
	depth, _ := jsonDepth(text)
	switch {
	case !d.c.work.spend(len(text)):
		return d.c.overWork()
	case depth+len(path) > maxDocumentDepth:
		return overLimit("depth", maxDocumentDepth, depth+len(path))
	case len(path) == 0:
		d.root = value
		return nil
	}
	chain, at, ok, no := d.parent(path)
	if no != nil {
		return no
	}
	p := chain[len(chain)-1]
	switch {
	case p.kind == '[' && !ok:
		return d.conflict("path")
	case p.kind == '{' && ok:
		return d.set(path, text)
	case p.kind == '{':
		name := path[len(path)-1]
		at, value.name, value.quoted = len(p.parts), name, quoteName(name)
	}
	grow(chain, value.width()+comma(p))
	p.parts = slices.Insert(p.parts, at, value)
	return nil
}

// set puts a value in the place of one that is there.
func (d *document) set(path []string, text []byte) *Refusal {
	if depth, _ := jsonDepth(text); depth+len(path) > maxDocumentDepth {
		return overLimit("depth", maxDocumentDepth, depth+len(path))
	}
	chain, at, _, no := d.parent(path)
	if no != nil {
		return no
	}
	p := chain[len(chain)-1]
	old := p.parts[at]
	p.parts[at] = &part{text: text, size: len(text), name: old.name, quoted: old.quoted}
	grow(chain, len(text)-old.size)
	return nil
}

// take removes the part at a location.
func (d *document) take(path []string) (*part, *Refusal) {
	if len(path) == 0 {
		return nil, badRequest("ops", "the whole value cannot be taken away")
	}
	chain, at, ok, no := d.parent(path)
	if no != nil {
		return nil, no
	}
	p := chain[len(chain)-1]
	if !ok || at == len(p.parts) {
		return nil, d.conflict("path")
	}
	old := p.parts[at]
	p.parts = slices.Delete(p.parts, at, at+1)
	grow(chain, -(old.width() + comma(p)))
	return old, nil
}

// comma is 1 for a container that has others than the one that comes or goes.
func comma(p *part) int { return min(len(p.parts), 1) }

// grow keeps the sizes of a part and of all that it is in.
func grow(chain []*part, by int) {
	for _, p := range chain {
		p.size += by
	}
}

// conflict says why: a test failed, or there is no such path. What the entry is, is
// filled in by whoever has it.
func (d *document) conflict(reason string) *Refusal {
	return &Refusal{
		Code: CodeConflict, Message: "the value is not as the patch expects", Details: Details{Reason: reason},
	}
}

// part is a value within a document: its text until somebody looks inside, then
// its parts.
type part struct {
	text   []byte
	kind   byte // '[' or '{' once open
	parts  []*part
	name   string // of a member, decoded
	quoted []byte // nil for what is no member
	size   int    // of the text that it would be
}

// width is what it takes in its container, besides a comma.
func (p *part) width() int {
	if p.quoted != nil {
		return p.size + len(p.quoted) + 1
	}
	return p.size
}

// index finds a token in an open part: of an array also the place behind the last,
// of which "-" is another name; of an object false for what it does not have.
func (p *part) index(token string) (int, bool) {
	if p.kind == '{' {
		i := slices.IndexFunc(p.parts, func(m *part) bool { return m.name == token })
		return i, i >= 0
	}
	if token == "-" {
		return len(p.parts), true
	}
	if token == "" || token[0] == '0' && len(token) > 1 || strings.Trim(token, "0123456789") != "" {
		return 0, false
	}
	i, err := strconv.Atoi(token)
	return i, err == nil && i <= len(p.parts)
}

// appendTo writes the text.
func (p *part) appendTo(b []byte) []byte {
	if p.kind == 0 {
		return append(b, p.text...)
	}
	b = append(b, p.kind)
	for i, one := range p.parts {
		if i > 0 {
			b = append(b, ',')
		}
		if one.quoted != nil {
			b = appendMember(b, one.quoted)
		}
		b = one.appendTo(b)
	}
	return append(b, p.kind+2) // ] and } follow two behind in ASCII
}
