package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// put is an event as it stands on the wire.
func put(rev uint64, key, value string) string {
	return fmt.Sprintf(`{"type":"put","store":"default","key":%q,"value":%s,"version":1,"rev":%d}`, key, value, rev)
}

func entry(rev uint64, key, value string) string {
	return fmt.Sprintf(`{"key":%q,"value":%s,"version":1,"rev":%d}`, key, value, rev)
}

// watching opens a watch whose snapshot holds these entries at rev 10.
func watching(t *testing.T, r *Room, k *script, entries string, filters ...Filter) *Watch {
	t.Helper()
	opening := async(func() (*Watch, error) { return r.Watch(t.Context(), filters...) })
	m := k.next("watch")
	k.ok(m, `{"rev":10}`)
	k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":10,"more":false}`, entries, m.ID)
	w, err := opening.wait()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// story tells the next n updates in short.
func story(t *testing.T, w *Watch, n int) []string {
	t.Helper()
	var told []string
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		u, err := w.Next(ctx)
		cancel()
		if err != nil {
			return append(told, err.Error())
		}
		told = append(told, tell(u))
	}
	return told
}

func tell(u Update) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", u.Rev)
	if u.Reset != "" {
		fmt.Fprintf(&b, " reset=%s", u.Reset)
	}
	if u.Snapshot != nil {
		b.WriteString(" snapshot")
		for _, e := range u.Snapshot.Stores["default"] {
			fmt.Fprintf(&b, " %s=%s", e.Key, e.Value)
		}
	}
	for _, e := range u.Events {
		fmt.Fprintf(&b, " %s %s%s=%s", e.Type, e.Key, e.State, e.Value)
	}
	return b.String()
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("updates differ (-want +got):\n%s", diff)
	}
}

func TestWatch_delivers_the_snapshot_then_each_revision_whole(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		opening := async(func() (*Watch, error) { return r.Watch(t.Context(), Keys("a", "b*")) })
		m := k.next("watch")
		if got, want := string(m.Watch), `[{"keys":["a","b*"]}]`; got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
		k.ok(m, `{"rev":10}`)
		w, err := opening.wait()
		if err != nil {
			t.Fatal(err)
		}
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":10,"more":true}`, entry(3, "a", "1"), m.ID)
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":10,"more":false}`, entry(4, "b1", "2"), m.ID)
		k.send(`{"events":[%s,%s],"rev":12}`, put(12, "a", "2"), put(12, "b2", "3"))
		k.send(`{"events":[%s,%s,%s],"rev":14}`, put(13, "b", "4"), put(14, "other", "5"), put(14, "b", "6"))
		k.send(`{"rev":20}`)
		equal(t, story(t, w, 4), []string{
			"10 snapshot a=1 b1=2", "12 put a=2 put b2=3", "13 put b=4", "14 put b=6",
		})
		synctest.Wait()
		if w.Rev() != 20 {
			t.Errorf("the bookmark says 20, the watch %d", w.Rev())
		}
		w.Close()
		if u := k.next("unwatch"); string(u.Watch) != fmt.Sprint(m.ID) {
			t.Errorf("unwatched %s, want %d", u.Watch, m.ID)
		}
		if _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Next after Close: %v", err)
		}
		k.leave(r)
	})
}

// A watch goes on behind what it has had, on another connection and node: the
// resumed stream has neither a gap nor a double.
func TestG7_a_watch_resumes_where_it_was(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		w := watching(t, r, k, entry(3, "a", "1"), Keys("a"))
		k.send(`{"events":[%s],"rev":11}`, put(11, "a", "2"))
		k.send(`{"rev":15}`)
		// Half a snapshot of another watch, when the connection breaks.
		opening := async(func() (*Watch, error) { return r.Watch(t.Context(), Keys("b")) })
		m := k.next("watch")
		k.ok(m, `{"rev":15}`)
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":15,"more":true}`, entry(5, "b", "0"), m.ID)
		other, err := opening.wait()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		k.drop()

		k = s.connection()
		hello := k.welcome("p1", true)
		if *hello.Resume.Rev != 15 {
			t.Errorf("resumes after %d, want the bookmark 15", *hello.Resume.Rev)
		}
		if got, want := string(hello.Watch), `[{"keys":["a"]},{"keys":["b"],"snapshot":true}]`; got != want {
			t.Errorf("hello watches %s, want %s", got, want)
		}
		k.send(`{"events":[%s],"rev":16}`, put(16, "a", "3"))
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":17,"more":false}`, entry(5, "b", "0"), hello.ID)
		k.send(`{"events":[%s],"rev":18}`, put(18, "b", "1"))
		equal(t, story(t, w, 3), []string{"10 snapshot a=1", "11 put a=2", "16 put a=3"})
		equal(t, story(t, other, 2), []string{"17 snapshot b=0", "18 put b=1"})
		k.leave(r)
	})
}

