package api

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/fsm"
)

// link is a sink of a reader whose link is slow: while it carries a number of bytes,
// others write as many to the room, times load. Load 1 and above is more than it
// can carry for ever. The test needs no clock.
type link struct {
	s    *socketServer
	room string
	size int // of a value that others write
	load float64

	owed      float64
	writes    int
	snapshots int // whole ones
	resets    int
	rev       uint64
}

func (l *link) frame(rev uint64, payload []byte) error {
	switch head := string(payload[:min(len(payload), 12)]); {
	case strings.HasPrefix(head, `{"reset"`):
		l.resets++
	case strings.HasPrefix(head, `{"snapshot"`) && rev != 0:
		l.snapshots++
	}
	if rev != 0 {
		l.rev = rev
	}
	event := float64(l.size + 230)
	for l.owed += float64(len(payload)) * l.load; l.owed >= event; l.owed -= event {
		l.s.put(l.room, fmt.Sprintf("busy%d", l.writes%10), `"`+strings.Repeat("v", l.size)+`"`)
		l.writes++
	}
	return nil
}

// A slow reader of a busy room with much in it catches up after one snapshot if
// its link carries more than the room brings, however much longer the snapshot
// takes than a small room's ring would last.
func TestG12_ASlowReaderMakesProgress(t *testing.T) {
	nothing := func(*fsm.View, *fsm.Session) error { return nil }
	for _, tc := range []struct {
		name       string
		size, keys int
	}{{"large values", 20 << 10, 150}, {"many small keys", 1, 9_000}, {"peers", 100, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSocketServer(t, Config{Profile: "large"})
			for i := range tc.keys {
				s.put("slow", fmt.Sprintf("k%05d", i), `"`+strings.Repeat("v", tc.size)+`"`)
			}
			for i := range 200 {
				if tc.name != "peers" {
					break
				}
				join := &fsm.Command{Kind: fsm.CommandJoin, Room: "slow", Join: &fsm.Join{Key: "secret", Ref: fmt.Sprint(i), Data: fmt.Appendf(nil, "%q", strings.Repeat("d", 15<<10)), TTL: 60_000}}
				if r, err := s.store.Do(t.Context(), join); outcome(r, err) != nil {
					t.Fatal(outcome(r, err))
				}
			}
			out := &link{s: s, room: "slow", size: tc.size, load: 0.85}
			st := s.stream("slow", out, new(inbox))
			defer st.watch(nil)
			if err := st.add(filters{{types: typesAll}}, 1, nothing); err != nil {
				t.Fatal(err)
			}
			for range 3 { // and stays there
				if _, _, err := st.follow(); err != nil {
					t.Fatalf("after %d resets: %v", out.resets, err)
				}
			}
			if out.resets != 0 || out.snapshots != 1 || out.writes < 50 {
				t.Errorf("%d resets and %d snapshots with %d writes meanwhile", out.resets, out.snapshots, out.writes)
			}
		})
	}
	t.Run("one whose link carries less than the room brings gets states, and an end", func(t *testing.T) {
		s := newSocketServer(t, Config{})
		for i := range 40 {
			s.put("slow", fmt.Sprintf("k%d", i), `"`+strings.Repeat("v", 20<<10)+`"`)
		}
		out := &link{s: s, room: "slow", size: 10 << 10, load: 2}
		st := s.stream("slow", out, new(inbox))
		defer st.watch(nil)
		if err := st.add(filters{{types: typesAll}}, 1, nothing); err != nil {
			t.Fatal(err)
		}
		_, _, err := st.follow()
		if !errors.Is(err, errSlow) || out.resets != maxResets || out.snapshots != maxResets+1 {
			t.Fatalf("%v after %d resets and %d snapshots", err, out.resets, out.snapshots)
		}
		out.load = 0.5 // it comes back on a better link
		again := s.stream("slow", out, new(inbox))
		defer again.watch(nil)
		again.watch(st.filters)
		if !again.resume(s.session("slow").ID, out.rev) {
			if err := again.reset(resetCompacted, 0); err != nil {
				t.Fatal(err)
			}
		}
		if v, _, err := again.follow(); err != nil || again.cursor != v.Rev() {
			t.Fatalf("at %d: %v", again.cursor, err)
		}
	})
}

