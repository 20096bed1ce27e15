package cluster

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// After the handshake, a channel connection carries frames: requests of the
// dialler one way, the answers the other way.
//
//	length(4) id(8) tag(1) payload
//
// length counts what follows it. The dialler numbers its requests; an answer has
// the number of its request. tag is the method of a request, and of an answer
// tagAnswer or tagError, whose payload is the error's text.
type frame struct {
	id      uint64
	tag     byte
	payload []byte
}

const (
	tagAnswer byte = 0
	tagError  byte = 1

	frameHead  = 8 + 1
	maxFrame   = 16 << 20 // length of the longest frame
	maxPayload = maxFrame - frameHead

	firstRead = 64 << 10 // a frame gets memory as its bytes arrive, beginning with so much
)

var errFrameLength = errors.New("frame length out of bounds")

// readFrame reads one frame. io.EOF means that there was none.
func readFrame(r *bufio.Reader) (frame, error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return frame{}, err
	}
	length := int(binary.BigEndian.Uint32(head[:4]))
	if length < frameHead || length > maxFrame {
		return frame{}, fmt.Errorf("%w: %d", errFrameLength, length)
	}
	if _, err := io.ReadFull(r, head[4:]); err != nil {
		return frame{}, noEOF(err)
	}
	f := frame{id: binary.BigEndian.Uint64(head[4:]), tag: head[12]}
	size := length - frameHead
	if size <= firstRead {
		f.payload = make([]byte, size)
		_, err := io.ReadFull(r, f.payload)
		return f, noEOF(err)
	}
	var payload bytes.Buffer
	payload.Grow(firstRead)
	_, err := io.CopyN(&payload, r, int64(size))
	f.payload = payload.Bytes()
	return f, noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame writes one frame, whose payload is at most maxPayload long.
func writeFrame(w *bufio.Writer, f frame) error {
	var head [4 + frameHead]byte
	binary.BigEndian.PutUint32(head[:], uint32(frameHead+len(f.payload)))
	binary.BigEndian.PutUint64(head[4:], f.id)
	head[12] = f.tag
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(f.payload)
	return err
}

// writeFrames writes what take returns until quit is closed or a write fails.
// When take has nothing, it sends off what is buffered and waits for wake.
func writeFrames(conn net.Conn, timeout time.Duration, take func() []frame, wake, quit <-chan struct{}) error {
	w := bufio.NewWriterSize(impatientWriter{conn, timeout}, 64<<10)
	for {
		frames := take()
		for _, f := range frames {
			if err := writeFrame(w, f); err != nil {
				return err
			}
		}
		if len(frames) > 0 {
			continue
		}
		if err := w.Flush(); err != nil {
			return err
		}
		select {
		case <-wake:
		case <-quit:
			return nil
		}
	}
}

// impatientWriter gives each write a deadline of its own, so that a peer that
// stopped reading is noticed.
type impatientWriter struct {
	conn    net.Conn
	timeout time.Duration
}

func (w impatientWriter) Write(b []byte) (int, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	return w.conn.Write(b)
}
