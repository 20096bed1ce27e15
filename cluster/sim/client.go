package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// Limits are those of the sessions that simulated clients open: the protocol's
// profile "standard".
var Limits = fsm.Limits{
	ValueBytes: 64 << 10, KeysPerStore: 1000, Stores: 32, SessionBytes: 1 << 20, Peers: 2500, PeerDataBytes: 4 << 10,
	MessageBytes: 4 << 10, Locks: 1000, LockWaiters: 1000, WritesPerS: 100, WritesBurst: 200,
}

// Client is one user of the cluster. It talks to any node, one request at a
// time, records what it asked and what it was told, and repeats requests only as
// their class allows: what is certainly not applied at will, what is unknown under
// the same request id.
type Client struct {
	Name string
	c    *Cluster
	h    *History
	rng  *rand.Rand

	at      *Server // the only one it talks to; nil: any
	caller  fsm.Caller
	request uint64        // the last request id
	patient bool          // never gives a request up
	think   time.Duration // about how long it waits between requests
}

// NewClient makes a client with its own random decisions.
func (c *Cluster) NewClient(h *History, name string) *Client {
	var salt uint64
	for _, b := range []byte(name) {
		salt = salt*131 + uint64(b)
	}
	return &Client{
		Name: name, c: c, h: h, rng: rand.New(rand.NewPCG(c.opts.Seed, salt)),
		caller: fsm.Caller{User: name}, think: 50 * time.Millisecond,
	}
}

// pause is the time between two requests.
func (k *Client) pause() { time.Sleep(time.Duration(k.rng.Int64N(int64(2 * k.think)))) }

// On has the client talk to one server only.
func (k *Client) On(i int) *Client {
	k.at = k.c.Server(i)
	return k
}

// any is a running process of those it talks to; it waits for one. Once the test
// is over none will come: then the client's goroutine ends.
func (k *Client) any() (*Server, *process) {
	for {
		select {
		case <-k.c.over:
			runtime.Goexit()
		default:
		}
		servers := k.c.Servers()
		s := servers[k.rng.IntN(len(servers))]
		if k.at != nil {
			s = k.at
		}
		if p := s.process(); p != nil {
			return s, p
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// dead tells that the process was killed: what it says from then on was never
// sent.
func (p *process) dead() bool {
	select {
	case <-p.killed:
		return true
	default:
		return false
	}
}

// Do sees a command through and records it. The command gets the client's
// caller and the next request id.
func (k *Client) Do(cmd *fsm.Command) *Op {
	k.request++
	cmd.Caller, cmd.Client, cmd.Request = k.caller, k.Name, k.request
	op := &Op{Client: k.Name, Command: cmd, Call: k.h.Now()}
	op.Outcome, op.Result = k.perform(cmd)
	op.Return = k.h.Now()
	k.h.addOp(op)
	return op
}

// perform tries until it knows the outcome or gives up.
func (k *Client) perform(cmd *fsm.Command) (Outcome, *fsm.Result) {
	known := NotApplied // until an attempt may have been applied
	for {
		_, p := k.any()
		result, err := p.node.Do(context.Background(), cmd)
		if p.dead() { // the process died before it could answer
			result, err = nil, &cluster.UnknownError{Reason: "connection reset"}
		}
		var unavailable *cluster.UnavailableError
		var unknown *cluster.UnknownError
		switch {
		case err == nil && result.Refusal == nil:
			return Applied, result
		case err == nil && forgotten(result.Refusal, known):
			return Unknown, nil
		case err == nil && result.Refusal.Code != fsm.CodeUnavailable:
			return Refused, result
		case err == nil: // a stale generation: certainly not applied, now
			return known, nil
		case errors.As(err, &unknown):
			known = Unknown
		case !errors.As(err, &unavailable):
			panic(fmt.Sprintf("%s: an error of no class: %v", k.Name, err))
		}
		if !k.patient && k.rng.IntN(4) == 0 {
			return known, nil
		}
		time.Sleep(time.Duration(k.rng.Int64N(int64(100 * time.Millisecond))))
	}
}

// forgotten tells whether a refusal says nothing about earlier attempts: they are
// not remembered any more, least of all once their session is over.
func forgotten(r *fsm.Refusal, known Outcome) bool {
	switch r.Code {
	case fsm.CodeUnknownOutcome:
		return true
	case fsm.CodeSessionEnded, fsm.CodeNoSession:
		return known == Unknown
	}
	return false
}

// Read reads keys of a room linearizably, and records it. It returns nil if the
// node could not serve it.
func (k *Client) Read(room string, keys ...string) *Reading {
	s, p := k.any()
	r := &Reading{Client: k.Name, Node: s.Name, Room: room, Call: k.h.Now(), Entries: map[string]*fsm.Entry{}}
	view, err := p.node.Read(context.Background())
	if err != nil || p.dead() {
		return nil
	}
	r.Return, r.Rev = k.h.Now(), view.Rev()
	if session := view.Session(room); session != nil {
		for _, key := range keys {
			r.Entries[key] = session.Entry(store, key)
		}
	} else {
		for _, key := range keys {
			r.Entries[key] = nil
		}
	}
	k.h.addRead(r)
	return r
}

// store is the one that simulated clients use.
const store = "default"

// opened are the numbers of the rooms that server clients use: long idle, so that
// no fault ends them.
func opened() *fsm.Open { return &fsm.Open{Limits: Limits, Idle: (24 * time.Hour).Milliseconds()} }

// single makes a command of one operation.
func single(room string, op fsm.Operation) *fsm.Command {
	if op.Kind != fsm.OpSend {
		op.Store = store
	}
	return &fsm.Command{
		Kind: fsm.CommandTxn, Room: room, Open: opened(),
		Txn: &fsm.Txn{Single: true, Then: []fsm.Operation{op}},
	}
}

// value draws a JSON value that nobody else writes.
func (k *Client) value() []byte { return fmt.Appendf(nil, `"%s.%d"`, k.Name, k.request+1) }

// Registers puts, compares and sets, deletes and reads a few keys, and writes some
// that are written together, and one that ends by itself. Until stop.
func (k *Client) Registers(room string, keys []string, stop <-chan struct{}) {
	seen := map[string]uint64{} // versions
	for ; !stopped(stop); k.pause() {
		key := keys[k.rng.IntN(len(keys))]
		var op *Op
		switch k.rng.IntN(10) {
		case 0, 1:
			op = k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value()}))
		case 2:
			op = k.Do(single(room, fsm.Operation{Kind: fsm.OpDelete, Key: key}))
		case 3, 4, 5:
			version := seen[key]
			op = k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value(), If: &fsm.If{Version: &version}}))
		case 6:
			k.pair(room)
			k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: "brief", Value: k.value(), TTL: 300}))
		default:
			if r := k.Read(room, slices.Concat(keys, pairKeys, []string{"brief"})...); r != nil {
				for key, e := range r.Entries {
					if seen[key] = 0; e != nil {
						seen[key] = e.Version
					}
				}
			}
		}
		switch {
		case op == nil || op.Result == nil:
		case op.Outcome == Applied:
			seen[key] = op.Result.Ops[0].Version
		case op.Result.Refusal.Code == fsm.CodeConflict:
			seen[key] = op.Result.Refusal.Details.Version
		}
	}
}

