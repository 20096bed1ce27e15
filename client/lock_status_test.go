package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"conclave/client/wire"
)

// changes collects what a lock tells of itself, with the time since begun.
type changes struct {
	begun time.Time

	mu   sync.Mutex
	told []string // guarded by mu
}

func (c *changes) option() LockOption {
	c.begun = time.Now()
	return OnLockStatus(func(s LockStatus) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.told = append(c.told, strings.TrimRight(fmt.Sprintf("%v %s %s", time.Since(c.begun), s.State, s.Reason), " "))
	})
}

func (c *changes) are(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := strings.Join(c.told, ", "); got != strings.Join(want, ", ") {
		t.Errorf("told of %s; want %s", got, strings.Join(want, ", "))
	}
}

// Jeopardy begins when a renewal is not answered for a third of the lease, and the
// loss comes exactly when the lease is over, counted from the last renewal sent.
func TestG5_jeopardy_comes_before_the_loss(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		var told changes
		l := take(t, r, k, "11", TTL(9*time.Second), told.option())
		if st := l.Status(); st.State != LockHeld || st.Left != 9*time.Second {
			t.Errorf("at first %+v", st)
		}
		k.next("renew") // at 3 s; its answer is lost
		second := k.next("renew")
		told.are(t, "6s jeopardy")
		if st := l.Status(); st.State != LockJeopardy || st.Left > 3*time.Second || l.Err() != nil {
			t.Errorf("in jeopardy %+v, %v", st, l.Err())
		}
		sent := time.Since(told.begun) // of the second, which is answered
		k.ok(second, `{"expires_in_ms":9000}`)
		told.are(t, "6s jeopardy", fmt.Sprint(sent, " held"))
		go func() {
			for range k.in { // nobody answers any more
			}
		}()
		<-l.Done()
		synctest.Wait()
		told.mu.Lock()
		last := told.told[len(told.told)-1]
		told.mu.Unlock()
		if want := fmt.Sprint(sent+9*time.Second, " lost expired"); last != want || l.Status().Reason != LostExpired {
			t.Errorf("the end: %s, want %s", last, want)
		}
		s.end(r, k)
	})
}

func TestLock_says_why_it_was_lost(t *testing.T) {
	for want, no := range map[LostReason]*wire.Error{
		LostBroken:       wire.Errorf(wire.NotHolder, "…").With("reason", "broken"),
		LostExpired:      wire.Errorf(wire.NotHolder, "…").With("reason", "expired"),
		LostReleased:     wire.Errorf(wire.NotHolder, "…").With("reason", "released"),
		LostUnknown:      wire.Errorf(wire.NotHolder, "…"),
		LostSessionEnded: wire.Errorf(wire.SessionEnded, "…"),
	} {
		t.Run(string(want), func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *scripted, c *Client) {
				r, k := s.join(c, JoinOptions{})
				var told changes
				l := take(t, r, k, "11", TTL(9*time.Second), told.option())
				k.refuse(k.next("renew"), no)
				<-l.Done()
				told.are(t, "3s lost "+string(want))
				k.leave(r)
			})
		})
	}
	t.Run("released by its holder", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *scripted, c *Client) {
			r, k := s.join(c, JoinOptions{})
			var told changes
			l := take(t, r, k, "11", TTL(9*time.Second), told.option())
			unlocking := async(func() (bool, error) { return true, l.Unlock(t.Context()) })
			k.ok(k.next("release"), `{"rev":12}`)
			unlocking.wait()
			told.are(t, "0s lost released")
			k.leave(r)
		})
	})
	for code, want := range map[int]LostReason{4102: LostRemoved, 4103: LostSessionEnded, 4105: LostReplaced} {
		if got := lostReason(fmt.Errorf("…: %w", &CloseError{Code: code})); got != want {
			t.Errorf("close code %d: %s, want %s", code, got, want)
		}
	}
	if got := lostReason(fmt.Errorf("%w: %w", errDetached, &CloseError{Code: 4002})); got != LostDetached {
		t.Errorf("a lost connection: %s", got)
	}
	if got := lostReason(ErrClosed); got != LostClosed {
		t.Errorf("Close: %s", got)
	}
}

func TestLock_asks_for_modes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		taking := async(func() (*Lock, error) {
			return r.TryLock(t.Context(), "doc", Shared(), LockDelay(3*time.Second), TTL(time.Minute))
		})
		if m := k.next("acquire"); m.Mode != "shared" || m.DelayMs != 3000 || m.Permits != 0 {
			t.Errorf("asked for %+v", m)
		} else {
			k.ok(m, `{"fence":11}`)
		}
		taking.wait()
		taking = async(func() (*Lock, error) { return r.TryLock(t.Context(), "seats", Permits(3), TTL(time.Minute)) })
		if m := k.next("acquire"); m.Mode != "" || m.Permits != 3 {
			t.Errorf("asked for %+v", m)
		} else {
			k.ok(m, `{"fence":12}`)
		}
		taking.wait()
		if _, err := r.TryLock(t.Context(), "seats", Permits(0)); err == nil {
			t.Error("no permits were accepted")
		}
		k.leave(r)
	})
}

func TestRoom_WithLock(t *testing.T) {
	t.Run("releases whatever becomes of the work", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *scripted, c *Client) {
			r, k := s.join(c, JoinOptions{})
			failed := errors.New("no paper")
			for _, want := range []error{nil, failed} {
				working := async(func() (bool, error) {
					return true, r.WithLock(t.Context(), "stage", func(ctx context.Context, l *Lock) error {
						if ctx.Err() != nil || l.Fence() != 11 {
							t.Errorf("begins with %v and fence %d", ctx.Err(), l.Fence())
						}
						return want
					}, TTL(9*time.Second))
				})
				k.ok(k.next("acquire"), `{"fence":11}`)
				if m := k.next("release"); m.Fence != 11 {
					t.Errorf("released %d", m.Fence)
				} else {
					k.ok(m, `{"rev":12}`)
				}
				if _, err := working.wait(); err != want {
					t.Errorf("got %v, want %v", err, want)
				}
			}
			k.leave(r)
		})
	})
	t.Run("ends the work when the lock is lost", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *scripted, c *Client) {
			r, k := s.join(c, JoinOptions{})
			working := async(func() (bool, error) {
				return true, r.WithLock(t.Context(), "stage", func(ctx context.Context, l *Lock) error {
					<-ctx.Done()
					if !HasCode(context.Cause(ctx), wire.NotHolder) {
						t.Errorf("the work ended with %v", context.Cause(ctx))
					}
					return ctx.Err()
				}, TTL(9*time.Second))
			})
			k.ok(k.next("acquire"), `{"fence":11}`)
			k.refuse(k.next("renew"), wire.Errorf(wire.NotHolder, "broken").With("reason", "broken"))
			if _, err := working.wait(); !IsStaleFence(err) || !errors.Is(err, context.Canceled) || lostReason(err) != LostBroken {
				t.Errorf("got %v", err)
			}
			k.leave(r)
		})
	})
}