// Where the stream cannot go on, the watch starts anew and says why; what the
// consumer had not taken of the time before is void.
func TestG8_a_watch_that_cannot_resume_starts_anew(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		w := watching(t, r, k, entry(3, "a", "1"), Keys("a"))
		equal(t, story(t, w, 1), []string{"10 snapshot a=1"})
		k.send(`{"events":[%s],"rev":11}`, put(11, "a", "2"))
		synctest.Wait()
		k.drop()
		k = s.connection()
		hello := k.next("hello")
		k.ok(hello, `{"session":"s1","peer":"p1","resume_key":"key","rev":50,"node":"n2","peer_resumed":true,
			"stream_resumed":false,"grace_ms":15000,"ping_ms":20000,"window":4}`)
		k.send(`{"reset":"compacted"}`)
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":50,"more":false}`, entry(49, "a", "9"), hello.ID)
		k.send(`{"events":[%s],"rev":51}`, put(51, "a", "10"))
		synctest.Wait()
		equal(t, story(t, w, 2), []string{"50 reset=compacted snapshot a=9", "51 put a=10"})

		// A reset in the middle of the stream; events before its snapshot are part of it.
		k.send(`{"reset":"slow"}`)
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"rev":60,"more":true}`, entry(55, "a", "11"))
		synctest.Wait()
		k.drop()
		k = s.connection()
		hello = k.welcome("p1", true)
		if *hello.Resume.Rev != 51 || !strings.Contains(string(hello.Watch), `"snapshot":true`) {
			t.Errorf("resumes after %d with %s: half a snapshot counts for nothing", *hello.Resume.Rev, hello.Watch)
		}
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":61,"more":false}`, entry(55, "a", "11"), hello.ID)
		k.send(`{"events":[%s],"rev":62}`, put(62, "a", "12"))
		equal(t, story(t, w, 2), []string{"61 reset=slow snapshot a=11", "62 put a=12"})
		k.leave(r)
	})
}

// A consumer that does not keep up starts anew when it comes back; meanwhile it
// holds neither memory nor anybody else.
func TestG12_a_slow_consumer_harms_nobody_else(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		slow := watching(t, r, k, "", Keys("*"))
		quick := watching(t, r, k, "", Keys("*"))
		equal(t, story(t, slow, 1), []string{"10 snapshot"})
		equal(t, story(t, quick, 1), []string{"10 snapshot"})
		big := `"` + strings.Repeat("x", 100_000) + `"`
		const n = 40                                                              // 4 MB, four times the bound
		gone := async(func() (*message, error) { return k.next("unwatch"), nil }) // the slow one is given up on
		for i := uint64(1); i <= n; i += 2 {
			k.send(`{"events":[%s],"rev":%d}`, put(10+i, "a", big), 10+i)
			k.send(`{"events":[%s],"rev":%d}`, put(11+i, "a", big), 11+i)
			for _, want := range []uint64{10 + i, 11 + i} {
				synctest.Wait()
				u, err := quick.Next(t.Context())
				if err != nil || u.Rev != want || u.Reset != "" {
					t.Fatalf("the quick one got %d reset=%s, %v", u.Rev, u.Reset, err)
				}
			}
		}
		gone.wait()
		r.mu.Lock()
		if slow.state != dropped || slow.queue != nil || slow.bytes != 0 {
			t.Errorf("the slow watch holds %d bytes in %d updates", slow.bytes, len(slow.queue))
		}
		r.mu.Unlock()
		back := async(func() ([]string, error) { return story(t, slow, 2), nil })
		m := k.next("watch")
		k.ok(m, `{"rev":50}`)
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":50,"more":false}`, entry(50, "a", "1"), m.ID)
		k.send(`{"events":[%s],"rev":51}`, put(51, "a", "2"))
		got, _ := back.wait()
		equal(t, got, []string{"50 reset=slow snapshot a=1", "51 put a=2"})
		equal(t, story(t, quick, 1), []string{"51 put a=2"})
		k.leave(r)
	})
}

