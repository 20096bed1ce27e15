package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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

func BenchmarkTCPChannel(b *testing.B) {
	a, peer := newTCPPair(b, echoRequest)
	req := make([]byte, 256)
	b.Run("one caller", func(b *testing.B) {
		for b.Loop() {
			if _, err := oneCall(b, a, peer.id(), 1, req); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("64 callers", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := oneCall(b, a, peer.id(), 1, req); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