// A reader that takes a large snapshot slowly has no chance to answer a ping, which
// is behind it: that it takes what is written is a sign of life.
func TestG12_WhoTakesASnapshotSlowlyIsAlive(t *testing.T) {
	const ping = time.Second
	s := newSocketServer(t, Config{Profile: "large", Pace: Pace{Ping: ping}})
	for i := range 120 {
		s.put("crawl", fmt.Sprintf("k%d", i), `"`+strings.Repeat("v", 60<<10)+`"`)
	}
	c := s.dialWith("crawl", nil, small)
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"do":"hello","v":1,"client":"crawler","watch":[{}]}`)); err != nil {
		t.Fatal(err)
	}
	c.id = 1
	conn := c.ws.NetConn()
	begun, read, buf := time.Now(), 0, make([]byte, 128<<10)
	pace := time.NewTicker(4 * ping / 50)
	defer pace.Stop()
	for read < 6<<20 {
		<-pace.C // a link, not a wait for something to happen
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(conn, buf)
		if err != nil {
			t.Fatalf("cut off after %d bytes in %v: %v", read, time.Since(begun), err)
		}
		read += n
	}
	if lasted := time.Since(begun); lasted < 3*ping {
		t.Fatalf("it took only %v: the test shows nothing", lasted)
	}
}

func TestG12_SlowWatcherIsResetAndOthersGoOn(t *testing.T) {
	cfg := unhurried()
	cfg.Pace = Pace{Stall: 5 * time.Minute}
	s := newSocketServer(t, cfg)
	slow := s.dialWith("slow", nil, small)
	slow.greet(`"observe":true,"watch":[{"keys":["*"]}]`)
	slow.snapshot(1)
	quick := s.join("slow", `"watch":[{"keys":["*"]}]`)
	quick.snapshot(1)
	value := `"` + strings.Repeat("v", 30<<10) + `"`
	var last uint64
	for i := range 600 { // 18 MB: more than ring and kernel hold
		var put struct{ Rev uint64 }
		quick.must(&put, "put", fmt.Sprintf(`"key":"k%d","value":%s`, i%10, value))
		last = put.Rev
	}
	quick.must(nil, "put", `"key":"end","value":1`)
	if f := quick.other[len(quick.other)-1]; f.Rev != last+1 {
		t.Errorf("the quick one is at %d, want %d", f.Rev, last+1)
	}
	for _, f := range quick.other {
		if f.Reset != "" {
			t.Errorf("the quick one got %s", f.raw)
		}
	}
	m := &mirror{t: t}
	reset := false
	m.entries = map[string]wire.Entry{}
	for string(m.entries["end"].Value) != "1" {
		switch f := slow.next(); {
		case f.Reset == "slow":
			reset = true
			m.start(slow.snapshot(0))
		case f.Events != nil:
			m.apply(f)
		}
	}
	if !reset {
		t.Error("the slow one got no reset")
	}
	m.same(s, "slow")
}

func TestG12_WhoTakesNothingIsDropped(t *testing.T) {
	s := newSocketServer(t, Config{Pace: Pace{Stall: 200 * time.Millisecond}})
	stuck := s.dialWith("stuck", nil, small)
	stuck.greet(`"watch":[{"keys":["*"]}]`)
	value := `"` + strings.Repeat("v", 60<<10) + `"`
	waitFor(t, "the detach", func() bool {
		s.put("stuck", "k", value)
		return !s.session("stuck").Peer(stuck.hello.Peer).Attached
	})
}

func TestG12_OneLargeFrameIsNoReason(t *testing.T) {
	s := newSocketServer(t, Config{Backlog: 10 << 10})
	c := s.join("large", `"watch":[{"keys":["*"]}]`)
	c.snapshot(1)
	for i := range 5 {
		c.must(nil, "put", fmt.Sprintf(`"key":"k%d","value":"%s"`, i, strings.Repeat("v", 60<<10)))
		if f := c.next(); f.Events == nil || len(f.raw) < 60<<10 {
			t.Fatalf("got %.200s, want the event", f.raw)
		}
	}
}

// overtaken is a sink whose reader takes a snapshot more slowly than the ring
// turns over, as long as it has patience.
type overtaken struct {
	s        *socketServer
	room     string
	patience int // snapshots
	resets   int
	last     string
}

func (o *overtaken) frame(_ uint64, payload []byte) error {
	o.last = string(payload)
	switch {
	case strings.HasPrefix(o.last, `{"reset":"slow"`):
		o.resets++
	case strings.HasPrefix(o.last, `{"snapshot"`) && o.patience > 0:
		o.patience--
		o.s.outrun(o.room, o.s.store.View().Rev())
	}
	return nil
}

func TestG12_NoEndlessResets(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("lag", "k", "0")
	nothing := func(*fsm.View, *fsm.Session) error { return nil }
	t.Run("a reader who never catches up is given up", func(t *testing.T) {
		out := &overtaken{s: s, room: "lag", patience: 100}
		st := s.stream("lag", out, new(inbox))
		defer st.watch(nil)
		if err := st.add(filters{{types: typesAll}}, 1, nothing); err != nil {
			t.Fatal(err)
		}
		if _, _, err := st.follow(); !errors.Is(err, errSlow) {
			t.Errorf("got %v, want %v", err, errSlow)
		}
		if out.resets != maxResets {
			t.Errorf("%d resets, want %d", out.resets, maxResets)
		}
	})
	t.Run("one who does is not, however often it lags", func(t *testing.T) {
		out := &overtaken{s: s, room: "lag", patience: maxResets}
		st := s.stream("lag", out, new(inbox))
		defer st.watch(nil)
		if err := st.add(filters{{types: typesAll}}, 1, nothing); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if v, _, err := st.follow(); err != nil || st.cursor != v.Rev() {
				t.Fatalf("at %d of %d: %v", st.cursor, v.Rev(), err)
			}
			out.patience = maxResets - 1
			s.outrun("lag", st.cursor)
		}
	})
}
