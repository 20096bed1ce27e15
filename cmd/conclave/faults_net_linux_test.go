package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a small network of its own: a namespace for each node, all on a bridge
// in one more, in which the clients dial. Nothing of it is reachable from the
// machine or from outside, and nothing of the machine's network is touched.
type netns struct {
	t     *testing.T
	hub   string
	nodes []*namespace
}

// namespace is where one node lives.
type namespace struct {
	name, ip string
}

const netnsPrefix = "conclave-test-"

// isolate gives each node of a cluster a namespace. The test is skipped, with the
// reason, where that is not possible.
func isolate(t *testing.T, c *testCluster) *netns {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("partitions between network namespaces need root")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("partitions between network namespaces need %s: %v", tool, err)
		}
	}
	sweepNamespaces(t)
	own := fmt.Sprintf("%s%d-", netnsPrefix, os.Getpid())
	n := &netns{t: t, hub: own + "hub"}
	if out, err := exec.Command("ip", "netns", "add", n.hub).CombinedOutput(); err != nil {
		t.Skipf("this machine gives no network namespaces: %v: %s", err, out)
	}
	t.Cleanup(func() { n.remove(n.hub) })
	n.ip("-n", n.hub, "link", "add", "br0", "type", "bridge")
	n.ip("-n", n.hub, "addr", "add", "10.77.0.254/24", "dev", "br0")
	n.ip("-n", n.hub, "link", "set", "br0", "up")
	for i, node := range c.nodes {
		s := &namespace{own + node.id, fmt.Sprintf("10.77.0.%d", i+1)}
		n.ip("netns", "add", s.name)
		t.Cleanup(func() { n.remove(s.name) })
		n.nodes = append(n.nodes, s)
		port := "p" + strconv.Itoa(i+1)
		n.ip("link", "add", "eth0", "netns", s.name, "type", "veth", "peer", "name", port, "netns", n.hub)
		n.ip("-n", n.hub, "link", "set", port, "master", "br0", "up")
		n.ip("-n", s.name, "addr", "add", s.ip+"/24", "dev", "eth0")
		n.ip("-n", s.name, "link", "set", "eth0", "up")
		n.ip("-n", s.name, "link", "set", "lo", "up")
		if out, err := n.iptables(s, "-L"); err != nil {
			t.Skipf("iptables does not work in this machine's namespaces: %v: %s", err, out)
		}
		elsewhere.Store(s.ip, n.dial)
		t.Cleanup(func() { elsewhere.Delete(s.ip) })
		node.within = []string{"ip", "netns", "exec", s.name}
		node.http, node.peer = s.ip+":7400", s.ip+":7500"
		node.args = []string{"--insecure"} // nobody else is on that network
	}
	return n
}

// sweepNamespaces removes what a test that was killed has left.
func sweepNamespaces(t *testing.T) {
	names, _ := filepath.Glob("/var/run/netns/" + netnsPrefix + "*")
	for _, path := range names {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, netnsPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && !alive(n) {
			t.Logf("removing namespace %s of a test that has ended", name)
			exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

func (n *netns) remove(name string) {
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		n.t.Errorf("remove namespace %s: %v: %s", name, err, out)
	}
}

func (n *netns) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n *netns) iptables(at *namespace, args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"netns", "exec", at.name, "iptables", "-w"}, args...)...).CombinedOutput()
	return string(out), err
}

// deaf makes a node hear nothing, or not everything, from another.
func (n *netns) deaf(at, from *namespace, match ...string) {
	n.t.Helper()
	args := append([]string{"-A", "INPUT", "-s", from.ip}, match...)
	if out, err := n.iptables(at, append(args, "-j", "DROP")...); err != nil {
		n.t.Fatalf("iptables: %v: %s", err, out)
	}
}

// apart cuts the connection between two nodes.
func (n *netns) apart(a, b *namespace) {
	n.t.Helper()
	n.deaf(a, b)
	n.deaf(b, a)
}

// heal lets everything through again.
func (n *netns) heal() {
	n.t.Helper()
	for _, s := range n.nodes {
		if out, err := n.iptables(s, "-F"); err != nil {
			n.t.Fatalf("iptables: %v: %s", err, out)
		}
	}
}

