package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"conclave/client/wire"
)

// take takes a lock without waiting.
func take(t *testing.T, r *Room, k *script, fence string, opts ...LockOption) *Lock {
	t.Helper()
	taking := async(func() (*Lock, error) { return r.TryLock(t.Context(), "stage", opts...) })
	k.ok(k.next("acquire"), `{"fence":`+fence+`}`)
	l, err := taking.wait()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The lease counts from when the last confirmed renewal was sent, by the holder's
// own clock, though every server has fallen silent.
func TestG5_loss_of_a_lease_is_told_by_the_holders_own_clock(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		begun := time.Now()
		l := take(t, r, k, "11", TTL(9*time.Second))
		m := k.next("renew")
		if d := time.Since(begun); d != 3*time.Second || m.Fence != 11 || m.Key != "stage" {
			t.Errorf("renewed %q with fence %d after %v, want a third of 9 s", m.Key, m.Fence, d)
		}
		time.Sleep(2 * time.Second) // a slow answer does not lengthen the lease
		k.ok(m, `{"expires_in_ms":9000}`)
		second := k.next("renew")
		if d := time.Since(begun); d != 6*time.Second {
			t.Errorf("renewed again after %v, want a third after sending the first", d)
		}
		if err := l.Err(); err != nil {
			t.Errorf("held, and yet %v", err)
		}
		_ = second // never answered; renewals go on, unanswered
		go func() {
			for range k.in {
			}
		}()
		<-l.Done()
		if d := time.Since(begun); d != 12*time.Second {
			t.Errorf("loss was told after %v, want 9 s after sending the last confirmed renewal (at 3 s)", d)
		}
		if err := l.Err(); !errors.Is(err, ErrExpired) {
			t.Errorf("lost with %v", err)
		}
		if _, err := l.Put(t.Context(), 1); !IsStaleFence(err) || !errors.Is(err, ErrExpired) {
			t.Errorf("a write under the lost lock: %v", err)
		}
		if err := l.Unlock(t.Context()); !errors.Is(err, ErrExpired) {
			t.Errorf("Unlock of the lost lock: %v", err)
		}
		s.end(r, k)
	})
}

func TestLock_ends_when_a_server_says_so(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		l := take(t, r, k, "11", TTL(9*time.Second))
		work, cancel := l.Context(t.Context())
		defer cancel()
		k.refuse(k.next("renew"), wire.Errorf(wire.NotHolder, "broken"))
		<-work.Done()
		if err := l.Err(); !HasCode(err, wire.NotHolder) || !HasCode(context.Cause(work), wire.NotHolder) {
			t.Errorf("lost with %v, work with %v", err, context.Cause(work))
		}
		k.leave(r)
	})
}

func TestLock_is_confirmed_after_a_wait(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		taking := async(func() (*Lock, error) { return r.Lock(t.Context(), "stage", TTL(9*time.Second), Wait(time.Hour)) })
		m := k.next("acquire")
		if m.WaitMs != 3_600_000 || m.TTLMs != 9000 {
			t.Errorf("asked to wait %d ms for a lease of %d ms", m.WaitMs, m.TTLMs)
		}
		k.send(`{"id":%d,"waiting":{"position":1}}`, m.ID)
		time.Sleep(15 * time.Second)
		k.ok(m, `{"fence":20,"expires_in_ms":9000}`)
		renewal := k.next("renew")
		if !taking.pending() {
			t.Fatal("Lock returned before the grant was confirmed")
		}
		k.ok(renewal, `{"expires_in_ms":9000}`)
		l, err := taking.wait()
		if err != nil || l.Fence() != 20 {
			t.Fatal(l, err)
		}
		unlocking := async(func() (bool, error) { return true, l.Unlock(t.Context()) })
		if m := k.next("release"); m.Fence != 20 {
			t.Errorf("released fence %d", m.Fence)
		} else {
			k.ok(m, `{"rev":21}`)
		}
		if _, err := unlocking.wait(); err != nil || !errors.Is(l.Err(), ErrReleased) {
			t.Errorf("Unlock: %v, then %v", err, l.Err())
		}
		k.leave(r)
	})
}

func TestLock_of_a_lost_grant_is_queued_for_again(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		taking := async(func() (*Lock, error) { return r.Lock(t.Context(), "stage", TTL(9*time.Second)) })
		m := k.next("acquire")
		k.send(`{"id":%d,"waiting":{"position":1}}`, m.ID)
		k.ok(m, `{"fence":20,"expires_in_ms":9000}`)
		k.refuse(k.next("renew"), wire.Errorf(wire.NotHolder, "expired on the way"))
		k.ok(k.next("acquire"), `{"fence":30,"expires_in_ms":9000}`)
		l, err := taking.wait()
		if err != nil || l.Fence() != 30 {
			t.Fatal(l, err)
		}
		k.leave(r)
	})
}