// Each watch takes the snapshot that was meant for it, also after a reset that was
// for all.
func TestWatch_takes_its_own_snapshot(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		w := watching(t, r, k, "", Keys("*"))
		k.send(`{"reset":"slow"}`)
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"rev":11,"more":false}`, entry(11, "a", "0"))
		var opened [2]*Watch
		var ids [2]uint64
		for i := range opened {
			opening := async(func() (*Watch, error) { return r.Watch(t.Context(), Keys("a")) })
			m := k.next("watch")
			k.ok(m, `{"rev":12}`)
			opened[i], _ = opening.wait()
			ids[i] = m.ID
		}
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":12,"more":false}`, entry(12, "a", "1"), ids[1])
		k.send(`{"events":[%s],"rev":13}`, put(13, "a", "2"))
		k.send(`{"snapshot":{"session":"s1","stores":{"default":[%s]}},"for":%d,"rev":13,"more":false}`, entry(13, "a", "2"), ids[0])
		k.send(`{"events":[%s],"rev":14}`, put(14, "a", "3"))
		synctest.Wait()
		equal(t, story(t, w, 3), []string{"11 snapshot a=0", "13 put a=2", "14 put a=3"})
		equal(t, story(t, opened[0], 2), []string{"13 snapshot a=2", "14 put a=3"})
		equal(t, story(t, opened[1], 3), []string{"12 snapshot a=1", "13 put a=2", "14 put a=3"})
		k.leave(r)
	})
}

func TestWatch_takes_one_frame_of_any_size(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		w := watching(t, r, k, "", Keys("*"))
		story(t, w, 1)
		k.send(`{"events":[%s],"rev":11}`, put(11, "a", `"`+strings.Repeat("x", 2*watchBytes)+`"`))
		if u, err := w.Next(t.Context()); err != nil || u.Rev != 11 || u.Reset != "" {
			t.Errorf("got %d reset=%s, %v", u.Rev, u.Reset, err)
		}
		k.leave(r)
	})
}

func TestWatch_refused_or_given_up_leaves_nothing(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		opening := async(func() (*Watch, error) { return r.Watch(t.Context(), Keys("secret")) })
		k.refuse(k.next("watch"), wire.Errorf(wire.Forbidden, "no"))
		if w, err := opening.wait(); w != nil || !HasCode(err, wire.Forbidden) {
			t.Errorf("got %v, %v", w, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		opening = async(func() (*Watch, error) { return r.Watch(ctx, Keys("a")) })
		m := k.next("watch")
		if u := k.next("unwatch"); string(u.Watch) != fmt.Sprint(m.ID) {
			t.Errorf("unwatched %s, want %d", u.Watch, m.ID)
		}
		if _, err := opening.wait(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		k.drop()
		k = s.connection()
		if hello := k.welcome("p1", true); len(hello.Watch) != 0 {
			t.Errorf("hello watches %s", hello.Watch)
		}
		k.leave(r)
	})
}

func TestWatch_ends_with_the_room_after_what_came_before(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		w := watching(t, r, k, "", Keys("a"))
		k.send(`{"events":[{"type":"session","state":"ended","session":"s1","rev":11,"reason":"ended"}],"rev":11}`)
		k.bye(wire.CloseSessionEnded)
		<-r.Done()
		var got []string
		var last error
		for u, err := range w.All(t.Context()) {
			if last = err; err == nil {
				got = append(got, tell(u))
			}
		}
		equal(t, got, []string{"10 snapshot", "11 session ended="})
		if !IsSessionEnded(last) {
			t.Errorf("the watch ended with %v", last)
		}
	})
}

func TestFilter_agrees_with_the_servers(t *testing.T) {
	tests := map[string]struct {
		filter wire.Filter
		passes string // of the events below, by name
	}{
		"everything":     {Filter{}, "a b1 notes lock peer chat session"},
		"exact key":      {Keys("a"), "a lock session"},
		"prefix":         {Keys("b*"), "b1 session"},
		"another store":  {KeysIn("notes", "*"), "notes session"},
		"types":          {Types("peer", "lock"), "lock peer session"},
		"types of keys":  {Filter{Types: []string{"put"}, Keys: []string{"*"}}, "a b1 session"},
		"types, a store": {Filter{Types: []string{"put", "peer"}, Store: "notes"}, "notes peer session"},
		"a store":        {Filter{Store: "notes"}, "notes session"},
		"topics":         {Filter{Topics: []string{"ch*"}}, "chat session"},
		"other topics":   {Filter{Types: []string{"message"}, Topics: []string{"x"}}, "session"},
	}
	events := []struct {
		name  string
		event wire.Event
	}{
		{"a", wire.Event{Type: "put", Store: "default", Key: "a"}},
		{"b1", wire.Event{Type: "put", Store: "default", Key: "b1"}},
		{"notes", wire.Event{Type: "put", Store: "notes", Key: "n"}},
		{"lock", wire.Event{Type: "lock", Store: "default", Key: "a"}},
		{"peer", wire.Event{Type: "peer", State: "joined"}},
		{"chat", wire.Event{Type: "message", Topic: "chat"}},
		{"session", wire.Event{Type: "session", State: "ended"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, e := range events {
				if passes([]Filter{test.filter}, &e.event) {
					got = append(got, e.name)
				}
			}
			if diff := cmp.Diff(test.passes, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}
