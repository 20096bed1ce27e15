package cluster

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// losing reports what a node's channel says is lost.
func losing(n *tcpNode) <-chan raft.ServerID {
	lost := make(chan raft.ServerID, 16)
	n.Lost(func(id raft.ServerID) { lost <- id })
	return lost
}

// converse makes sure that a has a channel connection to b.
func converse(t *testing.T, a, b *tcpNode) {
	t.Helper()
	eventually(t, "an answer", func() bool { // a request on a connection that breaks has none
		_, err := oneCall(t, a, b.id(), 2, []byte("hello"))
		return err == nil
	})
}

func TestTCPChannel_Lost_WhenTheOtherProcessIsGone(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	b.knows(a)
	lost := losing(a)
	converse(t, a, b)
	converse(t, b, a)
	b.Close() // as the kernel does for a process that dies: all connections, and the listener
	select {
	case id := <-lost:
		if id != b.id() {
			t.Errorf("%s is lost, want %s", id, b.id())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told")
	}
}

// notLost lets a channel do what it does after the end of a connection, until it
// has had the time to look, and fails if it reports a loss. Waiting for nothing to
// happen takes as long as the looks that could report it.
func notLost(t *testing.T, lost <-chan raft.ServerID) {
	t.Helper()
	select {
	case id := <-lost:
		t.Errorf("%s is said to be lost", id)
	case <-time.After(3 * lastLook):
	}
}

func TestTCPChannel_Lost_NotWhenAConnectionBreaks(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	lost := losing(a)
	for range 5 {
		converse(t, a, b)
		b.conns.mu.Lock()
		for c := range b.conns.conns {
			c.Conn.Close()
		}
		b.conns.mu.Unlock()
	}
	notLost(t, lost)
	converse(t, a, b)
}

// A node whose port refuses, but which still has its own connections open, lives.
func TestTCPChannel_Lost_NotWhileItCalls(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	b.knows(a)
	lost := losing(a)
	converse(t, b, a)
	converse(t, a, b)
	b.listener.Close()
	b.conns.mu.Lock()
	for c := range b.conns.conns {
		if c.LocalAddr().String() == b.addr() { // accepted
			c.Conn.Close()
		}
	}
	b.conns.mu.Unlock()
	notLost(t, lost)
	converse(t, b, a)
}

// A dial that hangs says nothing about the process: its machine may be cut off.
func TestTCPChannel_Lost_NotWhenDiallingHangs(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	a.opts.HandshakeTimeout = 50 * time.Millisecond
	lost := losing(a)
	converse(t, a, b)
	silent := listen(t) // takes connections into its backlog and says nothing
	defer silent.Close()
	a.book.set(b.id(), silent.Addr().String())
	b.Close()
	notLost(t, lost)
}

func TestTCPChannel_Lost_NotWhenThisSideCloses(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	lost := losing(a)
	converse(t, a, b)
	a.conns.mu.Lock()
	for c := range a.conns.conns {
		c.Conn.Close()
	}
	a.conns.mu.Unlock()
	a.book.set(b.id(), nobodyListens(t)) // would be refused, if it were dialled
	notLost(t, lost)
}

func TestTransport_CampaignAsksBeforeEachAttempt(t *testing.T) {
	_, inner := raft.NewInmemTransport("")
	trans, err := newTransport(inner, "a.1")
	if err != nil {
		t.Fatal(err)
	}
	defer trans.Close()
	asked := 0
	if trans.Campaign(func() bool { asked++; return asked < 3 }) { // nobody takes it: raft is busy
		t.Error("stood for election though it may not")
	}
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
	took := make(chan raft.RPC)
	go func() { took <- <-trans.Consumer() }()
	if !trans.Campaign(func() bool { return true }) {
		t.Error("did not stand for election")
	}
	if rpc := <-took; rpc.Command.(*raft.TimeoutNowRequest).ProtocolVersion != raft.ProtocolVersionMax {
		t.Errorf("raft would not understand %+v", rpc.Command)
	}
}
