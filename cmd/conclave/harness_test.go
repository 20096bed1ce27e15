package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// binary is the program under test, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "conclave-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "conclave")
		args := []string{"build", "-ldflags", "-X main.version=e2e", "-o", binary}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, ".")...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the program under test:", err)
			return 1
		}
		return m.Run()
	}())
}

// patience bounds every wait of these tests. It is generous, since machines are
// slow and shared: no test passes or fails by how long something took.
const patience = 60 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	if !within(patience, condition) {
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// within looks at a condition again and again, the more seldom the longer it takes,
// and reports whether it came true.
func within(limit time.Duration, condition func() bool) bool {
	for begun := time.Now(); ; {
		if condition() {
			return true
		}
		waited := time.Since(begun)
		if waited > limit {
			return false
		}
		time.Sleep(min(20*time.Millisecond+waited/20, 200*time.Millisecond))
	}
}

// testNode is one `conclave serve` process, and its data across restarts.
type testNode struct {
	t              *testing.T
	id, http, peer string
	args           []string
	within         []string // what the process is started by, in place of this one
	data           string
	log            lockedBuffer
	began          int // where the log of the last start begins

	cmd   *exec.Cmd     // nil when the process does not run
	ended chan struct{} // closed when the process has ended, of err
	err   error
}

// lockedBuffer collects the output of processes.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// testCluster is a cluster of processes on loopback.
type testCluster struct {
	t     *testing.T
	nodes []*testNode
}

// startCluster starts n nodes that found a cluster together and waits until all
// of them serve.
func startCluster(t *testing.T, n int, args ...string) *testCluster {
	t.Helper()
	c := prepareCluster(t, n)
	c.found(args...)
	return c
}

// prepareCluster makes n nodes, to be changed before they found a cluster.
func prepareCluster(t *testing.T, n int) *testCluster {
	t.Helper()
	c := &testCluster{t: t}
	for i := range n {
		c.add(fmt.Sprintf("n%d", i+1))
	}
	return c
}

// found starts all nodes, each with its own flags and these, and waits until all
// serve.
func (c *testCluster) found(args ...string) {
	c.t.Helper()
	var peers []string
	for _, node := range c.nodes {
		peers = append(peers, node.dialled())
	}
	for _, node := range c.nodes {
		node.args = slices.Concat([]string{"--bootstrap-expect", strconv.Itoa(len(c.nodes)), "--join", strings.Join(peers, ",")}, args, node.args)
		node.start()
	}
	for _, node := range c.nodes {
		node.ready()
	}
}

// dialled is the address at which other nodes find the node.
func (n *testNode) dialled() string {
	if i := slices.Index(n.args, "--peer-advertise"); i >= 0 {
		return n.args[i+1]
	}
	return n.peer
}

// add makes a node that is not started yet.
func (c *testCluster) add(id string, args ...string) *testNode {
	node := &testNode{
		t: c.t, id: id, args: args,
		http: freeAddr(c.t), peer: freeAddr(c.t),
		data: filepath.Join(c.t.TempDir(), id),
	}
	c.nodes = append(c.nodes, node)
	c.t.Cleanup(func() {
		node.kill()
		if c.t.Failed() {
			log := node.log.String()
			c.t.Logf("log of %s (its end):\n%s", id, log[max(0, len(log)-6000):])
		}
	})
	return node
}

// givenPorts are those that freePorts has given out, each once.
var givenPorts = struct {
	sync.Mutex
	m map[int]bool
}{m: map[int]bool{}}

// freePorts finds n loopback ports in a row on which nobody listens, and returns
// the first. They stay below the ports that the kernel gives to outgoing
// connections, which could take them again before a node listens on them.
func freePorts(t *testing.T, n int) (first int) {
	t.Helper()
	givenPorts.Lock()
	defer givenPorts.Unlock()
search:
	for range 1000 {
		first = 10000 + rand.IntN(20000)
		for port := first; port < first+n; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				continue search
			}
			l.Close()
			if givenPorts.m[port] {
				continue search
			}
		}
		for port := first; port < first+n; port++ {
			givenPorts.m[port] = true
		}
		return first
	}
	t.Fatal("no free ports found")
	return 0
}

func freeAddr(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePorts(t, 1)))
}

// withLogStores runs a test for each log store, or for the one of LOG_STORE.
func withLogStores(t *testing.T, test func(t *testing.T, store string)) {
	stores := []string{"bolt", "wal"}
	if s := os.Getenv("LOG_STORE"); s != "" {
		stores = []string{s}
	}
	for _, store := range stores {
		t.Run(store, func(t *testing.T) { test(t, store) })
	}
}

