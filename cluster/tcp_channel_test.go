package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// tcpNode is one end of a channel under test.
type tcpNode struct {
	*TCPNetwork
	Channel
	self Identity
	book *addressBook
	raft raft.Transport
}

func (n *tcpNode) id() raft.ServerID { return n.self.ServerID() }
func (n *tcpNode) addr() string      { return n.listener.Addr().String() }
func (n *tcpNode) Close() error      { return n.TCPNetwork.Close() }

// newTCPNode opens a node that answers requests with what serve returns; nil
// leaves it without a handler.
func newTCPNode(t testing.TB, self Identity, l net.Listener, opts TCPOptions, serve func(Identity, Method, []byte) ([]byte, error)) *tcpNode {
	t.Helper()
	n := &tcpNode{TCPNetwork: NewTCPNetwork(l, opts), self: self, book: &addressBook{}}
	t.Cleanup(func() { n.Close() })
	var err error
	if n.raft, n.Channel, err = n.Open(self, n.book.resolve); err != nil {
		t.Fatal(err)
	}
	if serve != nil {
		n.Handle(func(from Identity, m Method, req []byte, reply func([]byte, error)) { reply(serve(from, m, req)) })
	}
	return n
}

// openConns counts a node's connections.
func openConns(n *tcpNode) int {
	n.conns.mu.Lock()
	defer n.conns.mu.Unlock()
	return len(n.conns.conns)
}

func (n *tcpNode) knows(other *tcpNode) { n.book.set(other.id(), other.addr()) }

func echoRequest(_ Identity, _ Method, req []byte) ([]byte, error) { return req, nil }

// newTCPPair returns two nodes; the first knows the second.
func newTCPPair(t testing.TB, serve func(Identity, Method, []byte) ([]byte, error)) (a, b *tcpNode) {
	a = newTCPNode(t, Identity{"a", "1"}, listen(t), TCPOptions{}, echoRequest)
	b = newTCPNode(t, Identity{"b", "2"}, listen(t), TCPOptions{}, serve)
	a.knows(b)
	return a, b
}

type callOutcome struct {
	answer []byte
	err    error
}

// startCall sends a request and returns where its callOutcome arrives. A second call of
// done fails the test.
func startCall(t testing.TB, ctx context.Context, c Channel, to raft.ServerID, m Method, req []byte) <-chan callOutcome {
	ch := make(chan callOutcome, 1)
	var calls atomic.Int32
	c.Send(ctx, to, m, req, func(answer []byte, err error) {
		if calls.Add(1) > 1 {
			t.Errorf("done called again, with %v", err)
			return
		}
		ch <- callOutcome{answer, err}
	})
	return ch
}

func oneCall(t testing.TB, c Channel, to raft.ServerID, m Method, req []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o := <-startCall(t, ctx, c, to, m, req)
	return o.answer, o.err
}

func TestTCPChannel_AnswersWithWhomItComesFrom(t *testing.T) {
	a, b := newTCPPair(t, func(from Identity, m Method, req []byte) ([]byte, error) {
		if m == 9 {
			return nil, RemoteError("no, " + string(req))
		}
		return fmt.Appendf(nil, "%s %d %s", from.ServerID(), m, req), nil
	})
	for _, req := range []string{"", "x", string(bytes.Repeat([]byte("y"), 3<<20))} {
		got, err := oneCall(t, a, b.id(), 7, []byte(req))
		if want := "a.1 7 " + req; err != nil || string(got) != want {
			t.Errorf("request of %d bytes: got %d bytes, %v", len(req), len(got), err)
		}
	}
	_, err := oneCall(t, a, b.id(), 9, []byte("Ada"))
	var remote RemoteError
	if !errors.As(err, &remote) || remote != "no, Ada" || errors.Is(err, ErrNotSent) {
		t.Errorf("got %v, want the other side's error", err)
	}
	from, got, err := a.Dial(t.Context(), b.addr(), 7, []byte("x"))
	if err != nil || from != b.self || string(got) != "a.1 7 x" {
		t.Errorf("dial: %v %q %v", from, got, err)
	}
	if _, _, err = a.Dial(t.Context(), b.addr(), 9, []byte("Ada")); !errors.As(err, &remote) || remote != "no, Ada" {
		t.Errorf("dial: got %v, want the other side's error", err)
	}
	if from, _, err := a.Dial(t.Context(), a.addr(), 7, nil); err != nil || from != a.self {
		t.Errorf("dial to oneself: %v %v", from, err)
	}
}

