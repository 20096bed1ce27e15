package client

import (
	"context"
	"sync"
	"time"
)

// window bounds how many requests are in flight. Those who find it full wait
// their turn, first come first served: a caller that writes without pause cannot
// starve the others.
//
// Invariant: if somebody waits, no place is free. A place is handed over, not put
// back to be fought for.
type window struct {
	mu      sync.Mutex
	size    int             // guarded by mu
	used    int             // guarded by mu; over size for a while after a resize
	waiting []chan struct{} // guarded by mu; closed when the place is handed over
}

func newWindow(size int) *window { return &window{size: size} }

// enter takes a place, or returns the error of ctx.
func (w *window) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	if w.used < w.size && len(w.waiting) == 0 {
		w.used++
		w.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	w.waiting = append(w.waiting, turn)
	w.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, t := range w.waiting {
		if t == turn {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	w.used-- // the place came in the same moment: hand it on
	w.admit()
	return ctx.Err()
}

// enterWithin is enter with a bound on the wait; 0 does not wait at all.
func (w *window) enterWithin(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if wait > 0 {
		return w.enter(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.used < w.size && len(w.waiting) == 0 {
		w.used++
		return nil
	}
	return context.DeadlineExceeded
}

// leave gives a place back.
func (w *window) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used--
	w.admit()
}

// resize changes the number of places to what the server of a new connection
// allows.
func (w *window) resize(size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size = max(size, 1)
	w.admit()
}

// admit hands free places to those who wait. The caller holds mu.
func (w *window) admit() {
	for w.used < w.size && len(w.waiting) > 0 {
		close(w.waiting[0])
		w.waiting = w.waiting[1:]
		w.used++
	}
}
