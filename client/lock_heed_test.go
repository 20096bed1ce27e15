package client

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"conclave/client/wire"
)

// heeded takes a lock with a lease of an hour, whose first renewal is far away, and
// accepts the watch for its end.
func heeded(t *testing.T, r *Room, k *script, told *changes) (*Lock, *message) {
	t.Helper()
	l := take(t, r, k, "11", TTL(time.Hour), told.option())
	m := k.next("watch")
	if want := `[{"store":"default","keys":["stage"],"types":["lock"]}]`; string(m.Watch) != want {
		t.Errorf("watches %s, want %s", m.Watch, want)
	}
	k.ok(m, `{"rev":12}`)
	return l, m
}

const heldBy = `{"snapshot":{"session":"s1","locks":[{"store":"default","key":"stage","mode":"exclusive","permits":1,
	"holders":[{"owner":"p1","fence":%d,"since":"2026-01-01T00:00:00.000Z"}],"queue":[]}]},"for":%d,"rev":12,"more":false}`

// A holder hears at once that its lock is over, and how, long before it would
// have renewed it; what happens to others' locks on the key does not concern it.
func TestG5_the_end_of_a_lock_is_told_at_once(t *testing.T) {
	for _, state := range []string{"broken", "expired", "released"} {
		t.Run(state, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *scripted, c *Client) {
				r, k := s.join(c, JoinOptions{})
				var told changes
				l, m := heeded(t, r, k, &told)
				k.send(heldBy, 11, m.ID)
				k.send(`{"events":[{"type":"lock","store":"default","key":"stage","state":%q,"owner":"p2","fence":10,"rev":13}],"rev":13}`, state)
				k.send(`{"events":[{"type":"lock","store":"default","key":"stage","state":"acquired","owner":"p1","fence":11,"rev":14}],"rev":14}`)
				if synctest.Wait(); l.Err() != nil {
					t.Fatalf("lost, though still held: %v", l.Err())
				}
				k.send(`{"events":[{"type":"lock","store":"default","key":"stage","state":%q,"owner":"p1","fence":11,"rev":15}],"rev":15}`, state)
				<-l.Done()
				told.are(t, fmt.Sprint(heedAfter, " lost ", state))
				if u := k.next("unwatch"); string(u.Watch) != fmt.Sprint(m.ID) {
					t.Errorf("unwatched %s, want %d", u.Watch, m.ID)
				}
				if r.heeded != 0 || len(r.stream.watches) != 0 {
					t.Errorf("%d locks are watched, by %d watches, and none is held", r.heeded, len(r.stream.watches))
				}
				k.leave(r)
			})
		})
	}
}

// What ended before the watch began, or in a gap of it, is missing in the snapshot:
// the servers are asked, and their word counts.
func TestLock_that_is_missing_in_a_snapshot_is_asked_for(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		var told changes
		l, m := heeded(t, r, k, &told)
		k.send(heldBy, 10, m.ID) // of before the grant, from a node that is behind
		k.ok(k.next("renew"), `{"expires_in_ms":3600000}`)
		if synctest.Wait(); l.Err() != nil {
			t.Fatalf("lost, though the servers say that it is held: %v", l.Err())
		}
		k.send(`{"reset":"compacted"}`)
		k.send(heldBy, 20, m.ID)
		k.refuse(k.next("renew"), wire.Errorf(wire.NotHolder, "…").With("reason", "broken"))
		<-l.Done()
		told.are(t, fmt.Sprint(heedAfter, " lost broken"))
		k.leave(r)
	})
}

// A holder that may not read the key has its renewals to learn from.
func TestLock_whose_end_may_not_be_watched_for(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		var told changes
		l := take(t, r, k, "11", TTL(9*time.Second), told.option())
		k.refuse(k.next("watch"), wire.Errorf(wire.Forbidden, "…"))
		k.ok(k.next("renew"), `{"expires_in_ms":9000}`)
		k.refuse(k.next("renew"), wire.Errorf(wire.NotHolder, "…").With("reason", "broken"))
		<-l.Done()
		told.are(t, "6s lost broken")
		k.leave(r)
	})
}

// Locks leave most of a connection's filters to the program.
func TestLock_watches_are_bounded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		var locks []*Lock
		acquire := func() {
			taking := async(func() (*Lock, error) {
				return r.TryLock(t.Context(), fmt.Sprint("seat", len(locks)), TTL(time.Hour))
			})
			k.ok(k.next("acquire"), fmt.Sprintf(`{"fence":%d}`, 11+len(locks)))
			l, err := taking.wait()
			if err != nil {
				t.Fatal(err)
			}
			locks = append(locks, l)
		}
		for range heedMost {
			acquire()
			k.ok(k.next("watch"), `{"rev":12}`)
		}
		acquire()
		k.silent(10 * time.Second)
		unlocking := async(func() (bool, error) { return true, locks[0].Unlock(t.Context()) })
		for range 2 { // in either order
			if m := k.nextOfAny("unwatch and release"); m.Do == "release" {
				k.ok(m, `{"rev":40}`)
			}
		}
		unlocking.wait()
		acquire()
		k.ok(k.next("watch"), `{"rev":41}`)
		k.leave(r)
	})
}
