package api

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// The opcodes of RFC 6455, section 5.2, that a server sends.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// outboxBytes is how much an outbox gathers before it writes, and the most that
// is written under one deadline.
const outboxBytes = 32 << 10

// errStalled says that a socket took nothing for as long as it may.
var errStalled = errors.New("the socket takes nothing")

// maxBuffer is the largest buffer that is kept for the next user: the rare big one
// is let go.
const maxBuffer = 4 * outboxBytes

// buffers are kept between the rounds of all writers: a socket that is not being
// written to has none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// takeBuffer takes an empty buffer; giveBuffer gives it back as it has grown.
func takeBuffer() *[]byte { return buffers.Get().(*[]byte) }

func giveBuffer(buf *[]byte, grown []byte) {
	if cap(grown) <= maxBuffer {
		*buf = grown[:0]
		buffers.Put(buf)
	}
}

// outbox gathers WebSocket frames of one socket and writes them together: one
// system call for all that was ready at a time. Writes hold whole frames, so that
// gorilla, which does the reading, may put a control frame of its own between
// two. One goroutine uses it.
type outbox struct {
	conn  net.Conn
	stall time.Duration
	stop  func() bool // tells a long round that the socket is to end
	moves func()      // told that the other side takes what is written
	buf   *[]byte     // from buffers while there is something to write
	wrote bool        // something was written since the owner last looked
}

// frame gathers a text frame; the revision is for other sinks.
func (o *outbox) frame(_ uint64, payload []byte) error { return o.put(opText, payload) }

// put gathers one frame, unmasked and whole, and writes when enough has come
// together.
func (o *outbox) put(opcode byte, payload []byte) error {
	if o.buf == nil {
		o.buf = takeBuffer()
	}
	b := append(*o.buf, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	*o.buf = append(b, payload...)
	o.wrote = true
	if len(*o.buf) < outboxBytes {
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	if o.stop() {
		return errClosing
	}
	return nil
}

// flush writes everything gathered. A socket that takes little is waited for, one
// that takes nothing is not. That a whole piece was taken is a sign of life: the
// kernel has room for a few, then the other side must have taken some.
func (o *outbox) flush() error {
	if o.buf == nil {
		return nil
	}
	var err error
	for rest := *o.buf; len(rest) > 0 && err == nil; {
		piece := rest[:min(len(rest), outboxBytes)]
		if err = o.conn.SetWriteDeadline(time.Now().Add(o.stall)); err != nil {
			break
		}
		var n int
		n, err = o.conn.Write(piece)
		rest = rest[n:]
		if n == outboxBytes {
			o.moves()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err = nil; n == 0 {
				err = errStalled
			}
		}
	}
	giveBuffer(o.buf, *o.buf)
	o.buf = nil
	return err
}
