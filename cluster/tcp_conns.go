package cluster

import (
	"net"
	"sync"
)

// abruptConn is closed without TLS's good-bye, which may block for seconds on a
// peer that does not read. What the connections carry says itself where it ends.
type abruptConn struct {
	net.Conn // TLS
	raw      net.Conn
}

func (c abruptConn) Close() error { return c.raw.Close() }

// connSet holds open connections, so that they can be closed together. Close of
// a connection takes it out.
type connSet struct {
	max int

	mu     sync.Mutex
	closed bool
	conns  map[*setConn]struct{}
}

type setConn struct {
	net.Conn
	set *connSet
}

func newConnSet(max int) *connSet { return &connSet{max: max, conns: make(map[*setConn]struct{})} }

// add takes a connection in; on error it has closed it.
func (s *connSet) add(conn net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.max {
		conn.Close()
		if s.closed {
			return nil, errNetworkClosed
		}
		return nil, errTooManyConns
	}
	c := &setConn{conn, s}
	s.conns[c] = struct{}{}
	return c, nil
}

// close closes what is in the set and what comes later.
func (s *connSet) close() {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

func (c *setConn) Close() error {
	c.set.mu.Lock()
	delete(c.set.conns, c)
	c.set.mu.Unlock()
	return c.Conn.Close()
}
