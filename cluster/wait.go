package cluster

import (
	"container/heap"
	"context"
	"sync"
)

// waitList lets goroutines wait until a number that only grows has reached a
// target. advance costs nothing for those whose target is still ahead.
type waitList struct {
	mu      sync.Mutex
	reached uint64
	waiters waitHeap
}

type waiter struct {
	target uint64
	ready  chan struct{}
}

// wait returns nil once the number is at least target.
func (w *waitList) wait(ctx context.Context, target uint64) error {
	w.mu.Lock()
	if w.reached >= target {
		w.mu.Unlock()
		return nil
	}
	me := waiter{target: target, ready: make(chan struct{})}
	heap.Push(&w.waiters, me)
	w.mu.Unlock()
	select {
	case <-me.ready:
		return nil
	case <-ctx.Done():
		w.forget(me.ready)
		return ctx.Err()
	}
}

// advance tells the number's new value; lower values are ignored.
func (w *waitList) advance(to uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = max(w.reached, to)
	for len(w.waiters) > 0 && w.waiters[0].target <= w.reached {
		close(heap.Pop(&w.waiters).(waiter).ready)
	}
}

// forget drops a waiter that gave up, so that a target far ahead keeps nothing.
func (w *waitList) forget(ready chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.waiters {
		if w.waiters[i].ready == ready {
			heap.Remove(&w.waiters, i)
			return
		}
	}
}

type waitHeap []waiter

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].target < h[j].target }
func (h waitHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *waitHeap) Push(x any)        { *h = append(*h, x.(waiter)) }
func (h *waitHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
