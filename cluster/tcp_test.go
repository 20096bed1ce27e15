package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

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
