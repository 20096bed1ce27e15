package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"conclave/fsm"
	"conclave/lock"
)

const locks = "/v1/rooms/r/locks/default/"

// queued reports how many wait for a lock.
func (s *testServer) queued(key string) int {
	if sess := s.store.View().Session("r"); sess != nil {
		return sess.Lock("default", key).Waiting()
	}
	return 0
}

func (s *testServer) holder(key string) lock.Owner {
	if sess := s.store.View().Session("r"); sess != nil {
		if l := sess.Lock("default", key); l != nil && len(l.Holders) > 0 {
			return l.Holders[0].Owner
		}
	}
	return lock.Owner{}
}

// later runs a request and delivers its answer.
func (s *testServer) later(ctx context.Context, method, path, body string, headers ...string) <-chan reply {
	got := make(chan reply, 1)
	req, err := http.NewRequestWithContext(ctx, method, s.http.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	go func() {
		defer close(got)
		if ctx.Done() == nil {
			got <- s.send(req)
		} else if res, err := s.http.Client().Do(req); err == nil {
			res.Body.Close()
		}
	}()
	return got
}

func TestG4_fencingOverHTTP(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	held := s.do("POST", locks+"stage", `{"owner":"ada","ttl_ms":5000,"data":{"why":"<talk>"}}`).want(200)
	fence := held.number("fence")
	if want := fmt.Sprintf(`{"fence":%d,"owner":"ada","ttl_ms":5000,"expires_in_ms":5000}`, fence); held.body != want {
		t.Errorf("got %s, want %s", held.body, want)
	}
	d := s.do("PUT", keys+"stage", "1").refused("locked")
	if d["owner"] != "ada" || d["fence"] != float64(fence) || d["key"] != "stage" {
		t.Errorf("got %v", d)
	}
	guarded := func(fence uint64, owner string) string {
		return fmt.Sprintf("%sstage?fence=%d&owner=%s", keys, fence, owner)
	}
	if d := s.do("PUT", guarded(fence+1, "ada"), "1").refused("stale_fence"); d["fence"] != float64(fence) {
		t.Errorf("got %v", d)
	}
	s.do("PUT", guarded(fence, "bob"), "1").refused("stale_fence")
	s.do("PUT", guarded(fence, ""), "1").refused("bad_request") // an empty name
	s.do("PUT", guarded(fence, "ada"), "1").want(201)
	s.do("DELETE", guarded(fence, "bob"), "").refused("stale_fence")
	// A peer whose id is the owner's name is another owner.
	peer := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":100000}`).want(201)
	as := []string{"Conclave-Peer", peer.text("peer"), "Conclave-Peer-Key", peer.text("resume_key")}
	s.do("POST", locks+"mine", fmt.Sprintf(`{"owner":%q,"ttl_ms":5000}`, peer.text("peer"))).want(200)
	s.do("POST", locks+"mine", `{"ttl_ms":5000}`, as...).refused("locked")

	s.do("DELETE", fmt.Sprintf("%sstage?fence=%d&owner=bob", locks, fence), "").refused("not_holder")
	s.do("DELETE", fmt.Sprintf("%sstage?fence=%d&owner=ada", locks, fence), "").want(200)
	s.do("DELETE", fmt.Sprintf("%sstage?fence=%d&owner=ada", locks, fence), "").refused("not_holder")
	s.do("PUT", guarded(fence, "ada"), "2").refused("stale_fence")
	if next := s.do("POST", locks+"stage", `{"owner":"ada","ttl_ms":5000}`).want(200).number("fence"); next <= fence {
		t.Errorf("the next fence is %d after %d", next, fence)
	}
}

func TestLocks_show(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	s.do("GET", locks+"stage", "").refused("not_found")
	fence := s.do("POST", locks+"stage", `{"owner":"ada","ttl_ms":5000,"data":{"why":"<talk>"}}`).want(200).number("fence")
	s.store.advance(time.Second)
	want := fmt.Sprintf(`{"store":"default","key":"stage","mode":"exclusive","permits":1,"holders":[{"owner":"ada","fence":%d,`+
		`"since":"2026-07-01T12:00:00.000Z","expires_in_ms":4000,"data":{"why":"<talk>"}}],"queue":[]}`, fence)
	if got := s.do("GET", locks+"stage", "").want(200); got.body != want {
		t.Errorf("got %s, want %s", got.body, want)
	}
	if got := s.do("GET", "/v1/rooms/r/locks", "").want(200); got.body != `{"locks":[`+want+`]}` {
		t.Errorf("got %s", got.body)
	}
	for query, valid := range map[string]bool{
		fmt.Sprintf("fence=%d", fence): true, fmt.Sprintf("fence=%d", fence+1): false,
		fmt.Sprintf("fence=%d&owner=ada", fence): true, fmt.Sprintf("fence=%d&owner=bob", fence): false,
	} {
		if got := s.do("GET", locks+"stage?"+query, "").want(200); got.body != fmt.Sprintf(`{"valid":%v}`, valid) {
			t.Errorf("%s: got %s", query, got.body)
		}
	}
	if got := s.do("GET", locks+"nobody?fence=1", "").want(200); got.body != `{"valid":false}` {
		t.Errorf("got %s", got.body)
	}
}

func TestG5_renewalOverHTTP(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	fence := s.do("POST", locks+"stage", `{"owner":"ada","ttl_ms":5000}`).want(200).number("fence")
	renewal := fmt.Sprintf(`{"fence":%d,"owner":"ada"}`, fence)
	for range 3 {
		s.store.advance(4 * time.Second)
		if left := s.do("PUT", locks+"stage", renewal).want(200).number("expires_in_ms"); left != 5000 {
			t.Errorf("got %d ms", left)
		}
	}
	s.do("PUT", locks+"stage", fmt.Sprintf(`{"fence":%d,"owner":"bob"}`, fence)).refused("not_holder")
	s.do("PUT", locks+"stage", fmt.Sprintf(`{"fence":%d,"owner":"ada"}`, fence+1)).refused("not_holder")
	s.store.advance(5001 * time.Millisecond)
	s.do("PUT", locks+"stage", renewal).refused("not_holder")
	for _, body := range []string{`{"owner":"ada"}`, `{"fence":3}`, `{"fence":"3","owner":"ada"}`, `{"fence":3,"owner":"ada","ttl_ms":1000}`, `[]`} {
		s.do("PUT", locks+"stage", body).refused("bad_request")
	}
	s.do("PUT", "/v1/rooms/other/locks/default/stage", renewal).refused("no_session")
	s.do("PUT", locks+"stage", renewal, "Conclave-Session", "sold").refused("session_ended")
}

func TestG6_waitersInOrder(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	ctx := context.Background()
	fence := s.do("POST", locks+"stage", `{"owner":"w0","ttl_ms":5000}`).want(200).number("fence")
	var waits []<-chan reply
	for i := 1; i <= 4; i++ {
		waits = append(waits, s.later(ctx, "POST", locks+"stage", fmt.Sprintf(`{"owner":"w%d","ttl_ms":5000,"wait_ms":60000}`, i)))
		waitFor(t, "the place in line", func() bool { return s.queued("stage") == i })
	}
	if s.do("POST", locks+"stage", `{"owner":"w9","ttl_ms":5000}`).refused("locked")["owner"] != "w0" {
		t.Error("locked names another owner")
	}
	for i, wait := range waits {
		s.do("DELETE", fmt.Sprintf("%sstage?fence=%d&owner=w%d", locks, fence, i), "").want(200)
		got := (<-wait).want(200)
		if got.text("owner") != fmt.Sprintf("w%d", i+1) || got.number("fence") <= fence {
			t.Errorf("got %s after fence %d", got.body, fence)
		}
		fence = got.number("fence")
		if left := got.number("expires_in_ms"); left != 5000 {
			t.Errorf("%d ms are left", left)
		}
		if n := s.queued("stage"); n != len(waits)-1-i {
			t.Errorf("%d wait after grant %d", n, i)
		}
	}
}

func TestLocks_waitsEnd(t *testing.T) {
	s := newTestServer(t, Config{})
	session := s.open("r").text("session")
	background := context.Background()
	first := s.do("POST", locks+"stage", `{"ttl_ms":60000}`).want(200)
	if len(first.text("owner")) < 20 {
		t.Errorf("the owner %q can be guessed", first.text("owner"))
	}
	t.Run("by wait_ms", func(t *testing.T) {
		wait := s.later(background, "POST", locks+"stage", `{"ttl_ms":5000,"wait_ms":1000}`)
		waitFor(t, "the place in line", func() bool { return s.queued("stage") == 1 })
		s.store.advance(1001 * time.Millisecond)
		r := <-wait
		r.t = t
		r.refused("lock_timeout")
	})
	t.Run("with its request", func(t *testing.T) {
		ctx, cancel := context.WithCancel(background)
		wait := s.later(ctx, "POST", locks+"stage", `{"ttl_ms":5000,"wait_ms":60000}`)
		waitFor(t, "the place in line", func() bool { return s.queued("stage") == 1 })
		cancel()
		<-wait
		waitFor(t, "the end of the wait", func() bool { return s.queued("stage") == 0 })
	})
	t.Run("by expiry of the holder", func(t *testing.T) {
		wait := s.later(background, "POST", locks+"stage", `{"owner":"next","ttl_ms":5000,"wait_ms":120000}`)
		waitFor(t, "the place in line", func() bool { return s.queued("stage") == 1 })
		s.store.advance(61 * time.Second)
		r := (<-wait).want(200)
		if r.number("fence") <= first.number("fence") {
			t.Errorf("got %s", r.body)
		}
	})
	t.Run("with the session", func(t *testing.T) {
		s.do("POST", locks+"other", `{"owner":"a","ttl_ms":60000}`).want(200)
		wait := s.later(background, "POST", locks+"other", `{"ttl_ms":5000,"wait_ms":60000}`)
		waitFor(t, "the place in line", func() bool { return s.queued("other") == 1 })
		s.do("DELETE", "/v1/rooms/r", "", "Conclave-Session", session).want(200)
		r := <-wait
		r.t = t
		r.refused("session_ended")
	})
	waitFor(t, "an empty table", func() bool { return s.grants.size() == 0 })
}

// A grant that comes when its request is already gone leaves no lock behind that
// nobody can name; that of a named owner stays for it to come back.
func TestLocks_grantedToNobody(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		kept bool
	}{
		"a made-up owner's is released": {`{"ttl_ms":60000,"wait_ms":60000}`, false},
		"a named owner's stays":         {`{"owner":"b","ttl_ms":60000,"wait_ms":60000}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, Config{})
			s.open("r")
			fence := s.do("POST", locks+"stage", `{"owner":"a","ttl_ms":60000}`).want(200).number("fence")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			// The request ends in the publication that grants the lock, just before
			// the table of grants hears of it.
			s.store.first = func(p *fsm.Published) {
				if len(p.Grants) > 0 {
					cancel()
				}
			}
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				req := httptest.NewRequestWithContext(ctx, "POST", locks+"stage", strings.NewReader(tc.body))
				s.Handler().ServeHTTP(httptest.NewRecorder(), req)
			}()
			waitFor(t, "the place in line", func() bool { return s.queued("stage") == 1 })
			s.do("DELETE", fmt.Sprintf("%sstage?fence=%d&owner=a", locks, fence), "").want(200)
			<-answered
			if got := s.holder("stage"); (got != lock.Owner{}) != tc.kept {
				t.Errorf("%v holds it", got)
			}
		})
	}
}

func TestLocks_drainingEndsWaits(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	s.do("POST", locks+"stage", `{"owner":"a","ttl_ms":60000}`).want(200)
	wait := s.later(context.Background(), "POST", locks+"stage", `{"owner":"b","ttl_ms":5000,"wait_ms":60000}`)
	waitFor(t, "the place in line", func() bool { return s.queued("stage") == 1 })
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	(<-wait).refused("unavailable")
	if n := s.queued("stage"); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// A repeat of an acquire owns what the first one did, made-up owner included.
func TestG9_repeatedAcquire(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	body := `{"ttl_ms":5000,"wait_ms":0}`
	first := s.do("POST", locks+"stage", body, "Idempotency-Key", "a1").want(200)
	s.store.advance(time.Second)
	again := s.do("POST", locks+"stage", body, "Idempotency-Key", "a1").want(200)
	if again.number("fence") != first.number("fence") || again.text("owner") != first.text("owner") {
		t.Errorf("got %s, first %s", again.body, first.body)
	}
	if left := again.number("expires_in_ms"); left != 4000 {
		t.Errorf("%d ms are left", left)
	}
	s.do("POST", locks+"stage", body, "Idempotency-Key", "a2").refused("locked")
	s.do("DELETE", fmt.Sprintf("%sstage?fence=%d&owner=%s", locks, first.number("fence"), first.text("owner")), "").want(200)
}

func TestLocks_badInput(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	before := s.do("GET", "/v1", "").header.Get("Conclave-Rev")
	for body, field := range map[string]string{
		``: "ttl_ms", `{}`: "ttl_ms", `[]`: "body", `{"ttl_ms":999}`: "ttl_ms", `{"ttl_ms":1e3}`: "ttl_ms",
		`{"ttl_ms":1000,"wait":5}`: "wait", `{"ttl_ms":1000,"wait_ms":-1}`: "wait_ms", `{"ttl_ms":1000,"owner":""}`: "owner",
		`{"ttl_ms":1000,"owner":7}`: "owner", `{"ttl_ms":1000,"mode":"mine"}`: "mode", `{"ttl_ms":1000,"mode":7}`: "mode",
		`{"ttl_ms":1000,"permits":0}`: "permits", `{"ttl_ms":1000,"permits":100001}`: "permits",
		`{"ttl_ms":1000,"permits":2,"mode":"shared"}`: "permits", `{"ttl_ms":1000,"permits":"2"}`: "permits",
		`{"ttl_ms":1000,"delay_ms":-1}`: "delay_ms", `{"ttl_ms":1000,"delay_ms":3600001}`: "delay_ms",
		`{"ttl_ms":86400001}`: "ttl_ms", `{"ttl_ms":1000,"wait_ms":86400001}`: "wait_ms", `{"ttl_ms":1000,"release_on_detach":true}`: "release_on_detach",
	} {
		if d := s.do("POST", locks+"k", body).refused("bad_request"); d["field"] != field {
			t.Errorf("%s: got %v, want %s", body, d, field)
		}
	}
	s.do("DELETE", locks+"k?owner=a", "").refused("bad_request")
	s.do("DELETE", locks+"k?fence=1&owner=a&open_ms=5", "").refused("bad_request")
	if after := s.do("GET", "/v1", "").header.Get("Conclave-Rev"); after != before {
		t.Errorf("the revision went from %s to %s", before, after)
	}
	s.do("DELETE", locks+"k?fence=1&owner=a", "").refused("not_holder")
}

func TestLocks_breaking(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	s.do("POST", locks+"k", `{"owner":"a","ttl_ms":60000}`).want(200)
	s.do("DELETE", locks+"k?break=true", "").want(200)
	s.do("GET", locks+"k", "").refused("not_found")
}

func TestTxn(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	host := s.do("PUT", keys+"host", `"ada"`).want(201).number("rev")
	body := fmt.Sprintf(`{"if":[{"key":"host","rev":%d},{"key":"poll","absent":true}],
		"then":[{"do":"put","key":"poll","value":{"q":"<"}},{"do":"acquire","key":"stage","ttl_ms":5000},{"do":"put","key":"stage","value":1},{"do":"delete","key":"nothing"},{"do":"get","key":"poll"}],
		"else":[{"do":"get","key":"host"},{"do":"get","key":"nobody"}]}`, host)
	r := s.do("POST", "/v1/rooms/r/txn?owner=ada", body).want(200)
	rev := r.number("rev")
	entry := fmt.Sprintf(`{"key":"poll","value":{"q":"<"},"version":1,"rev":%d,"created_rev":%[1]d,"by":{"kind":"server"},"at":"2026-07-01T12:00:00.000Z"}`, rev)
	want := fmt.Sprintf(`{"applied":true,"rev":%d,"results":[{"version":1},{"fence":%[1]d},{"version":1},{"existed":false},{"entry":%s}]}`, rev, entry)
	if r.body != want {
		t.Errorf("got %s, want %s", r.body, want)
	}
	r = s.do("POST", "/v1/rooms/r/txn?owner=ada", body).want(200)
	if !strings.HasPrefix(r.body, fmt.Sprintf(`{"applied":false,"rev":%d,"results":[{"entry":{"key":"host"`, rev)) || !strings.HasSuffix(r.body, `,{"entry":null}]}`) {
		t.Errorf("got %s", r.body)
	}
	if d := s.do("POST", "/v1/rooms/r/txn", `{"then":[{"do":"put","key":"a","value":1},{"do":"put","key":"stage","value":2}]}`).refused("locked"); d["index"] != 1.0 {
		t.Errorf("got %v", d)
	}
	s.do("GET", keys+"a", "").refused("not_found")
	if d := s.do("POST", "/v1/rooms/r/txn", `{"then":[{"do":"acquire","key":"x","ttl_ms":5000}]}`).refused("bad_request"); d["field"] != "owner" {
		t.Errorf("got %v", d)
	}
	s.do("POST", "/v1/rooms/r/txn", `{"then":[{"do":"put","key":"a"}]}`).refused("bad_request")
	s.do("POST", "/v1/rooms/none/txn", `{"then":[]}`).refused("no_session")
}
