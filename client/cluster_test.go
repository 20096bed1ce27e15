package client_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"conclave/api"
	"conclave/client"
	"conclave/cluster"
)

// servers is a real cluster of three nodes in this process. Clients reach each
// node through a proxy that can cut their connections.
type servers struct {
	t     testing.TB
	nodes []*server
	peers []string
}

type server struct {
	cfg   cluster.Config
	peer  string // address of raft
	proxy *proxy

	net  *cluster.TCPNetwork
	node *cluster.Node
	api  *api.Server
	http *http.Server
	done chan struct{} // http.Server has ended
}

// startServers founds a cluster and waits until all nodes serve.
func startServers(t testing.TB) *servers {
	t.Helper()
	s := &servers{t: t}
	for i := range 3 {
		listener := listen(t, "127.0.0.1:0")
		store := raft.NewInmemStore()
		n := &server{
			peer: listener.Addr().String(), net: cluster.NewTCPNetwork(listener, cluster.TCPOptions{}),
			cfg: cluster.Config{
				ID: fmt.Sprint("n", i+1), Log: store, Stable: store, Snapshots: raft.NewInmemSnapshotStore(),
				Timeout: 300 * time.Millisecond, Version: "test",
				Fatal: func(err error) { t.Errorf("a node stops: %v", err) },
			},
		}
		s.peers = append(s.peers, n.peer)
		s.nodes = append(s.nodes, n)
	}
	for _, n := range s.nodes {
		n.cfg.Join, n.cfg.BootstrapExpect = s.peers, 3
		n.proxy = newProxy(t)
		s.start(n)
	}
	t.Cleanup(func() {
		// All that clients have left behind is seen to while there is a quorum.
		for _, n := range s.nodes {
			s.silence(n)
		}
		for _, n := range s.nodes {
			s.stop(n)
			n.proxy.close()
		}
	})
	s.ready()
	return s
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func (s *servers) start(n *server) {
	s.t.Helper()
	if n.net == nil {
		n.net = cluster.NewTCPNetwork(listen(s.t, n.peer), cluster.TCPOptions{})
	}
	n.cfg.Network, n.cfg.PeerAddr = n.net, n.peer
	node, err := cluster.Open(n.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	n.node = node
	n.api = api.New(api.Config{Version: "test"}, api.Of(node))
	n.http = &http.Server{Handler: n.api.Handler()}
	n.done = make(chan struct{})
	listener := listen(s.t, "127.0.0.1:0")
	go func() { defer close(n.done); n.http.Serve(listener) }()
	n.proxy.to(listener.Addr().String())
}

// stop takes a node away, with its state kept: clients first, then the node.
func (s *servers) stop(n *server) {
	s.silence(n)
	if n.node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.node.Close(ctx); err != nil {
		s.t.Errorf("close %s: %v", n.cfg.ID, err)
	}
	n.net.Close()
	n.node, n.net = nil, nil
}

// silence ends what a node does for clients.
func (s *servers) silence(n *server) {
	if n.api == nil {
		return
	}
	n.proxy.to("")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.api.Close(ctx); err != nil {
		s.t.Errorf("close the api of %s: %v", n.cfg.ID, err)
	}
	n.http.Close()
	<-n.done
	n.api = nil
}

func (s *servers) ready() {
	s.t.Helper()
	for _, n := range s.nodes {
		if n.node != nil {
			eventually(s.t, n.cfg.ID+" serves", func() bool { return len(n.node.Ready()) == 0 })
		}
	}
}

// leader is the node that leads.
func (s *servers) leader() (leader *server) {
	s.t.Helper()
	eventually(s.t, "a leader", func() bool {
		for _, n := range s.nodes {
			if n.node != nil && n.node.Status(s.t.Context()).Leader == n.cfg.ID {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// config gives the addresses of all nodes, or of those named by index.
func (s *servers) config(only ...int) client.Config {
	var c client.Config
	for i, n := range s.nodes {
		if len(only) == 0 || contains(only, i) {
			c.Servers = append(c.Servers, n.proxy.addr())
		}
	}
	return c
}

func contains(list []int, i int) bool {
	for _, x := range list {
		if x == i {
			return true
		}
	}
	return false
}

// dial makes a client of those nodes.
func (s *servers) dial(only ...int) *client.Client {
	s.t.Helper()
	c, err := client.Dial(s.t.Context(), s.config(only...))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// join joins a room through those nodes.
func (s *servers) join(room string, only ...int) *client.Room {
	s.t.Helper()
	r, err := s.dial(only...).Join(patience(s.t), room, client.JoinOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *servers) http() *client.HTTP {
	s.t.Helper()
	h, err := client.NewHTTP(client.HTTPConfig{Config: s.config(), Patience: time.Minute})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.Close() })
	return h
}

// patience is a context that outlasts everything that may happen in a test.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// proxy passes connections on to a node, whose address may change, and breaks
// them on demand, as a network does.
type proxy struct {
	listener net.Listener
	work     sync.WaitGroup
	back     func(net.Conn) io.Writer // what a client's connection gets passes through it; nil: it gets all

	mu     sync.Mutex
	target string            // "" refuses; guarded by mu
	conns  map[net.Conn]bool // guarded by mu
}

func newProxy(t testing.TB) *proxy { return newProxyThrough(t, nil) }

func newProxyThrough(t testing.TB, back func(net.Conn) io.Writer) *proxy {
	p := &proxy{listener: listen(t, "127.0.0.1:0"), conns: map[net.Conn]bool{}, back: back}
	p.work.Go(func() {
		for {
			conn, err := p.listener.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.pass(conn) })
		}
	})
	return p
}

func (p *proxy) addr() string { return "http://" + p.listener.Addr().String() }

// to sends new connections to target from now on, and breaks the others.
func (p *proxy) to(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.cut()
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) close() {
	p.listener.Close()
	p.to("")
	p.work.Wait()
}

// keep remembers a connection while it is passed on, unless it came too late.
func (p *proxy) keep(conn net.Conn, keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !keep {
		delete(p.conns, conn)
		conn.Close()
		return
	}
	p.conns[conn] = true
}

func (p *proxy) pass(from net.Conn) {
	p.keep(from, true)
	defer p.keep(from, false)
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	if target == "" {
		return
	}
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	p.keep(to, true)
	defer p.keep(to, false)
	back := make(chan struct{})
	go func() {
		defer close(back)
		if p.back == nil {
			io.Copy(from, to)
		} else {
			io.Copy(p.back(from), to)
		}
		from.Close()
	}()
	io.Copy(to, from)
	to.Close()
	<-back
}