// of is where a node lives, and where the others do.
func (n *netns) of(node *testNode) (own *namespace, others []*namespace) {
	for _, s := range n.nodes {
		if node.peer == s.ip+":7500" {
			own = s
		} else {
			others = append(others, s)
		}
	}
	return own, others
}

// dial makes a connection from within the hub. A socket belongs to the namespace in
// which its thread was when it was made.
func (n *netns) dial(ctx context.Context, network, addr string) (_ net.Conn, err error) {
	runtime.LockOSThread()
	defer func() {
		// A thread that cannot go back is not used again: it ends with its goroutine.
		if err == nil || !errors.Is(err, errAstray) {
			runtime.UnlockOSThread()
		}
	}()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	hub, err := os.Open("/var/run/netns/" + n.hub)
	if err != nil {
		return nil, err
	}
	defer hub.Close()
	if err := unix.Setns(int(hub.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", n.hub, err)
	}
	d := net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}
	conn, err := d.DialContext(ctx, network, addr)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, errors.Join(errAstray, back)
	}
	return conn, err
}

var errAstray = errors.New("the thread cannot go back to its namespace")

// The nodes cannot hear each other, in part or in one direction, or not every
// packet. Clients reach all nodes meanwhile: those that are cut off too, which must
// not answer from what they have.
func TestG2_G14_faults_of_the_network(t *testing.T) {
	c := prepareCluster(t, 3)
	n := isolate(t, c)
	c.found(comparing...)
	tr := startTrial(c)
	// cut has a leader cut off by f from each of the others, which go on without it.
	cut := func(f func(leader, other *namespace)) func() func() {
		return func() func() {
			leader := tr.leader()
			own, others := n.of(leader)
			for _, o := range others {
				f(own, o)
			}
			tr.succeeded(leader)
			return n.heal
		}
	}
	tr.run(2,
		mishap{"the leader is cut off", cut(n.apart)},
		mishap{"the leader does not hear", cut(func(leader, other *namespace) { n.deaf(leader, other) })},
		mishap{"the leader is not heard", cut(func(leader, other *namespace) { n.deaf(other, leader) })},
		mishap{"a follower is cut off", func() func() {
			own, others := n.of(tr.other(tr.leader()))
			for _, o := range others {
				n.apart(own, o)
			}
			tr.more(10)
			return n.heal
		}},
		mishap{"the leader and one follower do not hear each other", func() func() {
			leader := tr.leader()
			own, _ := n.of(leader)
			other, _ := n.of(tr.other(leader))
			n.apart(own, other)
			tr.more(10) // led by whom both reach, or by the same as before
			return n.heal
		}},
		mishap{"nobody hears anybody", func() func() {
			for i, s := range n.nodes {
				for _, o := range n.nodes[:i] {
					n.apart(s, o)
				}
			}
			// Nobody can be asked who leads. Whoever does steps down.
			eventually(t, "every node says that it has no leader", func() bool {
				for _, node := range tr.nodes {
					if s := node.status(); s == nil || s.Leader != nil {
						return false
					}
				}
				return true
			})
			return n.heal
		}},
		mishap{"a fifth of the packets is lost", func() func() {
			for _, s := range n.nodes {
				for _, o := range n.nodes {
					if s != o {
						n.deaf(s, o, "-m", "statistic", "--mode", "random", "--probability", "0.2")
					}
				}
			}
			tr.more(20)
			return n.heal
		}},
	)
}

// A node in a namespace is the process that was started, and alone there: `ip
// netns exec` becomes it, so that signals reach it.
func TestFaults_a_node_in_a_namespace_is_the_process_started(t *testing.T) {
	c := prepareCluster(t, 1)
	isolate(t, c)
	c.found()
	n := c.nodes[0]
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.cmd.Process.Pid))
	if err != nil || exe != binary {
		t.Errorf("the process runs %s, %v, want %s", exe, err, binary)
	}
	own, err1 := os.Readlink("/proc/self/ns/net")
	its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.cmd.Process.Pid))
	if err1 != nil || err2 != nil || own == its {
		t.Errorf("the node is in namespace %s, %v, and this test in %s, %v", its, err2, own, err1)
	}
	n.signal(syscall.SIGTERM)
	if code := n.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
