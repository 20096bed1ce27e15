package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// heard is one HTTP request that a scripted server got.
type heard struct {
	Server, Method, URI, Key, Body string
}

// httpBubble runs a test in virtual time with an HTTP client of two servers, n1
// and n2, which answer as told: the n-th request with the n-th answer.
func httpBubble(t *testing.T, answers []http.HandlerFunc, test func(t *testing.T, h *HTTP, asked *[]heard)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		got := &[]heard{}
		s := &scripted{t: t, conns: make(chan net.Conn)}
		s.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			*got = append(*got, heard{r.Host, r.Method, r.RequestURI, r.Header.Get("Idempotency-Key"), string(body)})
			if len(*got) > len(answers) {
				t.Errorf("one request too many: %+v", (*got)[len(*got)-1])
				return
			}
			answers[len(*got)-1](w, r)
		})}
		go s.server.Serve(s)
		defer s.server.Close()
		h, err := NewHTTP(HTTPConfig{Config: s.config(), Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		test(t, h, got)
	})
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func refuses(e *wire.Error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(wire.Codes[e.Code].Status)
		fmt.Fprintf(w, `{"type":"about:blank","title":%q,"status":%d,"detail":%q,"code":%q,"retry":%q,"details":{"retry_after_ms":2000}}`,
			e.Code, wire.Codes[e.Code].Status, e.Message, e.Code, e.Retry)
	}
}

// breaks ends the connection without an answer.
func breaks(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

func badGateway(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "upstream is gone", http.StatusBadGateway)
}

var (
	unavailable = wire.Errorf(wire.Unavailable, "no leader")
	written     = says(`{"version":1,"rev":5}`)
)

func TestG9_HTTP_repeats_a_write_as_the_same_request(t *testing.T) {
	httpBubble(t, []http.HandlerFunc{
		refuses(unavailable), breaks, refuses(unavailable), badGateway,
		refuses(wire.Errorf(wire.UnknownOutcome, "no answer in time")), written,
	}, func(t *testing.T, h *HTTP, asked *[]heard) {
		w, err := h.Put(t.Context(), "room", "a/b", 1, WriteParams{IfVersion: new(uint64(3)), TTL: time.Second})
		if err != nil || w.Rev != 5 {
			t.Fatal(w, err)
		}
		for i, a := range *asked {
			if want := []string{"n1", "n2"}[i%2]; a.Server != want {
				t.Errorf("request %d went to %s, want %s: the next server may be well", i, a.Server, want)
			}
			if a.URI != "/v1/rooms/room/stores/default/keys/a%2Fb?if_version=3&ttl_ms=1000" || a.Body != "1" || a.Key == "" {
				t.Errorf("request %d is %+v", i, a)
			}
			// From the first unknown outcome on it must stay the same request, though
			// a later copy of it was certainly not applied.
			if i > 1 && a.Key != (*asked)[1].Key {
				t.Errorf("request %d is a new one, after one that may have been applied", i)
			}
		}
	})
}

// net/http repeats a request with an Idempotency-Key when a kept connection breaks.
// That the repeat was not applied leaves open whether the first one was, so it
// goes on being the same request.
func TestG9_HTTP_is_unsure_of_what_was_sent_before(t *testing.T) {
	answers := []http.HandlerFunc{
		says(`{"version":1,"rev":7}`), breaks, refuses(wire.Errorf(wire.Unavailable, "starting")), says(`{"version":2,"rev":8}`),
	}
	httpBubble(t, answers, func(t *testing.T, h *HTTP, asked *[]heard) {
		for range 2 {
			if _, err := h.Put(t.Context(), "demo", "k", 1, WriteParams{}); err != nil {
				t.Fatal(err)
			}
		}
		if len(*asked) != len(answers) {
			t.Fatalf("%d requests, want %d", len(*asked), len(answers))
		}
		for _, r := range (*asked)[2:] {
			if r.Key != (*asked)[1].Key {
				t.Errorf("the write was sent as %q and then as %q: it could be applied twice", (*asked)[1].Key, r.Key)
			}
		}
	})
}

