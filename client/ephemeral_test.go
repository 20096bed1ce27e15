package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"conclave/client/wire"
)

// Cursors of before a lost connection are worth nothing after it: each is sent once,
// and none waits for a connection.
func TestRoom_Send_sends_an_ephemeral_message_once(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		send := func(data int) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := r.Send(t.Context(), "cursor", data, Ephemeral(), Echo())
				done <- err
			}()
			return done
		}
		done := send(1)
		m := k.next("send")
		if want := `{"do":"send","data":1,"topic":"cursor","echo":true,"ephemeral":true}`; m.body != want {
			t.Errorf("sent %s, want %s", m.body, want)
		}
		k.ok(m, `{"rev":10}`)
		if err := <-done; err != nil {
			t.Error(err)
		}
		done = send(2)
		k.refuse(k.next("send"), wire.Errorf(wire.RateLimited, "slowly").With("retry_after_ms", 100))
		if err := <-done; !HasCode(err, wire.RateLimited) {
			t.Errorf("a message that comes too fast: %v", err)
		}
		done = send(3)
		k.next("send")
		k.drop()
		var interrupted *InterruptedError
		if err := <-done; !errors.As(err, &interrupted) || !interrupted.MayHaveApplied {
			t.Errorf("an answer that was lost: %v", err)
		}
		if err := <-send(4); !errors.As(err, &interrupted) || interrupted.MayHaveApplied {
			t.Errorf("while the connection is away: %v", err)
		}
		k = s.connection()
		k.welcome("p1", true)
		k.silent(20 * time.Second)
		k.leave(r)
	})
}

// A consumer that is busy gets the latest, behind the events that were there before.
func TestWatch_thins_ephemeral_messages(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		watched := make(chan *Watch, 1)
		go func() {
			w, err := r.Watch(t.Context(), Messages("cursor*"), Keys("k"))
			if err != nil {
				t.Error(err)
			}
			watched <- w
		}()
		m := k.next("watch")
		k.ok(m, `{"rev":10}`)
		k.send(`{"snapshot":{"session":"s1","stores":{},"peers":[],"locks":[]},"for":%d,"rev":10,"more":false}`, m.ID)
		w := <-watched
		next := func() Update {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			u, err := w.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		if u := next(); u.Snapshot == nil {
			t.Fatalf("got %+v, want the snapshot", u)
		}
		const ada, bob = `{"kind":"peer","peer":"p1"}`, `{"kind":"peer","peer":"p2"}`
		k.send(`{"ephemeral":[{"topic":"cursor","data":1,"from":%s},{"topic":"cursor","data":2,"from":%[1]s},{"topic":"chat","data":3,"from":%[1]s}]}`, ada)
		u := next()
		if len(u.Ephemeral) != 2 || string(u.Ephemeral[1].Data) != "2" || u.Ephemeral[1].From.Peer != "p1" || u.Rev != 10 || u.Events != nil {
			t.Errorf("got %+v", u)
		}
		for n := range maxFleeting + 10 {
			k.send(`{"ephemeral":[{"topic":"cursor","data":%d,"from":%s}]}`, n, ada)
			k.send(`{"ephemeral":[{"topic":"cursor","data":%d,"from":%s}]}`, n, bob)
		}
		k.send(`{"events":[{"type":"put","store":"default","key":"k","value":1,"version":1,"rev":11}],"rev":11}`)
		time.Sleep(time.Second)
		if u := next(); len(u.Events) != 1 || u.Ephemeral != nil {
			t.Errorf("got %+v, want the event first", u)
		}
		u = next()
		last := fmt.Sprint(maxFleeting + 9)
		n := len(u.Ephemeral)
		if n < 2 || n > maxFleeting || string(u.Ephemeral[n-1].Data) != last || string(u.Ephemeral[n-2].Data) != last || u.Rev != 11 {
			t.Errorf("got %d at revision %d, the last %+v", n, u.Rev, u.Ephemeral[max(0, n-2):])
		}
		w.Close()
		k.next("unwatch")
		k.leave(r)
	})
}
