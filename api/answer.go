package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
)

// headerRev carries the revision of every success.
const headerRev = "Conclave-Rev"

// An answer larger than pieceBytes is more than what sits in buffers on the way:
// writing it takes as long as its reader does, which answerTimeout bounds per
// piece.
const (
	pieceBytes    = 64 << 10
	answerTimeout = 30 * time.Second
)

// answer writes a success.
func answer(c *gin.Context, status int, rev uint64, body []byte) error {
	begin(c, status, rev)
	write(c, body)
	return nil
}

// begin writes the head of a success. A cache must ask again each time: what it
// keeps is of some earlier revision. Values are the clients', so no browser may
// take them for anything but JSON.
func begin(c *gin.Context, status int, rev uint64) {
	c.Header(headerRev, strconv.FormatUint(rev, 10))
	c.Header("Content-Type", "application/json")
	c.Header("Cache-Control", "no-cache")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Status(status)
}

// write sends bytes and reports whether somebody still takes them. That nobody
// does is no error of ours.
func write(c *gin.Context, b []byte) bool {
	for len(b) > pieceBytes {
		if !writePiece(c, b[:pieceBytes]) {
			return false
		}
		b = b[pieceBytes:]
	}
	if c.Writer.Size() < pieceBytes {
		_, err := c.Writer.Write(b)
		return err == nil
	}
	return writePiece(c, b)
}

// writePiece takes the deadline back afterwards: the connection is used again.
func writePiece(c *gin.Context, b []byte) bool {
	deadline := http.NewResponseController(c.Writer)
	_ = deadline.SetWriteDeadline(time.Now().Add(answerTimeout))
	_, err := c.Writer.Write(b)
	_ = deadline.SetWriteDeadline(time.Time{})
	return err == nil
}

// list streams an answer whose size no page bounds, a piece at a time.
type list struct {
	c     *gin.Context
	b     []byte
	items int
	gone  bool // nobody reads any more
}

// newList begins the answer {"<name>": […]}.
func newList(c *gin.Context, rev uint64, name string) *list {
	begin(c, http.StatusOK, rev)
	return &list{c: c, b: append(appendString([]byte{'{'}, name), ':', '[')}
}

// add appends one item and reports whether to go on.
func (l *list) add(item func(b []byte) []byte) bool {
	if l.items++; l.items > 1 {
		l.b = append(l.b, ',')
	}
	if l.b = item(l.b); len(l.b) >= pieceBytes {
		l.gone = !write(l.c, l.b)
		l.b = l.b[:0]
	}
	return !l.gone
}

// end finishes the answer.
func (l *list) end() error {
	if !l.gone {
		write(l.c, append(l.b, ']', '}'))
	}
	return nil
}

// entityTag is the ETag of an entry's revision.
func entityTag(rev uint64) string { return `"` + strconv.FormatUint(rev, 10) + `"` }
