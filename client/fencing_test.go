package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"conclave/client/wire"
)

// visit sends a request with a fence to a guarded resource.
func visit(ctx context.Context, h http.Handler, path string, fences ...string) (status int, p wire.Problem) {
	req := httptest.NewRequestWithContext(ctx, "PUT", path, nil)
	for _, f := range fences {
		req.Header.Add(FenceHeader, f)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	_ = json.Unmarshal(w.Body.Bytes(), &p)
	return w.Code, p
}

func TestFencing_lets_in_by_the_order_of_fences(t *testing.T) {
	seen := ""
	h := Fencing{Resource: func(r *http.Request) string { return r.URL.Path }}.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fence, _ := FenceOf(r.Context())
		seen += fmt.Sprint(fence, " ")
	}))
	for _, test := range []struct {
		path   string
		fences []string
		status int
		code   wire.Code
	}{
		{"/a", nil, 428, wire.BadRequest},
		{"/a", []string{"0"}, 400, wire.BadRequest},
		{"/a", []string{"x"}, 400, wire.BadRequest},
		{"/a", []string{"-1"}, 400, wire.BadRequest},
		{"/a", []string{"9007199254740992"}, 400, wire.BadRequest},
		{"/a", []string{"5", "6"}, 400, wire.BadRequest},
		{"/a", []string{"33"}, 200, ""},
		{"/a", []string{"34"}, 200, ""},
		{"/a", []string{"33"}, 412, wire.StaleFence}, // the holder that was paused
		{"/a", []string{"34"}, 200, ""},
		{"/b", []string{"7"}, 200, ""}, // another resource has fences of its own
	} {
		status, p := visit(t.Context(), h, test.path, test.fences...)
		if status != test.status || p.Code != test.code {
			t.Errorf("%s with %v: %d %s, want %d %s", test.path, test.fences, status, p.Code, test.status, test.code)
		}
	}
	if seen != "33 34 34 7 " {
		t.Errorf("let in: %s", seen)
	}
}

// A request that passed the check and paused must not go on beside one with a newer
// fence: it is ended, and the newer one waits for it.
func TestFencing_a_newer_fence_outlasts_the_older(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside atomic.Int32 // with the older fence
		release := make(chan struct{})
		h := Fencing{}.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			fence, _ := FenceOf(r.Context())
			if fence == 33 {
				inside.Add(1)
				defer inside.Add(-1)
				<-r.Context().Done()
				if !HasCode(context.Cause(r.Context()), wire.StaleFence) {
					t.Errorf("ended with %v", context.Cause(r.Context()))
				}
				<-release // it takes its time
			} else if inside.Load() > 0 {
				t.Error("two holders are inside")
			}
		}))
		for range 2 { // of one fence, side by side
			go visit(t.Context(), h, "/", "33")
		}
		synctest.Wait()
		if n := inside.Load(); n != 2 {
			t.Fatalf("%d inside", n)
		}
		// Who cannot wait is told so, and still the older ones are over.
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if status, p := visit(short, h, "/", "34"); status != 503 || p.Retry != wire.RetrySafe {
			t.Errorf("got %d %+v", status, p)
		}
		if status, _ := visit(t.Context(), h, "/", "33"); status != 412 {
			t.Errorf("an older one is let in: %d", status)
		}
		newer := async(func() (int, error) { status, _ := visit(t.Context(), h, "/", "34"); return status, nil })
		if !newer.pending() {
			t.Fatal("the newer one did not wait")
		}
		close(release)
		if status, _ := newer.wait(); status != 200 {
			t.Errorf("got %d", status)
		}
	})
}

func TestFencing_asks_and_remembers(t *testing.T) {
	asked, kept := 0, uint64(40)
	current, down := uint64(50), false
	f := Fencing{
		Validate: func(_ context.Context, _ string, fence uint64) (bool, error) {
			if asked++; down {
				return false, errors.New("no node answers")
			}
			return fence == current, nil
		},
		Load: func(context.Context, string) (uint64, error) { return kept, nil },
		Save: func(_ context.Context, _ string, fence uint64) error { kept = fence; return nil },
	}
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	h := f.Handler(next)
	expect := func(fence string, want, wantAsked int) {
		t.Helper()
		asked = 0
		if status, _ := visit(t.Context(), h, "/", fence); status != want || asked != wantAsked {
			t.Errorf("%s: %d after %d questions, want %d after %d", fence, status, asked, want, wantAsked)
		}
	}
	expect("9007199254740991", 412, 1) // no grant: it shuts nobody out
	expect("50", 200, 1)
	expect("50", 200, 0)
	expect("49", 412, 0)
	if kept != 50 {
		t.Errorf("kept %d", kept)
	}
	current, down = 60, true
	expect("60", 503, 1)
	down = false
	expect("60", 200, 1)
	// A restart: what was kept counts.
	f.Validate = nil
	h = f.Handler(next)
	expect("59", 412, 0)
	expect("60", 200, 0)
	f.Validate = func(_ context.Context, _ string, fence uint64) (bool, error) { asked++; return fence == current, nil }
	f.Always = true
	h = f.Handler(next)
	expect("60", 200, 1)
	current = 61
	expect("60", 412, 1)
}

func TestLock_Transport(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		l := take(t, r, k, "11", TTL(9*time.Second))
		h := Fencing{}.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "slow") {
				<-r.Context().Done()
			}
		}))
		sends := &http.Client{Transport: l.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if err := req.Context().Err(); err != nil {
				return nil, err
			}
			return w.Result(), nil
		}))}
		res, err := sends.Get("http://printer/quick")
		if err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		res.Body.Close()
		slow := async(func() (*http.Response, error) { return sends.Get("http://printer/slow") })
		if !slow.pending() {
			t.Fatal("the slow one has ended")
		}
		k.refuse(k.next("renew"), wire.Errorf(wire.NotHolder, "broken").With("reason", "broken"))
		if _, err := slow.wait(); !IsStaleFence(err) {
			t.Errorf("the request under way ended with %v", err)
		}
		if _, err := sends.Get("http://printer/quick"); !IsStaleFence(err) {
			t.Errorf("a request after the loss: %v", err)
		}
		k.leave(r)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
