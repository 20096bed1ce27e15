package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/anishathalye/porcupine"
)

// history is what clients, each of one node, asked about a few keys and were told.
// They ask once and never repeat, so an outcome that they do not know stays open:
// the request may take effect at any time after it was sent, or never.
type history struct {
	t     *testing.T
	room  string
	start time.Time
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu         sync.Mutex
	ops        map[string][]porcupine.Operation // by key
	count      int
	unknown    int
	notApplied int
	problems   []string
}

// perKey is how many requests a key gets before the clients go on to the next, so
// that the search for an order stays small.
const perKey = 150

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d requests recorded, %d of unknown outcome, %d not applied", h.count, h.unknown, h.notApplied)
}

// startHistory starts a client at each node, with the mixed load of the same room.
func (c *testCluster) startHistory(room string, pace time.Duration, seed uint64) *history {
	h := &history{t: c.t, room: room, start: time.Now(), ops: map[string][]porcupine.Operation{}}
	ctx, stop := context.WithCancel(c.t.Context())
	h.stop = stop
	h.t.Cleanup(func() { stop(); h.done.Wait() })
	for i, n := range c.nodes {
		for j := range 2 {
			id := 2*i + j
			asker := &asker{h: h, id: id, http: n.http1(), rng: rand.New(rand.NewPCG(seed, uint64(id)))}
			h.done.Go(func() {
				defer asker.http.Close()
				for ; ctx.Err() == nil; pause(ctx, pace) {
					if !asker.ask(ctx) {
						pause(ctx, 200*time.Millisecond) // its node is out of order
					}
				}
			})
		}
	}
	return h
}

// asker is one client of a history.
type asker struct {
	h       *history
	id      int
	http    *client.HTTP
	rng     *rand.Rand
	made    int
	version map[string]uint64 // last seen
}

type registerInput struct {
	do    string  // get, put, delete
	value string  // of a put
	if_   *uint64 // the version that it must have
}

type registerOutput struct {
	unknown, conflict bool
	version           uint64 // read, written or in the way
	value             string // read
	existed           bool   // before the delete
}

