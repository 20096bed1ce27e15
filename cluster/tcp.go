package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// TCPOptions are the choices of NewTCPNetwork.
type TCPOptions struct {
	// TLS, if set, is used for both sides of every connection: Certificates to
	// present, RootCAs and ClientCAs to verify with, ClientAuth. ServerName, if
	// empty, is the host that is dialled.
	TLS *tls.Config
	// Timeout bounds one request of raft's, and one write to the node channel; a
	// peer that does not read for so long is given up. 0 means 10 s.
	Timeout time.Duration
	// HandshakeTimeout bounds dialling, TLS and the handshake; 0 means 3 s.
	HandshakeTimeout time.Duration
	// Logger takes what raft's transport and refused connections have to say; nil
	// discards.
	Logger *slog.Logger
}

const (
	maxConns      = 1024 // at once, dialled and accepted; a cluster needs some ten per node
	maxHandshakes = 64   // accepted connections that have not said who they are
)

var (
	errNetworkClosed = errors.New("network closed")
	errTooManyConns  = errors.New("too many connections")
)

// keepAlive finds out about peers that vanished without a word.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// TCPNetwork is the Network over TCP: one listener for raft and for the node
// channel, told apart by the handshake that begins every connection. Connections
// that arrive before Open wait in the listener's backlog.
//
// It owns its accept loop and a goroutine per accepted connection, and waits for
// them in Close.
type TCPNetwork struct {
	listener net.Listener
	opts     TCPOptions
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	conns    *connSet // all there are, those in handshake too
	callers  callers

	mu        sync.Mutex // guards what follows; self, resolve, streams, raft and channel are set once, by Open
	closed    bool
	opened    bool
	self      Identity
	resolve   func(raft.ServerID) (string, bool)
	streams   *raftStreams
	raft      *raft.NetworkTransport
	channel   *tcpChannel
	accepting sync.WaitGroup
}

var _ Network = (*TCPNetwork)(nil)

// NewTCPNetwork makes a network that other nodes reach at listener, which it
// closes at the end.
func NewTCPNetwork(listener net.Listener, opts TCPOptions) *TCPNetwork {
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.HandshakeTimeout == 0 {
		opts.HandshakeTimeout = 3 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	n := &TCPNetwork{listener: listener, opts: opts, conns: newConnSet(maxConns)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Open begins to answer under that identity. It can be called once.
func (n *TCPNetwork) Open(self Identity, resolve func(raft.ServerID) (string, bool)) (raft.Transport, Channel, error) {
	if err := self.check(); err != nil {
		return nil, nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, nil, errNetworkClosed
	}
	if n.opened {
		return nil, nil, errors.New("network opened twice")
	}
	n.opened, n.self, n.resolve = true, self, resolve
	n.streams = newRaftStreams(n)
	n.raft = newRaftTransport(n)
	n.channel = newTCPChannel(n)
	n.accepting.Go(n.accept)
	return n.raft, n.channel, nil
}

// Close closes the listener, the transports and every connection, and waits for
// what it started. It may be called twice.
func (n *TCPNetwork) Close() error {
	n.mu.Lock()
	first, opened := !n.closed, n.opened
	n.closed = true
	n.mu.Unlock()
	var err error
	if first {
		n.cancel()
		err = n.listener.Close()
		n.conns.close()
		if opened {
			n.raft.Close()
			n.channel.Close()
		}
	}
	n.accepting.Wait()
	return err
}

// accept takes connections for as long as the network is open, whatever goes
// wrong with single ones. It takes no more while many have not said who they are.
func (n *TCPNetwork) accept() {
	slots := make(chan struct{}, maxHandshakes)
	var pause time.Duration
	for {
		select {
		case slots <- struct{}{}:
		case <-n.ctx.Done():
			return
		}
		conn, err := n.listener.Accept()
		if err == nil {
			pause = 0
			n.accepting.Go(func() { n.welcome(conn, func() { <-slots }) })
			continue
		}
		<-slots
		if n.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		n.opts.Logger.Warn("accept peer connection", "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-n.ctx.Done():
			return
		}
	}
}

// welcome does an accepted connection's handshake and serves it. greeted is
// called when the handshake is over.
func (n *TCPNetwork) welcome(raw net.Conn, greeted func()) {
	conn, from, kind, err := n.greet(raw)
	greeted()
	if err != nil {
		n.opts.Logger.Warn("refuse peer connection", "remote", raw.RemoteAddr(), "error", err)
		return
	}
	conn = n.callers.add(from.ServerID(), conn)
	if kind == kindRaft {
		n.streams.hand(conn)
		return
	}
	n.channel.serveConn(conn, from)
}

// greet does the acceptor's side of the handshake; on error the connection is closed.
func (n *TCPNetwork) greet(raw net.Conn) (_ net.Conn, from Identity, _ connKind, err error) {
	conn, err := n.conns.add(raw)
	if err != nil {
		return nil, from, 0, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if tcp, ok := raw.(*net.TCPConn); ok {
		if err := tcp.SetKeepAliveConfig(keepAlive); err != nil {
			return nil, from, 0, err
		}
	}
	if n.opts.TLS != nil {
		conn = abruptConn{tls.Server(conn, n.opts.TLS), conn}
	}
	if err := conn.SetDeadline(time.Now().Add(n.opts.HandshakeTimeout)); err != nil {
		return nil, from, 0, err
	}
	h, err := readHello(conn)
	if err != nil {
		return nil, from, 0, fmt.Errorf("read handshake: %w", err)
	}
	a := welcomeFor(h, n.self)
	if _, err := conn.Write(a.append(nil)); err != nil {
		return nil, from, 0, fmt.Errorf("answer handshake: %w", err)
	}
	if a.status != statusWelcome {
		return nil, from, 0, fmt.Errorf("%s of %s wants %q: %s", h.kind, h.from.ServerID(), h.want, a.status)
	}
	return conn, h.from, h.kind, conn.SetDeadline(time.Time{})
}

// dial makes a connection to whoever is wanted, "" for anybody, at an address.
// ctx bounds the dialling only.
func (n *TCPNetwork) dial(ctx context.Context, addr string, kind connKind, want raft.ServerID) (_ net.Conn, got Identity, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("dial %s: %w", addr, err)
		}
	}()
	if len(want) > maxName {
		return nil, got, fmt.Errorf("server id %q is too long", want)
	}
	ctx, cancel := context.WithTimeout(ctx, n.opts.HandshakeTimeout)
	defer cancel()
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, got, err
	}
	conn, err := n.conns.add(raw)
	if err != nil {
		return nil, got, err
	}
	// Closing it ends TLS and the handshake when ctx does.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	if n.opts.TLS != nil {
		conn = abruptConn{tls.Client(conn, n.clientTLS(addr)), conn}
	}
	got, err = introduce(conn, hello{kind: kind, from: n.self, want: want}, addr)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
	}
	return conn, got, err
}

func (n *TCPNetwork) clientTLS(addr string) *tls.Config {
	if n.opts.TLS.ServerName != "" {
		return n.opts.TLS
	}
	c := n.opts.TLS.Clone()
	c.ServerName, _, _ = net.SplitHostPort(addr)
	return c
}
