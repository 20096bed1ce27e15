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
	// A cache must ask again each time: what it keeps is of some earlier revision.
	// Values are the clients', so no browser may take them for anything but JSON.
	c.Header(headerRev, strconv.FormatUint(rev, 10))
	c.Header("Content-Type", "application/json")
	c.Header("Cache-Control", "no-cache")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Status(status)
	write(c, body)
	return nil
}

// write sends bytes. That nobody takes them any more is no error of ours.
func write(c *gin.Context, b []byte) {
	for len(b) > pieceBytes {
		if !writePiece(c, b[:pieceBytes]) {
			return
		}
		b = b[pieceBytes:]
	}
	if c.Writer.Size() < pieceBytes {
		_, _ = c.Writer.Write(b)
		return
	}
	writePiece(c, b)
}

// writePiece reports whether somebody took it. It takes the deadline back
// afterwards: the connection is used again.
func writePiece(c *gin.Context, b []byte) bool {
	deadline := http.NewResponseController(c.Writer)
	_ = deadline.SetWriteDeadline(time.Now().Add(answerTimeout))
	_, err := c.Writer.Write(b)
	_ = deadline.SetWriteDeadline(time.Time{})
	return err == nil
}

// entityTag is the ETag of an entry's revision.
func entityTag(rev uint64) string { return `"` + strconv.FormatUint(rev, 10) + `"` }