// ask makes one request and records it; false when there was no answer.
func (a *asker) ask(ctx context.Context) bool {
	a.h.mu.Lock()
	key := fmt.Sprintf("register-%d-%d", a.h.count/(3*perKey), a.rng.IntN(3))
	a.h.count++
	a.h.mu.Unlock()
	if a.version == nil {
		a.version = map[string]uint64{}
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	in, out := registerInput{do: "put"}, registerOutput{}
	call := time.Since(a.h.start)
	var err error
	switch dice := a.rng.IntN(20); {
	case dice < 10:
		in.do = "get"
		var e *wire.Entry
		if e, err = a.http.Get(ctx, a.h.room, key, client.ReadParams{}); err == nil {
			out.version = e.Version
			err = json.Unmarshal(e.Value, &out.value)
		} else if client.IsNotFound(err) {
			err = nil
		}
	case dice < 18:
		a.made++
		in.value = fmt.Sprintf("%d-%d", a.id, a.made)
		p := client.WriteParams{}
		if dice < 14 {
			v := a.version[key]
			in.if_, p.IfVersion = &v, &v
		}
		var w *client.Written
		if w, err = a.http.Put(ctx, a.h.room, key, in.value, p); err == nil {
			out.version = w.Version
		}
	default:
		in.do = "delete"
		var d *client.Deleted
		if d, err = a.http.Delete(ctx, a.h.room, key, client.WriteParams{}); err == nil {
			out.existed = d.Existed
		}
	}
	var refused *wire.Error
	if client.IsConflict(err) && errors.As(err, &refused) {
		v, _ := refused.Details["version"].(float64)
		out.conflict, out.version, err = true, uint64(v), nil
	}
	if err == nil {
		a.version[key] = out.version
	}
	return a.h.record(porcupine.Operation{
		ClientId: a.id, Input: in, Output: out, Call: int64(call), Return: int64(time.Since(a.h.start)),
	}, key, err)
}

func (h *history) record(op porcupine.Operation, key string, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var refused *wire.Error
	switch {
	case err == nil:
		h.ops[key] = append(h.ops[key], op)
		return true
	case errors.As(err, &refused) && refused.Retry == wire.RetrySafe:
		h.notApplied++
	case client.MayHaveApplied(err):
		h.unknown++
		op.Output, op.Return = registerOutput{unknown: true}, math.MaxInt64
		h.ops[key] = append(h.ops[key], op)
	case op.Input.(registerInput).do == "get":
		// No answer to a read says nothing.
	default:
		h.problems = append(h.problems, fmt.Sprintf("%s %s: %v", op.Input.(registerInput).do, key, err))
	}
	return false
}

// check ends the clients and searches, for each key, for one order that explains every answer.
func (h *history) check() {
	h.t.Helper()
	h.stop()
	h.done.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.problems[:min(5, len(h.problems))] {
		h.t.Error(p)
	}
	for key, ops := range h.ops {
		switch porcupine.CheckOperationsTimeout(register, ops, patience) {
		case porcupine.Illegal:
			h.t.Errorf("%s is not linearizable: %d requests", key, len(ops))
		case porcupine.Unknown:
			h.t.Errorf("%s could not be judged within %v: %d requests", key, patience, len(ops))
		}
	}
}

// registerState is a key; version 0 says that there is none.
type registerState struct {
	version uint64
	value   string
}

var register = porcupine.Model{
	Init: func() any { return registerState{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(registerState), input.(registerInput), output.(registerOutput)
		fits := in.if_ == nil || *in.if_ == s.version
		switch {
		case in.do == "get":
			return out.unknown || out.version == s.version && out.value == s.value, s
		case out.conflict:
			return !fits && out.version == s.version, s
		case !fits:
			return out.unknown, s
		case in.do == "delete":
			return out.unknown || out.existed == (s.version > 0), registerState{}
		}
		next := registerState{s.version + 1, in.value}
		return out.unknown || out.version == next.version, next
	},
}

// A checker that cannot fail proves nothing.
func TestFaults_the_history_is_judged(t *testing.T) {
	put := func(client int, value string, version uint64, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: registerInput{do: "put", value: value}, Output: registerOutput{version: version}, Call: call, Return: ret}
	}
	get := func(client int, value string, version uint64, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: registerInput{do: "get"}, Output: registerOutput{version: version, value: value}, Call: call, Return: ret}
	}
	open := put(1, "b", 0, 5, math.MaxInt64)
	open.Output = registerOutput{unknown: true}
	zero := uint64(0)
	won := func(client int) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: registerInput{do: "put", value: "x", if_: &zero}, Output: registerOutput{version: 1}, Call: 1, Return: 9}
	}
	for _, c := range []struct {
		name string
		want bool
		ops  []porcupine.Operation
	}{
		{"a write that is read", true, []porcupine.Operation{put(0, "a", 1, 1, 2), get(1, "a", 1, 3, 4)}},
		{"a stale read", false, []porcupine.Operation{put(0, "a", 1, 1, 2), put(0, "b", 2, 3, 4), get(1, "a", 1, 5, 6)}},
		{"a lost write", false, []porcupine.Operation{put(0, "a", 1, 1, 2), get(1, "", 0, 3, 4)}},
		{"a doubled write", false, []porcupine.Operation{put(0, "a", 1, 1, 2), get(1, "a", 2, 3, 4)}},
		{"an open write that came", true, []porcupine.Operation{put(0, "a", 1, 1, 2), open, get(1, "a", 1, 7, 8), get(0, "b", 2, 9, 10)}},
		{"an open write that came and went", false, []porcupine.Operation{put(0, "a", 1, 1, 2), open, get(1, "b", 2, 7, 8), get(0, "a", 1, 9, 10)}},
		{"two winners of one race", false, []porcupine.Operation{won(0), won(1)}},
	} {
		if got := porcupine.CheckOperations(register, c.ops); got != c.want {
			t.Errorf("%s: judged %v, want %v", c.name, got, c.want)
		}
	}
}
