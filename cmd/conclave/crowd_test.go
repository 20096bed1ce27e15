package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// crowd is many clients that write the same keys of one room at once. They rely
// on the SDK's own repeats: nothing here tries again.
type crowd struct {
	c       *testCluster
	clients int
	done    atomic.Int64 // items appended
}

const (
	itemsEach   = 50
	crowdRoom   = "crowd"
	crowdChoice = 3
)

// sizeOf is the size of a test: what the environment says, for long runs, or what
// fits into the suite.
func sizeOf(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is not a number", variable, text)
	}
	return n
}

// client appends its items one by one, counts each, and votes once on the way,
// twice if it is up to it.
func (w *crowd) client(ctx context.Context, r *client.Room, number int) error {
	for i := range itemsEach {
		if _, err := r.Update(ctx, "items", []int{number*itemsEach + i}); err != nil {
			return fmt.Errorf("append item %d: %w", i, err)
		}
		if _, err := r.Add(ctx, "count", 1); err != nil {
			return fmt.Errorf("count item %d: %w", i, err)
		}
		w.done.Add(1)
		if i != itemsEach/2 {
			continue
		}
		for try := range 2 {
			voted, err := w.vote(ctx, r, number)
			if err != nil {
				return fmt.Errorf("vote: %w", err)
			}
			if voted != (try == 0) {
				return fmt.Errorf("vote number %d counts: %v", try+1, voted)
			}
		}
	}
	return nil
}

// vote is a vote that counts once: ballot and tally are one transaction.
func (w *crowd) vote(ctx context.Context, r *client.Room, number int) (voted bool, err error) {
	ballot, choice := fmt.Sprintf("ballot/%d", number), number%crowdChoice
	res, err := r.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.Absent(ballot)},
		Then: []wire.Op{client.PutOp(ballot, choice), client.AddOp(fmt.Sprintf("tally/%d", choice), 1)},
	})
	if err != nil {
		return false, err
	}
	return res.Applied, nil
}

// Clients on all nodes append to one array, count in one counter and vote in one
// poll, while the leader's process is killed twice: every item is there once and
// each client's in its order, the counter is exact, each has one vote.
func TestG9_a_crowd_of_clients_loses_and_doubles_nothing(t *testing.T) {
	w := &crowd{c: startCluster(t, 3), clients: sizeOf(t, "CLIENTS", 24)}
	w.c.open(crowdRoom)
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	sdk := w.c.dial()
	errs := make([]error, w.clients)
	var all sync.WaitGroup
	for i := range w.clients {
		all.Go(func() {
			r, err := sdk.Join(ctx, crowdRoom, client.JoinOptions{})
			if err == nil {
				err = w.client(ctx, r, i)
			}
			errs[i] = err
		})
	}
	total := int64(w.clients * itemsEach)
	for i := range 2 {
		quota := total * int64(2*i+1) / 5
		eventually(t, fmt.Sprintf("%d items are appended", quota), func() bool { return w.done.Load() >= quota })
		leader := w.c.leader()
		leader.kill()
		eventually(t, "it goes on without the leader", func() bool { return w.done.Load() >= quota+total/10 })
		leader.start()
		leader.ready()
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clients: %d writes in %v", w.clients, w.clients*(2*itemsEach+2), time.Since(begun).Round(time.Millisecond))
	for i := range w.c.nodes {
		w.check(w.c.nodes[i].http1(), t)
	}
}

// check compares a node's state with what all clients did.
func (w *crowd) check(h *client.HTTP, t *testing.T) {
	t.Helper()
	read := func(key string, into any) uint64 {
		t.Helper()
		e, err := h.Get(t.Context(), crowdRoom, key, client.ReadParams{})
		if err == nil {
			err = json.Unmarshal(e.Value, into)
		}
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		return e.Version
	}
	var items []int
	total := w.clients * itemsEach
	if version := read("items", &items); len(items) != total || version != uint64(total) {
		t.Errorf("%d items by %d writes, want %d", len(items), version, total)
	}
	next := make([]int, w.clients)
	for at, item := range items {
		number := item / itemsEach
		if number < 0 || number >= w.clients || item%itemsEach != next[number] {
			t.Fatalf("item %d at %d is double or out of its client's order: want its %d", item, at, next[number])
		}
		next[number]++
	}
	var count int
	if version := read("count", &count); count != total || version != uint64(total) {
		t.Errorf("counted %d by %d writes, want %d", count, version, total)
	}
	tally := make([]int, crowdChoice)
	for number := range w.clients {
		var choice int
		if version := read(fmt.Sprintf("ballot/%d", number), &choice); choice != number%crowdChoice || version != 1 {
			t.Errorf("client %d voted %d, %d times", number, choice, version)
		}
		tally[number%crowdChoice]++
	}
	for choice, want := range tally {
		var got int
		if read(fmt.Sprintf("tally/%d", choice), &got); got != want {
			t.Errorf("choice %d has %d votes, want %d", choice, got, want)
		}
	}
}
