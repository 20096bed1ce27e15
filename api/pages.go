package api

import "strconv"

// page is which part of a list is asked for: of the names that start with prefix,
// the first ones after after.
type page struct {
	prefix, after string
	limit         int
}

// The bounds of a page: items, and bytes after which it ends early.
const (
	maxPage      = 1_000
	maxPageBytes = 1 << 20
)

func (in *input) page(prefix bool) page { return takePage(in.text, in.number, prefix) }
func (o *object) page(prefix bool) page { return takePage(o.str, o.number, prefix) }

// takePage takes limit and after of a list, and prefix where its names have
// something in common.
func takePage(text func(string) (string, bool), number func(string, int64, int64) (int64, bool), prefix bool) page {
	p := page{limit: maxPage}
	if prefix {
		p.prefix, _ = text("prefix")
	}
	p.after, _ = text("after")
	if n, ok := number("limit", 1, maxPage); ok {
		p.limit = int(n)
	}
	return p
}

// pager writes the items of one page as a JSON array. The pages of a walk may be of
// different revisions, and each says of which: what comes or goes in between may
// be missed, what stays is listed once.
type pager struct {
	b     []byte
	start int
	limit int
	items int
	last  string // name of the last item
	more  bool   // the list goes on after it
}

// begin opens the array.
func (p page) begin(b []byte) *pager {
	return &pager{b: append(b, '['), start: len(b), limit: p.limit}
}

// add appends an item unless the page is full, and reports whether to go on. A
// page has at least one item, however large.
func (g *pager) add(name string, item func([]byte) []byte) bool {
	if g.items == g.limit || g.items > 0 && len(g.b)-g.start > maxPageBytes {
		g.more = true
		return false
	}
	if g.items++; g.items > 1 {
		g.b = append(g.b, ',')
	}
	g.b = item(g.b)
	g.last = name
	return true
}

// end closes the array and, if the list goes on, says where: next is the after of
// the next page.
func (g *pager) end() []byte {
	g.b = append(g.b, ']')
	if g.more {
		g.b = appendText(g.b, "next", g.last)
	}
	return g.b
}

// endAt is end and the revision that the page is of.
func (g *pager) endAt(rev uint64) []byte {
	return append(strconv.AppendUint(append(g.end(), `,"rev":`...), rev, 10), '}')
}