// When the peer is no more its locks have ended, those asked for as well; but
// other requests go on under their ids.
func TestLock_ends_with_its_peer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		var rejoined atomic.Bool
		r, k := s.join(c, JoinOptions{OnStatus: func(st Status) {
			if st.Rejoined {
				rejoined.Store(true)
			}
		}})
		held := take(t, r, k, "11")
		wanting := async(func() (*Lock, error) { return r.Lock(t.Context(), "floor") })
		k.next("acquire")
		put := async(func() (*Written, error) { return r.Put(t.Context(), "a", 1) })
		sent := k.next("put")
		k.drop()
		k = s.connection()
		k.welcome("p2", false)
		if m := k.next("put"); m.ID != sent.ID {
			t.Errorf("put sent again under %d, want %d", m.ID, sent.ID)
		}
		k.ok(sent, `{"version":1,"rev":12}`)
		if _, err := put.wait(); err != nil {
			t.Error(err)
		}
		<-held.Done()
		if !HasCode(held.Err(), wire.NotHolder) || r.Peer() != "p2" || !rejoined.Load() {
			t.Errorf("the lock ended with %v; peer %s, rejoined %t", held.Err(), r.Peer(), rejoined.Load())
		}
		// The wait has ended with the peer that waited.
		if _, err := wanting.wait(); !HasCode(err, wire.NotHolder) {
			t.Errorf("the lock asked for: %v", err)
		}
		l := take(t, r, k, "15")
		if l.Owner() != "p2" {
			t.Errorf("the new lock is owned by %s", l.Owner())
		}
		k.leave(r)
	})
}

// A lock without a lease of its own lasts as long as its peer: the grace after
// the last proof that it was valid.
func TestLock_bound_to_the_peer_is_validated(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{}) // the grace is 15 s
		begun := time.Now()
		l := take(t, r, k, "11")
		m := k.next("validate")
		if d := time.Since(begun); d != 5*time.Second {
			t.Errorf("validated after %v, want a third of the grace", d)
		}
		k.ok(m, `{"valid":true}`)
		s.setDown(true)
		k.drop()
		<-l.Done()
		if d := time.Since(begun); d != 20*time.Second || !errors.Is(l.Err(), ErrExpired) {
			t.Errorf("lost after %v with %v, want the grace after the validation at 5 s", d, l.Err())
		}
		s.setDown(false)
		k = s.connection()
		k.welcome("p1", true)
		l = take(t, r, k, "30")
		k.ok(k.next("validate"), `{"valid":false}`)
		<-l.Done()
		if !HasCode(l.Err(), wire.NotHolder) {
			t.Errorf("lost with %v", l.Err())
		}
		k.leave(r)
	})
}

func TestLock_released_on_detach_ends_with_the_connection(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		stays := take(t, r, k, "11")
		taking := async(func() (*Lock, error) { return r.TryLock(t.Context(), "pen", ReleaseOnDetach()) })
		k.ok(k.next("acquire"), `{"fence":12}`)
		goes, err := taking.wait()
		if err != nil {
			t.Fatal(err)
		}
		k.drop()
		<-goes.Done()
		k = s.connection()
		k.welcome("p1", true)
		synctest.Wait()
		if err := stays.Err(); err != nil {
			t.Errorf("the lock that outlives connections ended with %v", err)
		}
		k.leave(r)
	})
}

func TestLock_of_a_peer_without_grace_ends_with_the_connection(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		joining := async(func() (*Room, error) { return c.Join(t.Context(), "party", JoinOptions{}) })
		k := s.connection()
		k.ok(k.next("hello"), `{"session":"s1","peer":"p1","resume_key":"key","rev":10,"node":"n1","grace_ms":0,"ping_ms":20000,"window":4}`)
		r, err := joining.wait()
		if err != nil {
			t.Fatal(err)
		}
		l := take(t, r, k, "11")
		k.ok(k.next("validate"), `{"valid":true}`)
		if err := l.Err(); err != nil {
			t.Errorf("the lock ended with %v", err)
		}
		k.drop()
		<-l.Done()
		k = s.connection()
		k.welcome("p1", true)
		k.leave(r)
	})
}

// Goroutines of one room exclude each other, though to the servers they are one
// owner.
func TestLock_excludes_within_the_room(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		first := take(t, r, k, "11", TTL(time.Hour))
		if _, err := r.TryLock(t.Context(), "stage"); !IsLocked(err) {
			t.Errorf("TryLock of what the room holds: %v", err)
		}
		if _, err := r.Lock(t.Context(), "stage", Wait(time.Second)); !HasCode(err, wire.LockTimeout) {
			t.Errorf("Lock of what the room holds: %v", err)
		}
		second := async(func() (*Lock, error) { return r.Lock(t.Context(), "stage", TTL(time.Hour)) })
		if !second.pending() {
			t.Fatal("two hold the lock")
		}
		unlocking := async(func() (bool, error) { return true, first.Unlock(t.Context()) })
		m := k.next("release")
		if !second.pending() {
			t.Fatal("the second was let in before the release was answered")
		}
		k.ok(m, `{"rev":12}`)
		k.ok(k.next("acquire"), `{"fence":13}`)
		if l, err := second.wait(); err != nil || l.Fence() != 13 {
			t.Error(l, err)
		}
		if _, err := unlocking.wait(); err != nil {
			t.Error(err)
		}
		third, err := second.wait()
		if err != nil {
			t.Fatal(err)
		}
		unlocking = async(func() (bool, error) { return true, third.Unlock(t.Context()) })
		k.ok(k.next("release"), `{"rev":14}`)
		unlocking.wait()
		if len(r.turns) != 0 || len(r.locks) != 0 {
			t.Errorf("%d turns and %d locks are left over", len(r.turns), len(r.locks))
		}
		k.leave(r)
	})
}

