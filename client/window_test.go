package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever comes and gives up in whatever order, never are there more inside than
// places, and no place is lost.
func TestWindow_keeps_its_size(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 3
		w := newWindow(size)
		var inside atomic.Int32
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				// Whole milliseconds, so that a place often comes at the very moment
				// at which somebody gives up.
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(30))*time.Millisecond)
				defer cancel()
				if err := w.enter(ctx); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					return
				}
				if n := inside.Add(1); n > size {
					t.Errorf("%d inside a window of %d", n, size)
				}
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
				inside.Add(-1)
				w.leave()
			})
		}
		all.Wait()
		if w.used != 0 || len(w.waiting) != 0 {
			t.Errorf("%d places are taken and %d wait, with nobody there", w.used, len(w.waiting))
		}
	})
}

func TestWindow_lets_in_by_turn_and_by_size(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(1)
		if err := w.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		var order []int
		var mu sync.Mutex
		for i := range 4 {
			go func() {
				if err := w.enter(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			}()
			synctest.Wait() // they queue in this order
		}
		w.leave()
		synctest.Wait()
		w.resize(3)
		synctest.Wait()
		mu.Lock()
		if len(order) != 3 || order[0] != 0 {
			t.Errorf("let in %v, want 0, then two more of them", order)
		}
		mu.Unlock()
		w.leave()
		synctest.Wait()
		if len(order) != 4 || order[3] != 3 {
			t.Errorf("let in %v, want 3 last", order)
		}
	})
}
