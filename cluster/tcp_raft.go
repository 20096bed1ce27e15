package cluster

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// raftPool is how many idle connections raft keeps to each server: entries,
// heartbeats, nudges, votes.
const raftPool = 4

// raftStreams carries raft's own requests: raft.NetworkTransport dials and
// accepts through it. A "server address" here is a server id throughout (see
// ServerAddr), which Dial resolves to where that server is now and verifies.
type raftStreams struct {
	network  *TCPNetwork
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	conns    *connSet
	accepted chan net.Conn
}

var (
	_ raft.StreamLayer           = (*raftStreams)(nil)
	_ raft.ServerAddressProvider = (*raftStreams)(nil)
)

func newRaftStreams(n *TCPNetwork) *raftStreams {
	s := &raftStreams{network: n, conns: newConnSet(maxConns), accepted: make(chan net.Conn)}
	s.ctx, s.cancel = context.WithCancel(n.ctx)
	return s
}

// newRaftTransport makes raft's transport over n's streams. Its Close closes
// every connection, so that requests under way end.
func newRaftTransport(n *TCPNetwork) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: n.streams,
		Stream:                n.streams,
		MaxPool:               raftPool,
		MaxRPCsInFlight:       1, // no pipelining: 0 would mean two
		Timeout:               n.opts.Timeout,
		Logger:                newRaftLogger(n.opts.Logger),
	})
}

// ServerAddr gives raft the id for an address, so that Dial learns whom raft wants.
func (s *raftStreams) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// Dial connects to a server by its id.
func (s *raftStreams) Dial(id raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	addr, ok := s.network.resolve(raft.ServerID(id))
	if !ok {
		return nil, fmt.Errorf("no address known for %s", id)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, _, err := s.network.dial(ctx, addr, kindRaft, raft.ServerID(id))
	if err != nil {
		return nil, err
	}
	return s.conns.add(conn)
}

// hand gives an accepted connection to raft.
func (s *raftStreams) hand(conn net.Conn) {
	conn, err := s.conns.add(conn)
	if err != nil {
		return
	}
	select {
	case s.accepted <- conn:
	case <-s.ctx.Done():
		conn.Close()
	}
}

// Accept returns the next connection from another node's raft.
func (s *raftStreams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Addr is the listener's, which is not always what other nodes dial.
func (s *raftStreams) Addr() net.Addr { return s.network.listener.Addr() }

// Close closes raft's connections, in both directions. The listener goes on for
// the node channel.
func (s *raftStreams) Close() error {
	s.cancel()
	s.conns.close()
	return nil
}
