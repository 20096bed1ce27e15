package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// eventReader reads one stream of Server-Sent Events.
type eventReader struct {
	t     testing.TB
	resp  *http.Response
	lines *bufio.Reader
}

// sseEvent is one event: a frame, and its id, 0 without one.
type sseEvent struct {
	wsFrame
	id uint64
}

func (s *socketServer) events(room, query, lastID string) *eventReader {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	s.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.http.URL+"/v1/rooms/"+room+"/events"+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	return &eventReader{s.t, resp, bufio.NewReaderSize(resp.Body, 1<<20)}
}

func (r *eventReader) next() (e sseEvent) {
	r.t.Helper()
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			r.t.Fatalf("read the stream: %v", err)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			if e.id, err = strconv.ParseUint(value, 10, 64); err != nil {
				r.t.Fatal(err)
			}
		case "data":
			e.raw = value
			if err := json.Unmarshal([]byte(value), &e.wsFrame); err != nil {
				r.t.Fatalf("%s: %v", value, err)
			}
		case "":
			return e
		default:
			r.t.Fatalf("unexpected line %q", line)
		}
	}
}

// want is next for a frame that carries an id, the revision it brings.
func (r *eventReader) want(what string, ok func(sseEvent) bool) sseEvent {
	r.t.Helper()
	e := r.next()
	if !ok(e) {
		r.t.Fatalf("got %.200s with id %d, want %s", e.raw, e.id, what)
	}
	return e
}

// snapshot is all pages of the snapshot that must come now; only the last has an
// id.
func (r *eventReader) snapshot() wire.Snapshot {
	r.t.Helper()
	whole := wire.Snapshot{Stores: map[string][]wire.Entry{}}
	for {
		e := r.want("a snapshot", func(e sseEvent) bool { return e.Snapshot != nil && (e.More && e.id == 0 || isSnapshot(e)) })
		whole.Session = e.Snapshot.Session
		for store, entries := range e.Snapshot.Stores {
			whole.Stores[store] = append(whole.Stores[store], entries...)
		}
		if !e.More {
			return whole
		}
	}
}

func isSnapshot(e sseEvent) bool { return e.Snapshot != nil && !e.More && e.id == e.Rev && e.For == 0 }
func isEvents(e sseEvent) bool   { return e.Events != nil && e.id == e.Rev }

func isReset(why string) func(sseEvent) bool {
	return func(e sseEvent) bool { return e.Reset == why && e.id == 0 }
}

func TestG7_EventsResumeByLastEventID(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("sse", "a", "1")
	r := s.events("sse", "?key=a&key=b/*", "")
	if got := r.resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	if snap := r.want("a snapshot", isSnapshot); len(snap.Snapshot.Stores[defaultStore]) != 1 {
		t.Errorf("snapshot %s", snap.raw)
	}
	s.put("sse", "c", "0") // filtered out
	s.put("sse", "b/1", "2")
	first := r.want("events", isEvents)
	if first.Events[0].Key != "b/1" {
		t.Errorf("got %s", first.raw)
	}
	r.resp.Body.Close()
	s.put("sse", "b/1", "3")
	s.put("sse", "a", "4")
	r = s.events("sse", "?key=a&key=b/*", fmt.Sprint(first.id))
	for _, want := range []string{"b/1", "a"} {
		if e := r.want("events", isEvents); e.Events[0].Key != want {
			t.Errorf("got %s, want the event on %s", e.raw, want)
		}
	}
}

func TestG7_EventsThatCannotResumeSayWhy(t *testing.T) {
	s := newSocketServer(t, Config{})
	rev := s.put("sse", "a", "1").Rev
	s.outrun("sse", rev)
	r := s.events("sse", "", fmt.Sprint(rev))
	r.want("a reset", isReset("compacted"))
	if snap := r.snapshot(); len(snap.Stores[defaultStore]) < 2 {
		t.Errorf("snapshot %+v", snap)
	}
	last := s.store.View().Rev()
	if _, err := s.store.Do(s.t.Context(), &fsm.Command{Kind: fsm.CommandEnd, Room: "sse"}); err != nil {
		t.Fatal(err)
	}
	s.put("sse", "b", "1")
	r = s.events("sse", "", fmt.Sprint(last))
	r.want("a reset", isReset("session"))
	if snap := r.snapshot(); snap.Session != s.session("sse").ID {
		t.Errorf("snapshot %+v", snap)
	}
}

