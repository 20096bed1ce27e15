package fsm

import (
	"math"
	"unicode/utf8"
)

// decoder reads entries and batches as this version writes them, without
// reflection: most of what replicas decode are a few shapes. It leaves the rare
// parts of them to the library, and everything else (another order of keys, null,
// what is malformed) as a whole: whatever it takes, the library takes, with the
// same result, which FuzzDecoder checks. So the library alone says what is an entry.
type decoder struct {
	in   []byte
	pos  int
	bad  bool   // not for this decoder
	text string // in, when texts may be cut out of it: else each is on its own, so that what is kept of one entry does not hold all of it
	seen *names // of what is kept; may be nil

	// Used again for the next entry: see reuse.
	commands slab[Command]
	txns     slab[Txn]
	ops      slab[Operation]
}

// reuse makes the decoder ready for the next entry. Nothing of the one before may
// be used any more but its texts and values.
func (d *decoder) reuse(in []byte) {
	d.in, d.pos, d.bad = in, 0, false
	d.commands.reuse()
	d.txns.reuse()
	d.ops.reuse()
}

// slab gives out pieces of one slice, as long as it lasts.
type slab[T any] struct {
	all    []T
	used   int
	wanted int
}

// mostInSlab bounds a slab: it is what an entry of small writes has.
const mostInSlab = 512

// expect makes a slab that was never used as large as it will be needed.
func (s *slab[T]) expect(n int) {
	if s.all == nil {
		s.all = make([]T, min(n, mostInSlab))
	}
}

func (s *slab[T]) take(n int) []T {
	s.wanted += n
	if n == 0 || n > len(s.all)-s.used {
		return make([]T, n)
	}
	s.used += n
	return s.all[s.used-n : s.used : s.used]
}

// reuse takes back what was given out, and grows to what was wanted.
func (s *slab[T]) reuse() {
	clear(s.all[:s.used]) // values that are not kept go
	if want := min(s.wanted, mostInSlab); want > len(s.all) {
		s.all = make([]T, want)
	}
	s.used, s.wanted = 0, 0
}

// The major types of CBOR (RFC 8949, section 3.1).
const (
	cborUint  = 0
	cborBytes = 2
	cborText  = 3
	cborArray = 4
	cborMap   = 5
)

// proposal reads an entry, or reports that it is for the library.
func (d *decoder) proposal(p *Proposal) bool {
	key := 0
	for range d.pairs() {
		switch key = d.key(key); key {
		case 1:
			p.V = int(d.int())
		case 2:
			p.Time = d.int()
		case 3:
			p.Wall = d.int()
		case 4:
			p.Batches = make([]Batch, d.head(cborArray))
			for i := range p.Batches {
				d.batch(&p.Batches[i])
			}
		case 5:
			d.rest(&p.Controls)
		case 6:
			p.Term = d.uint()
		default:
			d.bad = true
		}
	}
	return d.done()
}

func (d *decoder) done() bool { return !d.bad && d.pos == len(d.in) }

func (d *decoder) batch(b *Batch) {
	key := 0
	for range d.pairs() {
		switch key = d.key(key); key {
		case 1:
			b.Node = d.string()
		case 2:
			b.Incarnation = d.uint()
		case 3:
			b.Seq = d.uint()
		case 4:
			d.rest(&b.Register)
		case 5:
			b.Commands = d.commands.take(int(d.head(cborArray)))
			d.txns.expect(len(b.Commands))
			d.ops.expect(len(b.Commands))
			for i := range b.Commands {
				d.command(&b.Commands[i])
			}
		default:
			d.bad = true
		}
	}
}

func (d *decoder) command(c *Command) {
	key := 0
	for range d.pairs() {
		switch key = d.key(key); key {
		case 1:
			c.Kind = CommandKind(d.small())
		case 2:
			c.Room = d.string()
		case 3:
			c.Session = d.string()
		case 4:
			d.caller(&c.Caller)
		case 5:
			c.Client = d.string()
		case 6:
			c.Request = d.uint()
		case 7:
			c.Idem = d.string()
		case 8:
			c.Hash = d.bytes()
		case 9:
			d.rest(&c.Open)
		case 10:
			c.Txn = d.txn()
		case 11:
			d.rest(&c.Acquire)
		case 12:
			d.rest(&c.Join)
		case 13:
			d.rest(&c.Attach)
		case 14:
			d.rest(&c.SetPeer)
		case 15:
			d.rest(&c.Cancel)
		case 16:
			c.Target = d.string()
		case 17:
			c.Reason = d.string()
		default:
			d.bad = true
		}
	}
}

func (d *decoder) caller(c *Caller) {
	key := 0
	for range d.pairs() {
		switch key = d.key(key); key {
		case 1:
			c.Kind = CallerKind(d.small())
		case 2:
			c.Peer = d.string()
		case 3:
			c.Gen = d.uint()
		case 4:
			c.User = d.string()
		case 5:
			c.Owner = d.string()
		default:
			d.bad = true
		}
	}
}