func TestTCPChannel_KeepsOrderPerSender(t *testing.T) {
	var mu sync.Mutex
	var got []uint32
	a, b := newTCPPair(t, nil)
	b.Handle(func(_ Identity, _ Method, req []byte, reply func([]byte, error)) {
		n := binary.BigEndian.Uint32(req)
		mu.Lock()
		got = append(got, n)
		mu.Unlock()
		go reply(req, nil) // answers in any order
	})
	const total = 3000
	outcomes := make([]<-chan callOutcome, total)
	for i := range outcomes {
		outcomes[i] = startCall(t, t.Context(), a, b.id(), 1, binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	for i, ch := range outcomes {
		o := <-ch
		if o.err != nil || binary.BigEndian.Uint32(o.answer) != uint32(i) {
			t.Fatalf("request %d: %v %v", i, o.answer, o.err)
		}
	}
	if len(got) != total || !slices.IsSorted(got) {
		t.Errorf("%d requests arrived, in order: %v", len(got), slices.IsSorted(got))
	}
}

func TestTCPChannel_RequestsWaitForTheHandler(t *testing.T) {
	a, b := newTCPPair(t, nil)
	ch := startCall(t, t.Context(), a, b.id(), 1, []byte("early"))
	pollUntil(t, "the request's connection is there", func() bool { return openConns(b) == 1 })
	b.Handle(func(_ Identity, _ Method, req []byte, reply func([]byte, error)) { reply(req, nil) })
	if o := <-ch; o.err != nil || string(o.answer) != "early" {
		t.Errorf("got %q, %v", o.answer, o.err)
	}
}

func TestTCPChannel_SaysWhatCertainlyDidNotLeave(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	refused := func(name string, to raft.ServerID, req []byte, want error) {
		t.Helper()
		_, err := oneCall(t, a, to, 1, req)
		if !errors.Is(err, ErrNotSent) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want ErrNotSent with %v", name, err, want)
		}
	}
	refused("no address", "nobody.9", nil, errNoAddress)
	refused("too large", b.id(), make([]byte, maxPayload+1), errFrameLength)
	a.book.set("c.3", nobodyListens(t))
	refused("nobody listens", "c.3", nil, nil)
	a.book.set("c.3", b.addr())
	refused("another answers", "c.3", nil, nil)
	if _, _, err := a.Dial(t.Context(), nobodyListens(t), 1, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("dial: got %v, want ErrNotSent", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if o := <-startCall(t, ended, a, b.id(), 1, nil); !errors.Is(o.err, ErrNotSent) || !errors.Is(o.err, context.Canceled) {
		t.Errorf("ended before: got %v, want ErrNotSent", o.err)
	}
	a.Close()
	refused("closed", b.id(), nil, errChannelClosed)
}

// A dialled address where somebody else answers is an error that names both, for
// the node channel and for raft, also when only the data directory is another.
func TestTCPNetwork_NeverTakesAnotherForWhoIsWanted(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	for _, want := range []raft.ServerID{"c.3", "b.1"} {
		a.book.set(want, b.addr())
		_, chErr := oneCall(t, a, want, 1, nil)
		_, raftErr := a.streams.Dial(raft.ServerAddress(want), time.Minute)
		for _, err := range []error{chErr, raftErr} {
			var wrong *WrongPeerError
			if !errors.As(err, &wrong) || wrong.Got != b.self || wrong.Want != want {
				t.Errorf("wanted %s: got %v, want that b.2 answers", want, err)
			}
		}
	}
	// Raft's own requests go through the same check.
	trans := a.raft.(*raft.NetworkTransport)
	err := trans.RequestVote("b.1", "", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
	var wrong *WrongPeerError
	if !errors.As(err, &wrong) {
		t.Errorf("raft: got %v", err)
	}
}

// An acceptor that lies about whom it took us for is not believed either.
func TestTCPNetwork_ChecksTheAcceptorsNameItself(t *testing.T) {
	l := listen(t)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := readHello(conn); err == nil {
			conn.Write(welcome{statusWelcome, Identity{"x", "9"}}.append(nil))
		}
		io.Copy(io.Discard, conn)
	}()
	a := newTCPNode(t, Identity{"a", "1"}, listen(t), TCPOptions{}, echoRequest)
	a.book.set("b.2", l.Addr().String())
	_, err := oneCall(t, a, "b.2", 1, []byte("secret"))
	var wrong *WrongPeerError
	if !errors.As(err, &wrong) || wrong.Got != (Identity{"x", "9"}) {
		t.Errorf("got %v, want that x.9 answers", err)
	}
}

func TestTCPChannel_ABrokenConnectionFailsWhatWasSent(t *testing.T) {
	a, b := newTCPPair(t, nil)
	arrived := make(chan struct{}, 2)
	b.Handle(func(Identity, Method, []byte, func([]byte, error)) { arrived <- struct{}{} })
	first := startCall(t, t.Context(), a, b.id(), 1, nil)
	second := startCall(t, t.Context(), a, b.id(), 1, nil)
	<-arrived
	<-arrived
	l := b.listener.Addr().String()
	b.Close()
	for _, ch := range []<-chan callOutcome{first, second} {
		if o := <-ch; o.err == nil || errors.Is(o.err, ErrNotSent) || !errors.Is(o.err, errConnBroken) {
			t.Errorf("got %v, want that the connection broke", o.err)
		}
	}
	if _, err := oneCall(t, a, b.id(), 1, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("while it is down: got %v, want ErrNotSent", err)
	}
	again, err := net.Listen("tcp", l)
	if err != nil {
		t.Fatal(err)
	}
	newTCPNode(t, b.self, again, TCPOptions{}, echoRequest)
	pollUntil(t, "the peer is reached again", func() bool {
		got, err := oneCall(t, a, b.id(), 1, []byte("x"))
		return err == nil && string(got) == "x"
	})
}

func TestTCPChannel_FollowsAnAddressThatMoves(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	if _, err := oneCall(t, a, b.id(), 1, nil); err != nil {
		t.Fatal(err)
	}
	b.Close()
	moved := newTCPNode(t, b.self, listen(t), TCPOptions{}, func(Identity, Method, []byte) ([]byte, error) { return []byte("here"), nil })
	a.knows(moved)
	pollUntil(t, "the peer is reached where it is now", func() bool {
		got, err := oneCall(t, a, b.id(), 1, nil)
		return err == nil && string(got) == "here"
	})
}

func TestTCPChannel_CtxEndsARequest(t *testing.T) {
	a, b := newTCPPair(t, nil)
	arrived := make(chan func([]byte, error), 1)
	b.Handle(func(_ Identity, m Method, req []byte, reply func([]byte, error)) {
		if m == 2 {
			reply(req, nil)
			return
		}
		arrived <- reply
	})
	ctx, cancel := context.WithCancel(t.Context())
	ch := startCall(t, ctx, a, b.id(), 1, nil)
	late := <-arrived
	cancel()
	if o := <-ch; !errors.Is(o.err, context.Canceled) || errors.Is(o.err, ErrNotSent) {
		t.Errorf("got %v, want canceled and not ErrNotSent", o.err)
	}
	late([]byte("too late"), nil) // dropped, and harms nobody
	if got, err := oneCall(t, a, b.id(), 2, []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("after a late answer: %q, %v", got, err)
	}

	// Somebody who accepts and never says who it is: nothing leaves.
	mute := listen(t)
	defer mute.Close()
	a.book.set("m.1", mute.Addr().String())
	ctx, cancel = context.WithCancel(t.Context())
	ch = startCall(t, ctx, a, "m.1", 1, nil)
	cancel()
	if o := <-ch; !errors.Is(o.err, ErrNotSent) || !errors.Is(o.err, context.Canceled) {
		t.Errorf("queued: got %v, want canceled and ErrNotSent", o.err)
	}
}

func TestTCPChannel_ItsQueueIsBounded(t *testing.T) {
	mute := listen(t)
	defer mute.Close()
	a := newTCPNode(t, Identity{"a", "1"}, listen(t), TCPOptions{HandshakeTimeout: time.Hour}, echoRequest)
	a.book.set("m.1", mute.Addr().String())
	a.book.set("m.2", mute.Addr().String())
	var waiting []<-chan callOutcome
	for range maxCalls {
		waiting = append(waiting, startCall(t, t.Context(), a, "m.1", 1, nil))
	}
	if o := <-startCall(t, t.Context(), a, "m.1", 1, nil); !errors.Is(o.err, ErrNotSent) || !errors.Is(o.err, errQueueFull) {
		t.Errorf("one call too many: got %v", o.err)
	}
	large := make([]byte, maxPayload)
	for range maxQueued/maxPayload + 1 {
		waiting = append(waiting, startCall(t, t.Context(), a, "m.2", 1, large))
	}
	if o := <-startCall(t, t.Context(), a, "m.2", 1, nil); !errors.Is(o.err, errQueueFull) {
		t.Errorf("over the bytes: got %v", o.err)
	}
	a.Close()
	for _, ch := range waiting {
		if o := <-ch; !errors.Is(o.err, ErrNotSent) {
			t.Fatalf("got %v, want ErrNotSent: nobody answered the handshake", o.err)
		}
	}
}

// Whatever happens, each done is called exactly once, and Close waits for all.
func TestTCPChannel_CloseFinishesEveryCall(t *testing.T) {
	a, b := newTCPPair(t, nil)
	b.Handle(func(_ Identity, _ Method, req []byte, reply func([]byte, error)) {
		if req[0]%3 != 0 {
			go reply(req, nil)
		}
	})
	const senders, each = 8, 200
	var finished, sent atomic.Int32
	var group sync.WaitGroup
	for s := range senders {
		group.Go(func() {
			for i := range each {
				ctx, cancel := context.WithCancel(t.Context())
				var once atomic.Bool
				sent.Add(1)
				a.Send(ctx, b.id(), 1, []byte{byte(i)}, func([]byte, error) {
					if once.Swap(true) {
						t.Error("done called twice")
					}
					finished.Add(1)
				})
				if i%5 == 0 {
					cancel()
				}
				defer cancel()
				if s == 0 && i == each/2 {
					b.Channel.Close()
				}
			}
		})
	}
	group.Wait()
	a.Channel.Close()
	a.Channel.Close()
	if finished.Load() != sent.Load() {
		t.Errorf("%d calls finished when Close returned, %d were made", finished.Load(), sent.Load())
	}
}

// rawDial speaks the protocol by hand.
func rawDial(t testing.TB, to *tcpNode, h hello) (net.Conn, welcome) {
	t.Helper()
	conn, err := net.Dial("tcp", to.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(h.append(nil)); err != nil {
		t.Fatal(err)
	}
	w, err := readWelcome(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, w
}

// ended fails unless the other side closes the connection.
func ended(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

func TestTCPNetwork_RefusesWhatIsNoPeer(t *testing.T) {
	_, b := newTCPPair(t, echoRequest)
	from := Identity{"z", "7"}
	for _, c := range []struct {
		hello hello
		want  connStatus
	}{
		{hello{kind: kindChannel, from: from, want: "b.2"}, statusWelcome},
		{hello{kind: kindDial, from: from}, statusWelcome},
		{hello{kind: kindRaft, from: from, want: "b.3"}, statusWrongPeer},
		{hello{kind: kindRaft, from: from}, statusBadRequest},
		{hello{kind: kindDial, from: from, want: "b.2"}, statusBadRequest},
		{hello{kind: 9, from: from, want: "b.2"}, statusNotSpoken},
	} {
		conn, w := rawDial(t, b, c.hello)
		if w.status != c.want || w.from != b.self {
			t.Errorf("%+v: got %v from %v, want %v", c.hello, w.status, w.from, c.want)
		}
		if w.status != statusWelcome {
			ended(t, conn)
		}
	}
	for _, junk := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00", "CNCV\x01\x01\x00\x00\x00"} {
		conn, err := net.Dial("tcp", b.addr())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		conn.Write([]byte(junk))
		ended(t, conn)
		conn.Close()
	}
}

func TestTCPChannel_AHugeFrameEndsOnlyItsConnection(t *testing.T) {
	a, b := newTCPPair(t, echoRequest)
	if _, err := oneCall(t, a, b.id(), 1, nil); err != nil {
		t.Fatal(err)
	}
	for _, length := range []uint32{0, frameHead - 1, maxFrame + 1, 1<<32 - 1} {
		conn, _ := rawDial(t, b, hello{kind: kindChannel, from: Identity{"z", "7"}, want: b.id()})
		conn.Write(binary.BigEndian.AppendUint32(nil, length))
		ended(t, conn)
	}
	if got, err := oneCall(t, a, b.id(), 1, make([]byte, maxPayload)); err != nil || len(got) != maxPayload {
		t.Errorf("largest frame: %d bytes, %v", len(got), err)
	}
}

// Who asks without reading the answers is cut, and asked to wait before that.
func TestTCPChannel_BoundsWhatItOwes(t *testing.T) {
	_, b := newTCPPair(t, nil)
	var owed atomic.Int32
	requests := make(chan func([]byte, error), 3*maxCalls)
	b.Handle(func(_ Identity, _ Method, _ []byte, reply func([]byte, error)) {
		if n := owed.Add(1); n > maxCalls {
			t.Errorf("%d requests are served at once", n)
		}
		requests <- reply
	})
	conn, _ := rawDial(t, b, hello{kind: kindChannel, from: Identity{"z", "7"}, want: b.id()})
	w := bufio.NewWriter(conn)
	for i := range 2 * maxCalls {
		writeFrame(w, frame{id: uint64(i), tag: 1})
	}
	w.Flush()
	for range 2 * maxCalls {
		reply := <-requests
		owed.Add(-1)
		reply(nil, nil)
	}
	conn, _ = rawDial(t, b, hello{kind: kindChannel, from: Identity{"z", "8"}, want: b.id()})
	w.Reset(conn)
	large := make([]byte, 4<<20)
	for i := range 2 * maxQueued / len(large) {
		writeFrame(w, frame{id: uint64(i), tag: 1})
	}
	w.Flush()
	for range 2 * maxQueued / len(large) {
		(<-requests)(large, nil)
	}
	ended(t, conn)
}

// Those that connect and say nothing hold up others for the handshake's time at most.
func TestTCPNetwork_SilentConnectionsEnd(t *testing.T) {
	b := newTCPNode(t, Identity{"b", "2"}, listen(t), TCPOptions{HandshakeTimeout: 100 * time.Millisecond}, echoRequest)
	a := newTCPNode(t, Identity{"a", "1"}, listen(t), TCPOptions{}, echoRequest)
	var silent []net.Conn
	for range maxHandshakes + 5 {
		conn, err := net.Dial("tcp", b.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	pollUntil(t, "somebody else gets through", func() bool {
		_, _, err := a.Dial(t.Context(), b.addr(), 1, nil)
		return err == nil
	})
	for _, conn := range silent {
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		ended(t, conn)
	}
}

func TestTCPNetwork_WaitsForOpenAndClosesTwice(t *testing.T) {
	a := newTCPNode(t, Identity{"a", "1"}, listen(t), TCPOptions{HandshakeTimeout: time.Minute}, echoRequest)
	b := NewTCPNetwork(listen(t), TCPOptions{})
	defer b.Close()
	early := make(chan error, 1)
	go func() {
		_, _, err := a.Dial(t.Context(), b.listener.Addr().String(), 1, nil)
		early <- err
	}()
	pollUntil(t, "the dial is under way", func() bool { return openConns(a) == 1 })
	book := &addressBook{}
	_, channel, err := b.Open(Identity{"b", "2"}, book.resolve)
	if err != nil {
		t.Fatal(err)
	}
	channel.Handle(func(_ Identity, _ Method, _ []byte, reply func([]byte, error)) { reply(nil, nil) })
	if err := <-early; err != nil {
		t.Errorf("dial before Open: %v", err)
	}
	if _, _, err := b.Open(Identity{"b", "2"}, book.resolve); err == nil {
		t.Error("opened twice")
	}
	b.Close()
	b.Close()
	never := NewTCPNetwork(listen(t), TCPOptions{})
	never.Close()
	if _, _, err := never.Open(Identity{"b", "2"}, book.resolve); err == nil {
		t.Error("opened after Close")
	}
}

func TestTCPNetwork_CloseLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := newTCPPair(t, echoRequest)
	b.knows(a)
	for range 20 {
		if _, err := oneCall(t, a, b.id(), 1, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := oneCall(t, b, a.id(), 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	// A request of raft's that nobody answers: no raft runs on the other side.
	lost := make(chan error, 1)
	go func() {
		lost <- a.raft.RequestVote(b.id(), "", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
	}()
	pollUntil(t, "raft's connection is there", func() bool { return openConns(b) == 3 })
	a.Close()
	if err := <-lost; err == nil {
		t.Error("raft got an answer from nobody")
	}
	b.Close()
	pollUntil(t, "every goroutine has ended, raft's own too", func() bool { return runtime.NumGoroutine() <= before })
}

// flakyListener fails now and then, as one does when file descriptors run out.
type flakyListener struct {
	net.Listener
	calls atomic.Int32
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.calls.Add(1)%2 == 1 {
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestTCPNetwork_GoesOnAcceptingAfterAnError(t *testing.T) {
	a := newTCPNode(t, Identity{"a", "1"}, listen(t), TCPOptions{}, echoRequest)
	b := newTCPNode(t, Identity{"b", "2"}, &flakyListener{Listener: listen(t)}, TCPOptions{}, echoRequest)
	for range 3 {
		if _, _, err := a.Dial(t.Context(), b.addr(), 1, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// testCA makes certificates for 127.0.0.1.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{key: key, pool: x509.NewCertPool()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.pool.AddCert(ca.cert)
	return ca
}

func (ca *testCA) config(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      ca.pool, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func TestTCPNetwork_SpeaksTLSUnderneath(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	node := func(name string, config *tls.Config) *tcpNode {
		return newTCPNode(t, Identity{name, "1"}, listen(t), TCPOptions{TLS: config}, echoRequest)
	}
	b := node("b", ca.config(t))
	a := node("a", ca.config(t))
	a.knows(b)
	if got, err := oneCall(t, a, b.id(), 1, []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("with a certificate: %q, %v", got, err)
	}
	conn, err := a.streams.Dial(raft.ServerAddress(b.id()), time.Minute)
	if err != nil {
		t.Fatalf("raft: %v", err)
	}
	conn.Close()
	stranger := other.config(t)
	stranger.RootCAs = ca.pool // it trusts us, we do not trust it
	for _, n := range []*tcpNode{node("c", nil), node("d", stranger)} {
		n.knows(b)
		if _, err := oneCall(t, n, b.id(), 1, nil); err == nil {
			t.Errorf("%s got through without a certificate", n.self)
		}
	}
}