func TestEvents_FormAndEnds(t *testing.T) {
	s := newSocketServer(t, Config{Pace: Pace{Ping: 100 * time.Millisecond, Leaderless: time.Hour}, MaxSockets: 2})
	for query, field := range map[string]string{
		"?type=weather": "type", "?key=a*b": "key", "?topic=a*b": "topic", "?topic=": "topic", "?store=a/b": "store",
		"?store=a&store=b": "store", "?colour=red": "colour", "?limit=1": "limit",
	} {
		r := s.events("form", query, "")
		var p wire.Problem
		if err := json.NewDecoder(r.resp.Body).Decode(&p); err != nil || r.resp.StatusCode != http.StatusBadRequest || p.Details["field"] != field {
			t.Errorf("%s: status %d, %+v, %v", query, r.resp.StatusCode, p, err)
		}
	}
	if r := s.events("form", "", "yesterday"); r.resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", r.resp.StatusCode)
	}
	s.put("form", "k", "1")
	r := s.events("form", "?type=put&type=delete", "")
	r.want("a snapshot", isSnapshot)
	for range 3 {
		r.want("a bookmark", func(e sseEvent) bool { return e.raw == fmt.Sprintf(`{"rev":%d}`, e.id) })
	}
	other := s.join("form", "")
	if r := s.events("form", "", ""); r.resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many: status %d", r.resp.StatusCode)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	s.wantClose(other, wire.CloseDraining)
	if _, err := io.Copy(io.Discard, r.lines); err != nil {
		t.Errorf("the stream did not end well: %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Messages pass by topic, of all types or of that alone; those for somebody else
// never do.
func TestEvents_ByTopic(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("topics", "")
	all, chat := s.events("topics", "?type=message", ""), s.events("topics", "?topic=chat/*&topic=news&key=k", "")
	all.snapshot()
	if snap := chat.snapshot(); len(snap.Peers) != 0 {
		t.Errorf("snapshot %+v", snap)
	}
	c.must(nil, "send", `"topic":"weather","data":1`)
	c.must(nil, "send", `"topic":"chat/1","data":2,"to":{"refs":["nobody"]}`)
	c.must(nil, "send", `"topic":"chat/1","data":3`)
	c.must(nil, "put", `"key":"other","value":4`)
	c.must(nil, "put", `"key":"k","value":5`)
	c.must(nil, "send", `"topic":"news","data":6`)
	for _, want := range []string{"weather", "chat/1", "news"} {
		if e := all.want("a message", isEvents); e.Events[0].Topic != want {
			t.Errorf("got %s, want a message on %s", e.raw, want)
		}
	}
	for _, want := range []string{"chat/1 3", "k 5", "news 6"} {
		e := chat.want("an event", isEvents)
		if got := e.Events[0].Topic + e.Events[0].Key + " " + string(e.Events[0].Data) + string(e.Events[0].Value); got != want {
			t.Errorf("got %s, want %s", e.raw, want)
		}
	}
}

// Only the last page of a snapshot has an id: a browser that loses the stream in the
// middle gets the whole snapshot again, and not the rest of one it never had.
func TestG8_EventsOfACutSnapshotStartAgain(t *testing.T) {
	s := newSocketServer(t, Config{})
	value := `"` + strings.Repeat("v", 60<<10) + `"`
	for i := range 10 {
		s.put("pages", fmt.Sprintf("k%d", i), value)
	}
	r := s.events("pages", "", "")
	for pages := 1; ; pages++ {
		e := r.next()
		if e.Snapshot == nil || e.More != (e.id == 0) {
			t.Fatalf("page %d: id %d, %.100s", pages, e.id, e.raw)
		}
		if e.More {
			continue
		}
		if pages < 2 || e.id != s.store.View().Rev() {
			t.Errorf("%d pages, the last with the id %d", pages, e.id)
		}
		r = s.events("pages", "", fmt.Sprint(e.id))
		break
	}
	s.put("pages", "k0", "1")
	if e := r.want("events", isEvents); e.Events[0].Key != "k0" {
		t.Errorf("got %s", e.raw)
	}
}

// A stream may be tied to a session.
func TestG10_EventsOfAnotherSessionAreRefused(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("tied", "k", "1")
	for _, tc := range []struct {
		session string
		status  int
	}{{s.session("tied").ID, 200}, {"snothere", 410}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.http.URL+"/v1/rooms/tied/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Conclave-Session", tc.session)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != tc.status {
			t.Errorf("%s: status %d", tc.session, resp.StatusCode)
		}
	}
}

func TestG12_StuckEventStreamIsCut(t *testing.T) {
	s := newSocketServer(t, Config{Pace: Pace{Stall: 200 * time.Millisecond}})
	s.put("stuck", "k", "0")
	s.events("stuck", "", "").want("a snapshot", isSnapshot)
	value := `"` + strings.Repeat("v", 60<<10) + `"`
	waitFor(t, "the cut", func() bool {
		s.put("stuck", "k", value)
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		return s.hub.watchers == 0
	})
}
