package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// maxFrame bounds what a server may send in one frame.
const maxFrame = 64 << 20

// conn is one WebSocket: a queue that its writing goroutine empties, and a
// deadline that every frame of the server moves. Frames are read by its owner.
//
// The queue is as long as the requests in flight, which the room's window
// bounds.
type conn struct {
	ctx     context.Context // of the room: its end says goodbye
	ws      *websocket.Conn
	silence atomic.Int64 // ns that the server may be silent for

	wake   chan struct{}
	stop   chan struct{}
	writer sync.WaitGroup
	quit   func() bool   // stops waiting for the end of ctx
	said   chan struct{} // closed when goodbye has been said

	mu      sync.Mutex
	queue   [][]byte // guarded by mu
	parting bool     // goodbye has begun, and has a deadline; guarded by mu
}

// newConn takes over a WebSocket. When ctx ends it says goodbye (1000: a peer
// leaves); the owner reads on until the server has said so too, or goodbyeLimit
// is over.
func newConn(ctx context.Context, ws *websocket.Conn) *conn {
	c := &conn{ctx: ctx, ws: ws, wake: make(chan struct{}, 1), stop: make(chan struct{}), said: make(chan struct{})}
	ws.SetReadLimit(maxFrame)
	pong := ws.PingHandler()
	ws.SetPingHandler(func(data string) error {
		c.heard()
		return pong(data)
	})
	c.writer.Go(c.write)
	c.quit = context.AfterFunc(ctx, func() {
		defer close(c.said)
		limit := time.Now().Add(goodbyeLimit)
		c.mu.Lock()
		c.parting = true
		_ = ws.SetReadDeadline(limit)
		c.mu.Unlock()
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		_ = ws.WriteControl(websocket.CloseMessage, bye, limit)
	})
	return c
}

// send queues a frame. It never blocks.
func (c *conn) send(data []byte) {
	c.mu.Lock()
	c.queue = append(c.queue, data)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write empties the queue until the connection is closed or breaks. The reader
// notices a break by itself.
func (c *conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.stop:
			return
		}
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		c.mu.Unlock()
		for _, data := range queue {
			if err := c.ws.WriteMessage(websocket.TextMessage, data); err != nil {
				c.hangUp()
				return
			}
		}
	}
}

// hangUp breaks the connection, as a failing network would: its reader comes to
// an end, and the owner comes back on another.
func (c *conn) hangUp() { _ = c.ws.NetConn().Close() }

// setSilence says how long the server may be silent from now on.
func (c *conn) setSilence(d time.Duration) {
	c.silence.Store(int64(d))
	c.heard()
}

// heard moves the deadline of the next frame, unless the connection is saying
// goodbye: that takes no longer because the server goes on talking.
func (c *conn) heard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.parting {
		_ = c.ws.SetReadDeadline(time.Now().Add(time.Duration(c.silence.Load())))
	}
}

// read reads the next frame. The error of an orderly end is a *CloseError.
func (c *conn) read() (*wire.Frame, error) {
	kind, data, err := c.ws.ReadMessage()
	if err != nil {
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			return nil, &CloseError{Code: closed.Code, Text: closed.Text}
		}
		return nil, fmt.Errorf("connection: %w", err)
	}
	c.heard()
	f := new(wire.Frame)
	if kind != websocket.TextMessage {
		return nil, errors.New("connection: binary frame")
	}
	if err := json.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("connection: frame: %w", err)
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
