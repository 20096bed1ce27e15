package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
)

// transport is raft's half of a process's network. RPCs are independent of each
// other: they overtake, get lost, come twice. As over TCP, the identity at the
// other end is verified and a dead process is noticed at once.
type transport struct {
	host    *host
	self    cluster.Identity
	resolve func(raft.ServerID) (string, bool)

	consumer chan raft.RPC // unbuffered, as the network transport's: a request is raft's or the sender's
	once     sync.Once
	down     chan struct{} // closed by Close, or when the process is killed
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

var (
	errTimeout = errors.New("i/o timeout")
	errReset   = errors.New("connection reset by peer")
	errRefused = errors.New("connection refused")
	errClosed  = errors.New("transport closed")
)

func newTransport(h *host, self cluster.Identity, resolve func(raft.ServerID) (string, bool)) *transport {
	return &transport{
		host: h, self: self, resolve: resolve,
		consumer: make(chan raft.RPC), down: make(chan struct{}),
	}
}

func (t *transport) Consumer() <-chan raft.RPC { return t.consumer }

// LocalAddr is the host's present address; raft itself sees ids, by the node's
// wrapper around this transport.
func (t *transport) LocalAddr() raft.ServerAddress {
	return raft.ServerAddress(t.host.net.Addr(t.host.name))
}

func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }
func (t *transport) DecodePeer(b []byte) raft.ServerAddress                   { return raft.ServerAddress(b) }
func (t *transport) SetHeartbeatHandler(func(raft.RPC))                       {}

// AppendEntriesPipeline: nodes replicate one request at a time.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Close ends the transport: callers and callees on it fail at once.
func (t *transport) Close() error {
	t.once.Do(func() {
		t.host.net.mu.Lock()
		if t.host.transport == t {
			t.host.transport = nil
		}
		t.host.net.mu.Unlock()
		close(t.down)
	})
	return nil
}

// closed tells that the process is dead: what it held back never leaves.
func (t *transport) closed() bool {
	select {
	case <-t.down:
		return true
	default:
		return false
	}
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	// Raft reuses the request for the next call, and the other side's log must
	// not share entries with ours.
	sent := *args
	sent.Entries = make([]*raft.Log, len(args.Entries))
	for i, entry := range args.Entries {
		log := *entry
		sent.Entries[i] = &log
	}
	return call(t, id, &sent, resp, nil)
}

func (t *transport) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	sent := *args
	return call(t, id, &sent, resp, nil)
}

func (t *transport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	sent := *args
	return call(t, id, &sent, resp, nil)
}

func (t *transport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	sent := *args
	return call(t, id, &sent, resp, nil)
}

// InstallSnapshot reads the snapshot here and hands the bytes over with the
// request; when the connection is to break, the reader breaks half way.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	content, err := io.ReadAll(data)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	sent := *args
	return call(t, id, &sent, resp, content)
}

// call makes one RPC: a goroutine carries it, so that it may arrive after the
// caller has given up, as packets do.
func call[R any](t *transport, id raft.ServerID, args any, resp *R, snapshot []byte) error {
	to, err := t.find(id)
	if err != nil {
		return err
	}
	net, f := t.host.net, t.host.net.fate()
	answer := make(chan raft.RPCResponse, 1)
	net.wg.Go(func() { t.carry(to, id, args, snapshot, f, answer) })
	if f.duplicated && snapshot == nil {
		again := net.fate()
		net.wg.Go(func() { t.carry(to, id, args, nil, again, make(chan raft.RPCResponse, 1)) })
	}

	timeout := rpcTimeout
	if snapshot != nil {
		timeout *= 10
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case got := <-answer:
		if got.Error != nil {
			return got.Error
		}
		*resp = *got.Response.(*R)
		return nil
	case <-timer.C:
		return errTimeout
	case <-t.down:
		return errClosed
	}
}

// find resolves a server id to the host that has its address now; who answers
// there is verified on arrival.
func (t *transport) find(id raft.ServerID) (*host, error) {
	addr, ok := t.resolve(id)
	if !ok {
		return nil, fmt.Errorf("dial %s: no address", id)
	}
	to := t.host.net.at(addr)
	if to == nil {
		return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
	}
	return to, nil
}

// carry takes a request to the other host and its answer back.
func (t *transport) carry(to *host, id raft.ServerID, args any, snapshot []byte, f fate, answer chan<- raft.RPCResponse) {
	net, from := t.host.net, t.host
	stop := make(chan struct{})
	limit := time.AfterFunc(stallLimit, func() { close(stop) })
	defer limit.Stop()
	// What has not left when the process dies never will; what has, travels on
	// for a while.
	if !net.depart(from, stop) || t.closed() {
		return
	}
	if f.lost && !f.answer || !net.travel(from, to, f.delay, f.atCut, stop) {
		return
	}
	// A request that breaks its connection arrives nowhere, an answer that does was
	// given: the sender cannot tell which it was.
	if f.broken && !f.answer && snapshot == nil {
		answer <- raft.RPCResponse{Error: errReset}
		return
	}
	if net.isSevered(from, to) {
		answer <- raft.RPCResponse{Error: errReset}
		return
	}
	net.handling(from, to, 1)
	got, ok := hand(to, id, args, snapshot, f, stop)
	net.handling(from, to, -1)
	back := net.fate()
	if !ok || f.lost || !net.depart(to, stop) || !net.travel(to, from, back.delay, back.atCut, stop) {
		return
	}
	if f.broken {
		got = raft.RPCResponse{Error: errReset}
	}
	answer <- got
}

// hand gives a request to the process that listens on a host and waits for what
// it says. ok is false when there is nothing to send back.
func hand(to *host, id raft.ServerID, args any, snapshot []byte, f fate, stop <-chan struct{}) (raft.RPCResponse, bool) {
	to.net.mu.Lock()
	callee := to.transport
	to.net.mu.Unlock()
	switch {
	case callee == nil:
		return raft.RPCResponse{Error: errRefused}, true
	case callee.self.ServerID() != id:
		return raft.RPCResponse{Error: fmt.Errorf("dial %s: %s answers", id, callee.self.ServerID())}, true
	}
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: args, RespChan: answer}
	if snapshot != nil {
		rpc.Reader = bytes.NewReader(snapshot)
		if f.broken {
			// Half of it is there when the connection breaks: raft must not use it.
			rpc.Reader = io.MultiReader(bytes.NewReader(snapshot[:len(snapshot)/2]), broken{})
		}
	}
	// A process takes a request when its raft gets to it, or dies with it.
	select {
	case callee.consumer <- rpc:
	case <-callee.down:
		return raft.RPCResponse{Error: errReset}, true
	case <-stop:
		return raft.RPCResponse{}, false
	case <-to.net.done:
		return raft.RPCResponse{}, false
	}
	select {
	case got := <-answer:
		return got, true
	case <-callee.down:
		return raft.RPCResponse{Error: errReset}, true
	case <-stop:
		return raft.RPCResponse{}, false
	case <-to.net.done:
		return raft.RPCResponse{}, false
	}
}

// broken is the rest of a stream whose connection broke.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errReset }
