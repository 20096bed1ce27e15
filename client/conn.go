package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// maxFrame bounds what a server may send in one frame.
const maxFrame = 64 << 20

// maxWrite is how much is gathered before it is written.
const maxWrite = 64 << 10

// conn is one WebSocket: a queue that its writing goroutine empties, and a
// deadline that every frame of the server moves. Frames are read by its owner,
// through gorilla; they are written here, all that are ready at a time by one call,
// so that they also reach the server together.
//
// The queue is as long as the requests in flight, which the room's window
// bounds.
type conn struct {
	ws      *websocket.Conn
	silence atomic.Int64 // ns that the server may be silent for
	frame   bytes.Buffer // of the reader: the frame that came last

	wake   chan struct{}
	stop   chan struct{}
	writer sync.WaitGroup
	quit   func() bool   // stops waiting for the end of ctx
	said   chan struct{} // closed when goodbye is on its way

	mu      sync.Mutex
	queue   []outgoing // guarded by mu
	parting bool       // goodbye is the last of the queue, and has a deadline; guarded by mu
	moved   time.Time  // when the deadline of the next frame was set; guarded by mu
}

// outgoing is a frame to be written.
type outgoing struct {
	opcode  byte
	payload []byte
}

// newConn takes over a WebSocket. When ctx ends it says goodbye (1000: a peer
// leaves); the owner reads on until the server has said so too, or goodbyeLimit
// is over.
func newConn(ctx context.Context, ws *websocket.Conn) *conn {
	c := &conn{ws: ws, wake: make(chan struct{}, 1), stop: make(chan struct{}), said: make(chan struct{})}
	ws.SetReadLimit(maxFrame)
	ws.SetPingHandler(func(data string) error {
		c.heard()
		c.put(websocket.PongMessage, []byte(data))
		return nil
	})
	c.writer.Go(c.write)
	c.quit = context.AfterFunc(ctx, func() {
		defer close(c.said)
		c.put(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	})
	return c
}

// send queues a frame. It never blocks.
func (c *conn) send(data []byte) { c.put(websocket.TextMessage, data) }

func (c *conn) put(opcode byte, payload []byte) {
	c.mu.Lock()
	if !c.parting {
		c.queue = append(c.queue, outgoing{opcode, payload})
		if c.parting = opcode == websocket.CloseMessage; c.parting {
			_ = c.ws.NetConn().SetDeadline(time.Now().Add(goodbyeLimit))
		}
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write empties the queue until the connection is closed or breaks. The reader
// notices a break by itself.
func (c *conn) write() {
	var buf []byte
	for {
		select {
		case <-c.wake:
		case <-c.stop:
			return
		}
		runtime.Gosched() // others who were answered together ask again together
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		c.mu.Unlock()
		for i, f := range queue {
			buf = appendFrame(buf, f)
			if len(buf) < maxWrite && i < len(queue)-1 {
				continue
			}
			if _, err := c.ws.NetConn().Write(buf); err != nil {
				c.hangUp()
				return
			}
			if buf = buf[:0]; cap(buf) > 2*maxWrite {
				buf = nil
			}
		}
	}
}

// appendFrame appends a whole frame, masked as a client's must be (RFC 6455, 5.2
// and 5.3): a key that nobody can foretell, since what is masked may be chosen by
// somebody else.
func appendFrame(b []byte, f outgoing) []byte {
	const whole, masked = 0x80, 0x80
	b = append(b, whole|f.opcode)
	switch n := len(f.payload); {
	case n < 126:
		b = append(b, masked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	key := rand.Uint32()
	b = binary.LittleEndian.AppendUint32(b, key)
	start := len(b)
	b = append(b, f.payload...)
	payload, wide := b[start:], uint64(key)<<32|uint64(key)
	for ; len(payload) >= 8; payload = payload[8:] {
		binary.LittleEndian.PutUint64(payload, binary.LittleEndian.Uint64(payload)^wide)
	}
	for i := range payload {
		payload[i] ^= byte(key >> (8 * i % 32))
	}
	return b
}

// hangUp breaks the connection, as a failing network would: its reader comes to
// an end, and the owner comes back on another.
func (c *conn) hangUp() { _ = c.ws.NetConn().Close() }

// setSilence says how long the server may be silent from now on.
func (c *conn) setSilence(d time.Duration) {
	c.silence.Store(int64(d))
	c.move(0)
}

// heard moves the deadline of the next frame, by a tenth of the silence at a time: it
// costs more than the frame. A connection that is saying goodbye has one that stays:
// that takes no longer because the server goes on talking.
func (c *conn) heard() { c.move(time.Duration(c.silence.Load()) / 10) }

// move moves the deadline, unless that was done less than a while ago.
func (c *conn) move(ago time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); !c.parting && now.Sub(c.moved) >= ago {
		c.moved = now
		_ = c.ws.SetReadDeadline(now.Add(time.Duration(c.silence.Load())))
	}
}

// read reads the next frame. The error of an orderly end is a *CloseError.
func (c *conn) read() (*wire.Frame, error) {
	kind, reader, err := c.ws.NextReader()
	if err == nil {
		c.frame.Reset()
		_, err = c.frame.ReadFrom(reader)
	}
	if err != nil {
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			return nil, &CloseError{Code: closed.Code, Text: closed.Text}
		}
		return nil, fmt.Errorf("connection: %w", err)
	}
	c.heard()
	if kind != websocket.TextMessage {
		return nil, errors.New("connection: binary frame")
	}
	f, err := decodeFrame(c.frame.Bytes())
	if err != nil {
		return nil, fmt.Errorf("connection: frame: %w", err)
	}
	if c.frame.Cap() > maxWrite {
		c.frame = bytes.Buffer{}
	}
	return f, nil
}

// close ends the connection and its goroutine.
func (c *conn) close() {
	close(c.stop)
	c.ws.Close()
	if !c.quit() {
		<-c.said
	}
	c.writer.Wait()
}
