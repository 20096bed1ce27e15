package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
)

// Conditions say how well the network works while no link is cut. Probabilities
// are per message. The zero value is a perfect network without delay.
type Conditions struct {
	Delay, Jitter time.Duration // one way: Delay plus up to Jitter
	Spike         float64       // probability of a delay twenty times as long
	Loss          float64       // a raft RPC or its answer vanishes, or its connection breaks
	Duplicate     float64       // a raft RPC arrives twice
	Reset         float64       // a message on the node channel breaks its connection
}

// LAN is a good network, Rough one where things go wrong all the time, Lossy one
// that hardly is one.
var (
	LAN   = Conditions{Delay: 200 * time.Microsecond, Jitter: 300 * time.Microsecond}
	Rough = Conditions{
		Delay: 500 * time.Microsecond, Jitter: 4 * time.Millisecond,
		Spike: 0.01, Loss: 0.005, Duplicate: 0.01, Reset: 0.002,
	}
	Lossy = Conditions{
		Delay: time.Millisecond, Jitter: 15 * time.Millisecond,
		Spike: 0.05, Loss: 0.05, Duplicate: 0.1, Reset: 0.03,
	}
)

const (
	rpcTimeout  = 500 * time.Millisecond // a raft RPC without an answer
	dialTimeout = time.Second            // a connection that cannot be made
	stallLimit  = 15 * time.Second       // a connection whose data does not get through breaks by then
	queueLimit  = 4096                   // requests waiting for a connection
)

// Network connects the hosts of a simulated cluster. Links are directed and
// between hosts, whatever address a host has at the moment.
//
// What happens to messages on a cut link differs as it does in life: a raft RPC
// is lost, or held and delivered late if the link heals; a node channel's
// connection holds its messages, in order, until the link heals or it breaks.
type Network struct {
	done chan struct{} // closed by Close
	wg   *tasks        // every goroutine of the network

	mu    sync.Mutex // guards what follows, and the fields of hosts
	rng   *rand.Rand
	cond  Conditions
	hosts map[string]*host
	addrs map[string]*host
	cuts  map[link]chan struct{} // closed when the link heals
	// severed are the links on which connections are refused, made by the first host
	// of the link, and reset.
	severed map[link]bool
}

type link struct{ from, to string }

// host is a machine with a name for ever and an address for now. It implements
// cluster.Network for the process that runs there.
type host struct {
	net  *Network
	name string

	addr      string
	paused    chan struct{} // closed on resume; nil while running
	transport *transport    // nil while no process listens
	channel   *channel
	calls     map[string]int // raft's requests of other hosts that are being handled here
}

// NewNetwork makes a network. It draws from rng, under its own lock.
func NewNetwork(rng *rand.Rand, cond Conditions) *Network {
	return &Network{
		done: make(chan struct{}), wg: newTasks(), rng: rng, cond: cond,
		hosts: map[string]*host{}, addrs: map[string]*host{}, cuts: map[link]chan struct{}{}, severed: map[link]bool{},
	}
}

// Host returns what the process on a host hands to cluster.Open. The first call
// for a name makes the host and gives it its address.
func (n *Network) Host(name, addr string) cluster.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &host{net: n, name: name, addr: addr, calls: map[string]int{}}
		n.hosts[name], n.addrs[addr] = h, h
	}
	return h
}

// Open implements cluster.Network.
func (h *host) Open(self cluster.Identity, resolve func(raft.ServerID) (string, bool)) (raft.Transport, cluster.Channel, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.transport != nil || h.channel != nil {
		return nil, nil, fmt.Errorf("listen on %s: address in use", h.addr)
	}
	h.transport = newTransport(h, self, resolve)
	h.channel = newChannel(h, self, resolve)
	return h.transport, h.channel, nil
}

// SetConditions changes how well the network works from now on.
func (n *Network) SetConditions(c Conditions) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cond = c
}

// Cut stops messages from one host to another, not the other way.
func (n *Network) Cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := (link{from, to}); n.cuts[l] == nil {
		n.cuts[l] = make(chan struct{})
	}
}

// Reset breaks the connections that one host has made to another, whose processes
// both live: they can make new ones at once.
func (n *Network) Reset(from, to string) {
	n.mu.Lock()
	c := n.hosts[from].channel
	n.mu.Unlock()
	if c != nil {
		c.reset(to)
	}
}

// Sever breaks them and has new ones refused until Heal, as a firewall does that
// rejects. A host that cannot reach another so may still be reached by it.
func (n *Network) Sever(from, to string) {
	n.mu.Lock()
	n.severed[link{from, to}] = true
	n.mu.Unlock()
	n.Reset(from, to)
}

func (n *Network) isSevered(from, to *host) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.severed[link{from.name, to.name}]
}

// calls reports whether a host has connections to another, or raft still handles
// there what it asked for: a process has some while it lives.
func (n *Network) calls(from string, to *host) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[from]
	return to.calls[from] > 0 || h != nil && h.transport != nil && !n.severed[link{from, to.name}]
}

