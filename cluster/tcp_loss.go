package cluster

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// How the channel finds out that a peer's process is gone, and not merely slow or
// cut off: the kernel of its machine says so, by ending all its connections and by
// refusing new ones.

// The pauses between looks at a peer whose connection has ended: a process that
// dies closes what it has open one by one, its listener among it.
const (
	firstLook = time.Millisecond
	lastLook  = 128 * time.Millisecond
)

// endedByPeer reports whether a connection ended by the other side's doing. A
// write or keep-alive that timed out, and a connection that this side closed, did not.
func endedByPeer(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// redial connects again to a peer whose connection has ended. Without success it
// returns nil, and if that is because the process there is gone, says so.
func (p *tcpPeer) redial() net.Conn {
	c := p.channel
	p.sleep(time.Until(p.notAgain))
	for pause := firstLook; pause <= lastLook; pause *= 2 {
		conn, err := p.dial()
		refused := errors.Is(err, syscall.ECONNREFUSED)
		switch {
		case err == nil:
			return conn
		case refused && !c.network.callers.calls(p.id):
			p.pace(false)
			p.failQueue(err)
			if lost := c.lost.Load(); lost != nil {
				(*lost)(p.id)
			}
			return nil
		case !refused && !endedByPeer(err):
			return nil // it hangs, or somebody else answers: the next request finds out
		}
		p.sleep(pause)
		if c.ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// sleep waits, unless the channel closes first.
func (p *tcpPeer) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.channel.ctx.Done():
	}
}

// callers counts the open connections that each peer has made to this node. While
// it has one it is not gone, and what raft was asked on it may still be under way.
type callers struct {
	mu   sync.Mutex
	open map[raft.ServerID]int
}

// add counts a connection until it is closed.
func (c *callers) add(id raft.ServerID, conn net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = make(map[raft.ServerID]int)
	}
	c.open[id]++
	return &callerConn{Conn: conn, done: sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open[id]--; c.open[id] == 0 {
			delete(c.open, id)
		}
	})}
}

// calls reports whether a peer has a connection to this node.
func (c *callers) calls(id raft.ServerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open[id] > 0
}

type callerConn struct {
	net.Conn
	done func()
}

func (c *callerConn) Close() error {
	c.done()
	return c.Conn.Close()
}