// The same when the server is gone at the repeat.
func TestG14_HTTP_a_refused_dial_after_a_broken_connection_is_unknown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	requests := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			fmt.Fprint(w, `{"version":1,"rev":7}`)
			return
		}
		l.Close()
		panic(http.ErrAbortHandler)
	})}
	go server.Serve(l)
	defer server.Close()
	h, err := NewHTTP(HTTPConfig{Config: Config{Servers: []string{l.Addr().String()}}, Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Put(t.Context(), "demo", "k", 1, WriteParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Put(t.Context(), "demo", "k", 2, WriteParams{}); !HasCode(err, wire.UnknownOutcome) {
		t.Errorf("got %v, want unknown_outcome: the server had the request", err)
	}
	if _, err := h.Put(t.Context(), "demo", "k", 3, WriteParams{}); !HasCode(err, wire.Unavailable) {
		t.Errorf("got %v, want unavailable: nothing was sent", err)
	}
}

func TestHTTP_repeats_only_what_is_harmless(t *testing.T) {
	t.Run("a change of membership is not", func(t *testing.T) {
		httpBubble(t, []http.HandlerFunc{refuses(unavailable), badGateway}, func(t *testing.T, h *HTTP, _ *[]heard) {
			err := h.AddMember(t.Context(), "n4", "10.0.0.4:7500", false, 7)
			if !HasCode(err, wire.UnknownOutcome) || !MayHaveApplied(err) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("a refusal is final", func(t *testing.T) {
		httpBubble(t, []http.HandlerFunc{refuses(wire.Errorf(wire.Locked, "held"))}, func(t *testing.T, h *HTTP, _ *[]heard) {
			if _, err := h.Put(t.Context(), "room", "a", 1, WriteParams{}); !IsLocked(err) || MayHaveApplied(err) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("a bug is not asked twice", func(t *testing.T) {
		httpBubble(t, []http.HandlerFunc{refuses(wire.Errorf(wire.Internal, "bug r1"))}, func(t *testing.T, h *HTTP, _ *[]heard) {
			if _, err := h.Put(t.Context(), "room", "a", 1, WriteParams{}); !HasCode(err, wire.Internal) || !MayHaveApplied(err) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("a rate limit is waited out at the same server", func(t *testing.T) {
		httpBubble(t, []http.HandlerFunc{refuses(wire.Errorf(wire.RateLimited, "slowly")), written}, func(t *testing.T, h *HTTP, asked *[]heard) {
			begun := time.Now()
			if _, err := h.Put(t.Context(), "room", "a", 1, WriteParams{}); err != nil {
				t.Error(err)
			}
			if d := time.Since(begun); d < 2*time.Second || (*asked)[1].Server != "n1" {
				t.Errorf("asked %s again after %v, want n1 after 2 s", (*asked)[1].Server, d)
			}
		})
	})
	t.Run("something else than a server of ours", func(t *testing.T) {
		httpBubble(t, []http.HandlerFunc{http.NotFound}, func(t *testing.T, h *HTTP, _ *[]heard) {
			if _, err := h.Room(t.Context(), "room"); !HasCode(err, wire.BadRequest) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestHTTP_ends_with_its_patience_or_its_context(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{t: t, down: true}
		h, err := NewHTTP(HTTPConfig{Config: s.config(), Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		begun := time.Now()
		if _, err := h.Put(t.Context(), "room", "a", 1, WriteParams{}); !HasCode(err, wire.Unavailable) || MayHaveApplied(err) {
			t.Errorf("with nobody there: %v", err)
		}
		if d := time.Since(begun); d < 55*time.Second || d > time.Minute {
			t.Errorf("gave up after %v, want about a minute", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Put(ctx, "room", "a", 1, WriteParams{}); !errors.Is(err, context.DeadlineExceeded) || MayHaveApplied(err) {
			t.Errorf("with a context: %v", err)
		}
	})
	httpBubble(t, []http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}, func(t *testing.T, h *HTTP, _ *[]heard) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Put(ctx, "room", "a", 1, WriteParams{}); !errors.Is(err, context.DeadlineExceeded) || !MayHaveApplied(err) {
			t.Errorf("a write that was sent: %v", err)
		}
	})
}

// Over HTTP, too, the lease counts from sending the last renewal that came back,
// and renewals go to whichever server answers.
func TestG5_HTTP_locks_keep_themselves(t *testing.T) {
	renewed := says(`{"expires_in_ms":9000}`)
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	var begun time.Time
	var at []time.Duration
	timed := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			at = append(at, time.Since(begun))
			next(w, r)
		}
	}
	answers := []http.HandlerFunc{timed(says(`{"fence":7,"owner":"me","ttl_ms":9000,"expires_in_ms":9000}`)), timed(renewed), timed(breaks), timed(renewed)}
	for range 20 {
		answers = append(answers, silent)
	}
	httpBubble(t, answers, func(t *testing.T, h *HTTP, heard *[]heard) {
		begun = time.Now()
		l, err := h.Lock(t.Context(), "room", "stage", LockParams{Owner: "me", TTL: 9 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		<-l.Done()
		lost := time.Since(begun)
		synctest.Wait() // what the servers noted is ours to read
		// Confirmed at 0 s, 3 s and, by the next server after a break, some
		// milliseconds after 6 s; the third counts from its first sending.
		if len(at) != 4 || at[1] != 3*time.Second || at[2] != 6*time.Second || at[3] > 7*time.Second {
			t.Errorf("asked at %v", at)
		}
		if lost != 15*time.Second || !errors.Is(l.Err(), ErrExpired) {
			t.Errorf("lost after %v with %v, want 9 s after sending the renewal at 6 s", lost, l.Err())
		}
		for _, a := range (*heard)[1:] {
			if a.Method != http.MethodPut || a.URI != "/v1/rooms/room/locks/default/stage" || a.Body != `{"fence":7,"owner":"me"}` {
				t.Errorf("asked %+v", a)
			}
		}
	})
}

// events answers a stream with these lines, then breaks it, or keeps it open.
func events(lines string, open bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, lines)
		w.(http.Flusher).Flush()
		if open {
			<-r.Context().Done()
		}
	}
}

func TestStream_resumes_and_starts_anew(t *testing.T) {
	var resumed []string
	noting := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			resumed = append(resumed, r.Header.Get("Last-Event-ID"))
			next(w, r)
		}
	}
	page := func(id, rev int, entries string, more bool) string {
		return fmt.Sprintf("id: %d\ndata: {\"snapshot\":{\"session\":\"s1\",\"stores\":{\"default\":[%s]}},\"rev\":%d,\"more\":%t}\n\n", id, entries, rev, more)
	}
	change := func(rev uint64, events string) string {
		return fmt.Sprintf(": a comment\nevent: events\nid: %d\ndata: {\"events\":[%s],\ndata: \"rev\":%d}\n\n", rev, events, rev)
	}
	first := "data: {\"snapshot\":{\"session\":\"s1\",\"stores\":{\"default\":[" + entry(1, "a", "1") + "]}},\"rev\":10,\"more\":true}\n\n"
	httpBubble(t, []http.HandlerFunc{
		noting(events(first, false)), // half a snapshot
		noting(events(first+page(10, 10, entry(2, "b", "2"), false)+change(11, put(11, "a", "3")), false)),
		noting(refuses(unavailable)),
		noting(events("id: 12\ndata: {\"rev\":12}\n\n"+change(13, put(13, "a", "4")), false)),
		noting(events("data: {\"reset\":\"compacted\"}\n\n"+first, false)), // half a snapshot
		noting(events("data: {\"reset\":\"compacted\"}\n\n"+page(20, 20, entry(15, "a", "5"), false)+"id: 21\ndata: {\"rev\":21}\n\n", true)),
		noting(events(change(22, put(22, "a", "6")), true)),
		noting(refuses(wire.Errorf(wire.Forbidden, "no more"))),
	}, func(t *testing.T, h *HTTP, asked *[]heard) {
		s := h.Events("room", EventsParams{Keys: []string{"a", "b*"}, Types: []string{"put"}, Topics: []string{"chat/*"}})
		defer s.Close()
		var got []string
		for range 5 { // the last one only after the open stream has been silent for too long
			u, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, tell(u))
		}
		equal(t, got, []string{
			"10 snapshot a=1 b=2", "11 put a=3", "13 put a=4", "20 reset=compacted snapshot a=5", "22 put a=6",
		})
		if s.Position() != "22" || s.Rev() != 22 {
			t.Errorf("position %s, rev %d", s.Position(), s.Rev())
		}
		if _, err := s.Next(t.Context()); !HasCode(err, wire.Forbidden) {
			t.Errorf("a refusal: %v", err)
		}
		if diff := cmp.Diff([]string{"", "", "11", "11", "13", "13", "21", "22"}, resumed); diff != "" {
			t.Errorf("resumed after (-want +got):\n%s", diff)
		}
		if uri := (*asked)[0].URI; uri != "/v1/rooms/room/events?key=a&key=b%2A&topic=chat%2F%2A&type=put" {
			t.Errorf("asked for %s", uri)
		}
	})
}

func TestStream_position_is_behind_what_was_taken(t *testing.T) {
	httpBubble(t, []http.HandlerFunc{
		events(fmt.Sprintf("id: 12\ndata: {\"events\":[%s,%s],\"rev\":12}\n\n", put(11, "a", "1"), put(12, "a", "2")), true),
	}, func(t *testing.T, h *HTTP, _ *[]heard) {
		s := h.Events("room", EventsParams{After: "9"})
		defer s.Close()
		for _, want := range []string{"9", "12"} {
			if _, err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.Position(); got != want {
				t.Errorf("position %s, want %s: two revisions came in one frame", got, want)
			}
		}
	})
}

func TestConfig_servers(t *testing.T) {
	c := Config{Servers: []string{"10.0.0.1:7400", "https://x.example/conclave/", "ws://y:1"}}
	got, err := c.servers()
	if diff := cmp.Diff([]string{"http://10.0.0.1:7400", "https://x.example/conclave", "http://y:1"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []string{"", "ftp://x", "http://", "http://x?y=1", "http://x y"} {
		c := Config{Servers: []string{bad}}
		if got, err := c.servers(); err == nil {
			t.Errorf("server %q was taken for %v", bad, got)
		}
	}
	if _, err := (&Config{}).servers(); err == nil {
		t.Error("no servers at all were accepted")
	}
}