// A grant that took so long that its peer is gone is none, whatever a confused
// server says to a renewal.
func TestLock_granted_to_a_peer_that_is_no_more_is_asked_for_again(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		taking := async(func() (*Lock, error) { return r.Lock(t.Context(), "stage", TTL(9*time.Second)) })
		m := k.next("acquire")
		k.send(`{"id":%d,"waiting":{"position":1}}`, m.ID)
		k.ok(m, `{"fence":20,"expires_in_ms":9000}`)
		k.next("renew")
		k.drop()
		k = s.connection()
		k.welcome("p2", false)
		k.ok(k.next("renew"), `{"expires_in_ms":9000}`)
		k.ok(k.next("acquire"), `{"fence":30,"expires_in_ms":9000}`)
		l, err := taking.wait()
		if err != nil || l.Fence() != 30 || l.Owner() != "p2" {
			t.Fatal(l, err)
		}
		k.leave(r)
	})
}

// A caller that gives up leaves no lock behind: the wait is cancelled, and a
// grant that was under way is released, before anybody else of the room asks.
func TestLock_undoes_what_its_caller_gave_up(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		taking := async(func() (*Lock, error) { return r.Lock(ctx, "stage", TTL(9*time.Second)) })
		m := k.next("acquire")
		k.send(`{"id":%d,"waiting":{"position":1}}`, m.ID)
		cancelling := k.next("cancel")
		if _, err := taking.wait(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock: %v", err)
		}
		if cancelling.Request != m.ID {
			t.Errorf("cancelled %d, want %d", cancelling.Request, m.ID)
		}
		// The connection breaks; the server had granted it at the last moment.
		k.drop()
		k = s.connection()
		k.welcome("p1", true)
		if again := k.next("acquire"); again.ID != m.ID {
			t.Errorf("acquire sent again under %d, want %d", again.ID, m.ID)
		}
		next := async(func() (*Lock, error) { return r.Lock(t.Context(), "stage", TTL(9*time.Second)) })
		k.ok(m, `{"fence":17,"expires_in_ms":9000}`)
		k.ok(k.next("cancel"), `{}`)
		release := k.next("release")
		if release.Fence != 17 {
			t.Errorf("released fence %d, want 17", release.Fence)
		}
		k.ok(release, `{"rev":18}`)
		k.ok(k.next("acquire"), `{"fence":19}`)
		if l, err := next.wait(); err != nil || l.Fence() != 19 {
			t.Error(l, err)
		}
		k.leave(r)
	})
}

// A waiting acquire gives its place in the window to others, as it does on the
// server.
func TestLock_waiting_leaves_the_window_to_others(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		for _, key := range []string{"a", "b", "c", "d"} { // the window is 4
			_ = async(func() (*Lock, error) { return r.Lock(t.Context(), key) })
			k.send(`{"id":%d,"waiting":{"position":1}}`, k.next("acquire").ID)
		}
		put := async(func() (*Written, error) { return r.Put(t.Context(), "x", 1) })
		k.ok(k.next("put"), `{"version":1,"rev":11}`)
		if _, err := put.wait(); err != nil {
			t.Error(err)
		}
		k.leave(r)
	})
}

func TestLock_adds_its_fence_to_writes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		l := take(t, r, k, "11", TTL(time.Hour))
		putting := async(func() (*Written, error) { return l.Put(t.Context(), "x") })
		m := k.next("put")
		if m.Fence != 11 || m.Key != "stage" || string(m.Value) != `"x"` {
			t.Errorf("wrote %s=%s with fence %d", m.Key, m.Value, m.Fence)
		}
		k.ok(m, `{"version":1,"rev":12}`)
		if _, err := putting.wait(); err != nil {
			t.Error(err)
		}
		deleting := async(func() (*Deleted, error) { return r.Delete(t.Context(), "stage", Under(l)) })
		if m = k.next("delete"); m.Fence != 11 {
			t.Errorf("deleted with fence %d", m.Fence)
		}
		k.ok(m, `{"existed":true,"rev":13}`)
		if d, err := deleting.wait(); err != nil || !d.Existed {
			t.Error(d, err)
		}
		if c := l.Cond(); c.Key != "stage" || *c.Fence != 11 {
			t.Errorf("condition %+v", c)
		}
		k.leave(r)
	})
}