// pairKeys are always written together.
var pairKeys = []string{"left", "right"}

// pair writes both keys in one transaction.
func (k *Client) pair(room string) {
	cmd := &fsm.Command{Kind: fsm.CommandTxn, Room: room, Open: opened(), Txn: &fsm.Txn{}}
	for _, key := range pairKeys {
		cmd.Txn.Then = append(cmd.Txn.Then, fsm.Operation{Kind: fsm.OpPut, Store: store, Key: key, Value: k.value()})
	}
	k.Do(cmd)
}

// Pipeline submits puts to one key through a lane, many at a time, then through
// another lane of any node. Until stop.
func (k *Client) Pipeline(room, key string, stop <-chan struct{}) {
	for lanes := 0; !stopped(stop); lanes++ {
		_, p := k.any()
		queue := p.node.NewLane()
		count := 2 + k.rng.IntN(8)
		done := make(chan struct{}, count)
		for i := range count {
			k.request++
			cmd := single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: fmt.Appendf(nil, `"%s.%d"`, k.Name, k.request)})
			cmd.Caller, cmd.Client, cmd.Request = k.caller, k.Name, k.request
			op := &Op{Client: k.Name, Lane: fmt.Sprintf("%s/%d", k.Name, lanes), Place: i, Command: cmd, Call: k.h.Now()}
			queue.Submit(cmd, func(result *fsm.Result, err error) {
				k.settle(op, p, result, err)
				done <- struct{}{}
			})
		}
		for range count {
			<-done
		}
		k.pause()
	}
}

// settle records what became of a pipelined put, and that the node that answered
// shows it already. It runs on the node's goroutine.
func (k *Client) settle(op *Op, p *process, result *fsm.Result, err error) {
	var unavailable *cluster.UnavailableError
	op.Return = k.h.Now()
	switch {
	case p.dead():
	case errors.As(err, &unavailable):
		op.Outcome = NotApplied
	case err == nil && result.Refusal != nil:
		op.Outcome, op.Result = Refused, result
	case err == nil:
		op.Outcome, op.Result = Applied, result
		if got := p.node.View().Rev(); got < result.Rev {
			k.c.t.Errorf("%v was answered with rev %d while its node shows %d", op, result.Rev, got)
		}
	}
	k.h.addOp(op)
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