// handling counts a request of raft's while it is being handled.
func (n *Network) handling(from, to *host, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to.calls[from.name] += by
}

// Partition cuts all links between hosts of different groups. Hosts in no group
// keep their links.
func (n *Network) Partition(groups ...[]string) {
	for i, group := range groups {
		for j, other := range groups {
			for _, from := range group {
				for _, to := range other {
					if i != j {
						n.Cut(from, to)
					}
				}
			}
		}
	}
}

// Heal restores all links.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l, healed := range n.cuts {
		close(healed)
		delete(n.cuts, l)
	}
	clear(n.severed)
}

// Pause holds everything that leaves or reaches a host, and refuses nothing: the
// process is stopped, its kernel is not. Resume lets it all go on.
func (n *Network) Pause(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[name]; h.paused == nil {
		h.paused = make(chan struct{})
	}
}

// Resume ends a Pause.
func (n *Network) Resume(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[name]; h.paused != nil {
		close(h.paused)
		h.paused = nil
	}
}

// Swap exchanges the addresses of two hosts, as pods may on a restart.
func (n *Network) Swap(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x, y := n.hosts[a], n.hosts[b]
	x.addr, y.addr = y.addr, x.addr
	n.addrs[x.addr], n.addrs[y.addr] = x, y
}

// Addr is a host's present address.
func (n *Network) Addr(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[name].addr
}

// Kill is the death of the process on a host: nothing it still sends leaves, its
// connections are reset, and the address is refused until the next Open.
func (n *Network) Kill(name string) {
	n.mu.Lock()
	h := n.hosts[name]
	t, c := h.transport, h.channel
	h.transport, h.channel = nil, nil
	n.mu.Unlock()
	if t != nil {
		t.Close()
	}
	if c != nil {
		c.Close()
	}
}

// Close ends the network and waits for its goroutines. Close the nodes first.
func (n *Network) Close() {
	for name := range n.hosts {
		n.Kill(name)
	}
	close(n.done)
	n.wg.Wait()
}

// fate is what will happen to one message.
type fate struct {
	delay      time.Duration
	lost       bool // vanishes
	broken     bool // its connection breaks: the sender learns at once
	atCut      bool // vanishes if the link is cut (else it waits there)
	answer     bool // lost and broken hit the answer, not the request
	duplicated bool
	lingers    bool          // of a breaking connection: what is on its way still arrives
	stall      time.Duration // how long its connection endures a cut link
}

func (n *Network) fate() fate {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, r := n.cond, n.rng
	f := fate{
		delay:      c.Delay,
		answer:     r.IntN(2) == 0,
		atCut:      r.IntN(2) == 0,
		duplicated: r.Float64() < c.Duplicate,
		lingers:    r.IntN(3) == 0,
		stall:      stallLimit/8 + time.Duration(r.Int64N(int64(stallLimit*7/8))),
	}
	if c.Jitter > 0 {
		f.delay += time.Duration(r.Int64N(int64(c.Jitter)))
	}
	if r.Float64() < c.Spike {
		f.delay *= 20
	}
	if r.Float64() < c.Loss {
		f.lost = r.IntN(2) == 0
		f.broken = !f.lost
	}
	return f
}

// chance draws with probability p.
func (n *Network) chance(p func(Conditions) float64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rng.Float64() < p(n.cond)
}

// barrier is what a message waits for on its way from one host to another: the
// end of a cut, or of the receiver's pause. Nil when the way is free.
func (n *Network) barrier(from, to *host) (wait <-chan struct{}, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if healed := n.cuts[link{from.name, to.name}]; healed != nil {
		return healed, true
	}
	return to.paused, false
}

// depart waits until the process on a host runs; what it says while paused does
// not leave. It returns false when stop closes first.
func (n *Network) depart(from *host, stop <-chan struct{}) bool {
	for {
		n.mu.Lock()
		paused := from.paused
		n.mu.Unlock()
		if paused == nil {
			return true
		}
		select {
		case <-stop:
			return false
		default:
		}
		select {
		case <-paused:
		case <-stop:
			return false
		case <-n.done:
			return false
		}
	}
}

// at finds who listens at an address; nil when nobody does.
func (n *Network) at(addr string) *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addrs[addr]
}

// travel carries a message from one host to another. It returns false when the
// message is given up: because stop closes, or because it met a cut link and
// loseAtCut is set.
func (n *Network) travel(from, to *host, delay time.Duration, loseAtCut bool, stop <-chan struct{}) bool {
	if !n.sleep(delay, stop) {
		return false
	}
	for {
		wait, cut := n.barrier(from, to)
		if wait == nil {
			return true
		}
		if cut && loseAtCut {
			return false
		}
		select {
		case <-wait:
		case <-stop:
			return false
		case <-n.done:
			return false
		}
	}
}

// sleep waits, unless stop closes first.
func (n *Network) sleep(d time.Duration, stop <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	case <-n.done:
		return false
	}
}