// start starts the node's process. LOG_STORE is for nodes of which nothing else is said.
func (n *testNode) start() {
	n.t.Helper()
	args := append([]string{"serve", "--id", n.id, "--data", n.data, "--http", n.http, "--peer", n.peer, "--log-level", "info"}, n.args...)
	if s := os.Getenv("LOG_STORE"); s != "" && !slices.Contains(n.args, "--log-store") {
		args = append(args, "--log-store", s)
	}
	command := slices.Concat(n.within, []string{binary}, args)
	n.cmd = exec.Command(command[0], command[1:]...)
	n.cmd.SysProcAttr = childAttr()
	n.began = len(n.log.String())
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	cmd, ended := n.cmd, make(chan struct{})
	n.ended = ended
	go func() {
		n.err = cmd.Wait()
		close(ended)
	}()
}

// ready waits until the node serves.
func (n *testNode) ready() {
	n.t.Helper()
	h := n.http1()
	defer h.Close()
	eventually(n.t, n.id+" serves", func() bool {
		select {
		case <-n.ended:
			n.t.Fatalf("%s ended: %v", n.id, n.err)
		default:
		}
		ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
		defer cancel()
		_, err := h.Rooms(ctx, "", "", 1) // a linearizable read
		return err == nil
	})
}

// kill ends the process as a power failure would.
func (n *testNode) kill() {
	if n.cmd == nil {
		return
	}
	n.cmd.Process.Kill()
	<-n.ended
	n.cmd = nil
}

// stop ends the process in order and returns its exit code.
func (n *testNode) stop() int {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	return n.wait()
}

// wait waits until the process has ended, and returns its exit code.
func (n *testNode) wait() int {
	n.t.Helper()
	select {
	case <-n.ended:
		n.cmd = nil
		if n.err != nil {
			return exitStatus(n.err)
		}
		return 0
	case <-time.After(patience):
		n.t.Fatalf("%s did not end within %v", n.id, patience)
		return -1
	}
}

func (n *testNode) signal(sig syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatalf("%v to %s: %v", sig, n.id, err)
	}
}

// url is where the node serves clients.
func (n *testNode) url() string { return "http://" + n.http }

// http1 is a client that asks this node only, once.
func (n *testNode) http1() *client.HTTP { return newHTTP(n.t, -1, n.url()) }

func newHTTP(t *testing.T, patience time.Duration, servers ...string) *client.HTTP {
	t.Helper()
	h, err := client.NewHTTP(client.HTTPConfig{
		Config: client.Config{Servers: servers, DialContext: dialNode}, Patience: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// dialNode reaches nodes on loopback, and in namespaces of this test's own.
func dialNode(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	if dial, ok := elsewhere.Load(host); ok {
		return dial.(func(context.Context, string, string) (net.Conn, error))(ctx, network, addr)
	}
	d := net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}
	return d.DialContext(ctx, network, addr)
}

// elsewhere has, for hosts that are not on loopback, how they are dialled.
var elsewhere sync.Map

// urls are all nodes' URLs, beginning with that of the i-th.
func (c *testCluster) urls(i int) []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.url())
	}
	return slices.Concat(urls[i:], urls[:i])
}

// http is a client that goes on at another node for as long as these tests wait,
// beginning with the i-th.
func (c *testCluster) http(i int) *client.HTTP {
	h := newHTTP(c.t, patience, c.urls(i)...)
	c.t.Cleanup(func() { h.Close() })
	return h
}

// node finds a node by its id.
func (c *testCluster) node(id string) *testNode {
	i := slices.IndexFunc(c.nodes, func(n *testNode) bool { return n.id == id })
	if i < 0 {
		c.t.Fatalf("no node %q", id)
	}
	return c.nodes[i]
}

// leader waits until a node leads that those given (all that run, by default)
// agree on, and returns it.
func (c *testCluster) leader(among ...*testNode) *testNode {
	c.t.Helper()
	if among == nil {
		for _, n := range c.nodes {
			if n.cmd != nil {
				among = append(among, n)
			}
		}
	}
	var leader *testNode
	eventually(c.t, "the nodes agree on a leader", func() bool {
		leader = nil
		for _, n := range among {
			s := n.status()
			if s == nil || s.Leader == nil || leader != nil && leader.id != *s.Leader {
				return false
			}
			leader = c.node(*s.Leader)
		}
		return slices.Contains(among, leader)
	})
	return leader
}

// status is the cluster as the node sees it, nil when it does not answer.
func (n *testNode) status() *wire.Cluster {
	h := n.http1()
	defer h.Close()
	ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
	defer cancel()
	s, err := h.Cluster(ctx)
	if err != nil {
		return nil
	}
	return s
}

// member finds a member in the status that a node gives; the zero Member if it is not there.
func (n *testNode) member(id string) (m wire.Member) {
	if s := n.status(); s != nil {
		for _, m := range s.Members {
			if m.ID == id {
				return m
			}
		}
	}
	return m
}

// conclave runs the command line client against some servers.
func (c *testCluster) conclave(servers []string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, append(args, "--server", strings.Join(servers, ","))...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		code = exitStatus(err)
	}
	return out.String(), errs.String(), code
}