func (d *decoder) txn() *Txn {
	t := &d.txns.take(1)[0]
	key := 0
	for range d.pairs() {
		switch key = d.key(key); key {
		case 1:
			d.rest(&t.If)
		case 2:
			t.Then = d.operations()
		case 3:
			t.Else = d.operations()
		case 4:
			t.Single = d.bool()
		default:
			d.bad = true
		}
	}
	return t
}

func (d *decoder) operations() []Operation {
	ops := d.ops.take(int(d.head(cborArray)))
	for i := range ops {
		d.operation(&ops[i])
	}
	return ops
}

func (d *decoder) operation(op *Operation) {
	key := 0
	for range d.pairs() {
		switch key = d.key(key); key {
		case 1:
			op.Kind = OpKind(d.small())
		case 2:
			op.Store = d.string()
		case 3:
			op.Key = d.string()
		case 4:
			op.Value = d.bytes()
		case 5:
			d.rest(&op.If)
		case 6:
			op.Fence = d.uint()
		case 7:
			op.TTL = d.int()
		case 8:
			op.Bind = d.string()
		case 9:
			d.rest(&op.Lock)
		case 10:
			op.Break = d.bool()
		case 11:
			op.Unique = d.bool()
		case 12:
			op.Steps = d.bool()
		case 13:
			d.rest(&op.Set)
		case 14:
			d.rest(&op.Delete)
		case 15:
			d.rest(&op.Fences)
		case 16:
			d.rest(&op.Message)
		default:
			d.bad = true
		}
	}
}

// rest has the library read a part. into is a pointer to a member.
func (d *decoder) rest(into any) {
	if d.bad {
		return
	}
	left, err := decMode.UnmarshalFirst(d.in[d.pos:], into)
	d.bad = err != nil
	d.pos = len(d.in) - len(left)
}

// pairs is how many pairs the map has that begins here.
func (d *decoder) pairs() uint64 { return d.head(cborMap) }

// key is the next key of a map. They come in order, so none is double, and all are
// so small that they have a byte each.
func (d *decoder) key(before int) int {
	if d.bad || d.pos == len(d.in) || d.in[d.pos] >= 24 || int(d.in[d.pos]) <= before {
		d.bad = true
		return 0
	}
	d.pos++
	return int(d.in[d.pos-1])
}

// head reads the head of an item of a major type: its number, or how many bytes,
// items or pairs follow, which is never more than there are bytes. It is 0 once
// something is bad.
func (d *decoder) head(major byte) uint64 {
	if d.bad || d.pos == len(d.in) || d.in[d.pos]>>5 != major {
		d.bad = true
		return 0
	}
	n := uint64(d.in[d.pos] & 31)
	d.pos++
	if n >= 24 {
		size := 1 << (n - 24)
		if n > 27 || len(d.in)-d.pos < size {
			d.bad = true
			return 0
		}
		n = 0
		for _, b := range d.in[d.pos : d.pos+size] {
			n = n<<8 | uint64(b)
		}
		d.pos += size
	}
	if major != cborUint && n > uint64(len(d.in)-d.pos) || major == cborArray && n > maxElements {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) uint() uint64 { return d.head(cborUint) }

// int reads an integer; a negative one is for the library.
func (d *decoder) int() int64 {
	n := d.uint()
	if n > math.MaxInt64 {
		d.bad = true
	}
	return int64(n)
}

func (d *decoder) small() uint8 {
	n := d.uint()
	if n > math.MaxUint8 {
		d.bad = true
	}
	return uint8(n)
}

func (d *decoder) bool() bool {
	const no, yes = 0xf4, 0xf5
	if d.bad || d.pos == len(d.in) || d.in[d.pos] != no && d.in[d.pos] != yes {
		d.bad = true
		return false
	}
	d.pos++
	return d.in[d.pos-1] == yes
}

// inside passes a string's bytes.
func (d *decoder) inside(major byte) []byte {
	n := int(d.head(major))
	d.pos += n
	return d.in[d.pos-n : d.pos : d.pos]
}

func (d *decoder) bytes() []byte {
	b := d.inside(cborBytes)
	if d.text != "" {
		return b
	}
	return append(make([]byte, 0, len(b)), b...)
}

func (d *decoder) string() string {
	b := d.inside(cborText)
	if s, ok := d.seen.find(b); ok {
		return s
	}
	if !utf8.Valid(b) {
		d.bad = true
		return ""
	}
	if d.text != "" {
		return d.text[d.pos-len(b) : d.pos]
	}
	return d.seen.add(b)
}

// names has texts that came in entries lately, for those to come: the same rooms,
// peers and keys are written again and again, and what the state keeps of them it
// keeps once. A text that has the place of another takes it.
type names [4096]string

// longestName bounds what names holds.
const longestName = 64

func (n *names) place(b []byte) *string {
	h := uint32(2166136261) // FNV-1a
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return &n[(h^h>>16)%uint32(len(n))]
}

// find is the text that was added before.
func (n *names) find(b []byte) (string, bool) {
	if n == nil || len(b) > longestName {
		return "", false
	}
	s := *n.place(b)
	return s, s == string(b)
}

func (n *names) add(b []byte) string {
	s := string(b)
	if n != nil && len(b) <= longestName {
		*n.place(b) = s
	}
	return s
}
