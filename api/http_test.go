package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"conclave/client/wire"
)

// testServer is a Server over a testStore, reached over real HTTP.
type testServer struct {
	*Server
	t     testing.TB
	store *testStore
	http  *httptest.Server
}

func newTestServer(t testing.TB, cfg Config) *testServer {
	s := &testServer{t: t, store: newTestStore(t)}
	if cfg.Version == "" {
		cfg.Version = "test"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(logWriter{t}, nil))
	}
	s.Server = New(cfg, s.store)
	s.http = httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		s.http.Close()
	})
	return s
}

// sockets is the same server, asked over sockets.
func (s *testServer) sockets() *socketServer { return &socketServer{s.Server, s.t, s.store, s.http} }

// logWriter sends a server's log to its test.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// reply is an answer over HTTP.
type reply struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// do sends one request; headers are names and values in turn.
func (s *testServer) do(method, path, body string, headers ...string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, s.http.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return s.send(req)
}

func (s *testServer) send(req *http.Request) reply {
	s.t.Helper()
	res, err := s.http.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	checked(s.t, req, res.StatusCode, res.Header, string(got))
	return reply{s.t, res.StatusCode, res.Header, string(got)}
}

// want checks the status of a success.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("got %d %s, want %d", r.status, r.body, status)
	}
	return r
}

// number is a member of the answer.
func (r reply) number(name string) uint64 {
	r.t.Helper()
	n, ok := r.members()[name].(json.Number)
	if !ok {
		r.t.Fatalf("%s has no number %q", r.body, name)
	}
	u, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

func (r reply) text(name string) string {
	r.t.Helper()
	s, ok := r.members()[name].(string)
	if !ok {
		r.t.Fatalf("%s has no string %q", r.body, name)
	}
	return s
}

func (r reply) members() map[string]any {
	r.t.Helper()
	m := map[string]any{}
	dec := json.NewDecoder(strings.NewReader(r.body))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		r.t.Fatalf("%s: %v", r.body, err)
	}
	return m
}

// refused checks that the answer is a whole problem document with that code, and
// returns its details.
func (r reply) refused(code wire.Code) map[string]any {
	r.t.Helper()
	var p wire.Problem
	dec := json.NewDecoder(strings.NewReader(r.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		r.t.Fatalf("got %d %s, want the problem %s", r.status, r.body, code)
	}
	if p.Code != code {
		r.t.Fatalf("got %s, want %s", r.body, code)
	}
	class := wire.Codes[code]
	if r.status != class.Status || p.Status != class.Status {
		r.t.Errorf("got the status %d (in the problem %d), want %d", r.status, p.Status, class.Status)
	}
	if p.Retry != class.Retry {
		r.t.Errorf("got retry %s, want %s", p.Retry, class.Retry)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		r.t.Errorf("got the type %q", got)
	}
	if p.Title == "" || p.Detail == "" || p.Type == "" {
		r.t.Errorf("incomplete: %s", r.body)
	}
	if p.Details == nil {
		p.Details = map[string]any{}
	}
	return p.Details
}

// open opens a room for a test that needs one.
func (s *testServer) open(room string) reply {
	s.t.Helper()
	return s.do("PUT", "/v1/rooms/"+room, "").want(201)
}

func TestServer_unknownRoutesAndMethods(t *testing.T) {
	s := newTestServer(t, Config{})
	for _, path := range []string{"/", "/v2", "/v1/", "/v1/rooms/r/", "/v1/rooms/r/stores/s/keys/a/b", "/v1/rooms/r/stores/s/keys/", "/v1/nothing"} {
		s.do("GET", path, "").refused("not_found")
	}
	r := s.do("POST", "/v1/rooms/r", "")
	if r.status != 405 || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s", r.status, r.body)
	}
	if allow := r.header.Get("Allow"); !strings.Contains(allow, "PUT") || !strings.Contains(allow, "DELETE") {
		t.Errorf("got Allow %q", allow)
	}
}

func TestServer_describesItself(t *testing.T) {
	s := newTestServer(t, Config{Version: "1.2.3"})
	got := s.do("GET", "/v1", "").want(200)
	if want := `{"v":1,"version":"1.2.3","node":"n1","features":[]}`; got.body != want {
		t.Errorf("got %s, want %s", got.body, want)
	}
	s.do("GET", "/v1?x=1", "").refused("bad_request")
	if head := s.do("HEAD", "/v1", "").want(200); head.body != "" || head.header.Get("Conclave-Rev") == "" {
		t.Errorf("got %q with %v", head.body, head.header)
	}
}

func TestServer_health(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("GET", "/livez", "").want(200)
	s.do("GET", "/readyz", "").want(200)
	s.store.mu.Lock()
	s.store.reasons = []string{"no leader"}
	s.store.mu.Unlock()
	s.do("GET", "/livez", "").want(200)
	if got := s.do("GET", "/readyz", "").want(503); got.body != `{"ready":false,"reasons":["no leader"]}` {
		t.Errorf("got %s", got.body)
	}
}

func TestServer_readyUntilItCloses(t *testing.T) {
	s := newTestServer(t, Config{})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.do("GET", "/readyz", "").want(503); !strings.Contains(got.body, "draining") {
		t.Errorf("got %s", got.body)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestServer_metrics(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	s.do("PUT", "/v1/rooms/r/stores/default/keys/k", "1").want(201)
	s.do("GET", "/v1/rooms/r/stores/default/keys/secret-name", "").want(404)
	s.do("GET", "/v1/nowhere", "").want(404)
	got := s.do("GET", "/metrics", "").want(200).body
	for _, want := range []string{
		`conclave_http_requests_total{method="PUT",route="/v1/rooms/:room/stores/:store/keys/:key",status="201"} 1`,
		`conclave_http_requests_total{method="GET",route="/v1/rooms/:room/stores/:store/keys/:key",status="404"} 1`,
		`conclave_http_requests_total{method="GET",route="none",status="404"} 1`,
		`conclave_batches_total{status="applied"} 2`,
		`conclave_commands_total 2`,
		"conclave_raft_leader 1",
		"conclave_raft_term 1",
		"conclave_ready 1",
		`conclave_members{voter="true"} 3`,
		"conclave_sockets 0",
		"conclave_watchers 0",
		"conclave_lock_waits 0",
		"conclave_disk_write_seconds",
		"conclave_raft_applied_index",
		"conclave_raft_commit_index",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(got, "secret-name") {
		t.Error("a label has a client's word")
	}
	if want := "conclave_rev " + s.do("GET", "/v1", "").header.Get("Conclave-Rev") + "\n"; !strings.Contains(got, want) {
		t.Errorf("no %q", want)
	}
}

// A condition that does not apply was ignored, and what it should have prevented done.
func TestServer_conditionsThatDoNotApplyAreRefused(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	peer := s.do("POST", peers, `{"ttl_ms":10000}`).want(201).text("peer")
	lock := s.do("POST", locks+"k", `{"owner":"o","ttl_ms":10000}`).want(200)
	rev := s.store.View().Rev()
	for _, r := range [][3]string{
		{"PUT", "/v1/rooms/r", ""},
		{"DELETE", "/v1/rooms/r", ""},
		{"PUT", "/v1/rooms/r/stores/default", `{}`},
		{"PATCH", "/v1/rooms/r/stores/default", `{"set":{"a":1}}`},
		{"POST", "/v1/rooms/r/txn", `{"then":[]}`},
		{"POST", "/v1/rooms/r/messages", `{"topic":"t","data":1}`},
		{"POST", peers, `{"ttl_ms":1000}`},
		{"PATCH", peers + "/" + peer, `{"name":"x"}`},
		{"DELETE", peers + "/" + peer, ""},
		{"PUT", peers + "/" + peer + "/alive", ""},
		{"POST", locks + "l", `{"ttl_ms":1000}`},
		{"PUT", locks + "k", fmt.Sprintf(`{"owner":"o","fence":%d}`, lock.number("fence"))},
		{"DELETE", fmt.Sprintf("%sk?owner=o&fence=%d", locks, lock.number("fence")), ""},
	} {
		for name, tag := range map[string]string{"If-Match": `"1"`, "If-None-Match": "*"} {
			if d := s.do(r[0], r[1], r[2], name, tag).refused("bad_request"); d["field"] != name {
				t.Errorf("%s %s: got %v", r[0], r[1], d)
			}
		}
	}
	if now := s.store.View().Rev(); now != rev {
		t.Errorf("something was done: at %d, was %d", now, rev)
	}
	s.do("GET", "/v1/rooms/r/stores/default", "", "If-None-Match", `"1"`).want(200)
}

// A panic in a handler is internal, told to the client by its id alone.
func TestServer_panicIsInternal(t *testing.T) {
	s := newTestServer(t, Config{Auth: panicking{}})
	r := s.do("GET", "/v1/rooms", "")
	details := r.refused("internal")
	if id, _ := details["request_id"].(string); len(id) < 10 {
		t.Errorf("got the request id %q", id)
	}
	if strings.Contains(r.body, "boom") {
		t.Errorf("the answer tells too much: %s", r.body)
	}
}

type panicking struct{}

func (panicking) Authenticate(string) (Identity, error) { panic("boom") }

// Whatever authenticates callers decides on every route.
func TestServer_asksTheAuthenticator(t *testing.T) {
	s := newTestServer(t, Config{Auth: onlyToken("good")})
	for _, tc := range []struct{ method, path, body string }{
		{"GET", "/v1/rooms", ""},
		{"PUT", "/v1/rooms/r", ""},
		{"GET", "/v1/rooms/r", ""},
		{"DELETE", "/v1/rooms/r", ""},
		{"GET", "/v1/rooms/r/stores", ""},
		{"GET", "/v1/rooms/r/stores/default", ""},
		{"GET", "/v1/rooms/r/stores/default/keys/k", ""},
		{"PUT", "/v1/rooms/r/stores/default/keys/k", "1"},
		{"DELETE", "/v1/rooms/r/stores/default/keys/k", ""},
		{"POST", "/v1/rooms/r/txn", `{"then":[]}`},
		{"GET", "/v1/rooms/r/locks", ""},
		{"GET", "/v1/rooms/r/locks/default/k", ""},
		{"POST", "/v1/rooms/r/locks/default/k", `{"ttl_ms":1000}`},
		{"PUT", "/v1/rooms/r/locks/default/k", `{"fence":1,"owner":"o"}`},
		{"DELETE", "/v1/rooms/r/locks/default/k?fence=1&owner=o", ""},
		{"GET", "/v1/rooms/r/peers", ""},
		{"GET", "/v1/rooms/r/peers/p1", ""},
		{"POST", "/v1/rooms/r/peers", `{"ttl_ms":1000}`},
		{"PUT", "/v1/rooms/r/peers/p1/alive", ""},
		{"PATCH", "/v1/rooms/r/peers/p1", `{"name":"A"}`},
		{"DELETE", "/v1/rooms/r/peers/p1", ""},
		{"GET", "/v1/cluster", ""},
		{"POST", "/v1/cluster/members", `{"id":"n4","peer_addr":"h:1"}`},
		{"DELETE", "/v1/cluster/members/n3", ""},
		{"POST", "/v1/cluster/members/n3/promote", ""},
		{"POST", "/v1/cluster/members/n3/demote", ""},
		{"POST", "/v1/cluster/transfer", ""},
	} {
		r := s.do(tc.method, tc.path, tc.body, "Authorization", "Bearer bad")
		if r.status != 401 {
			t.Errorf("%s %s: got %d %s", tc.method, tc.path, r.status, r.body)
			continue
		}
		if got := r.refused("unauthenticated"); got["reason"] != "unknown" {
			t.Errorf("got %v", got)
		}
	}
	if rev := s.do("GET", "/v1", "").header.Get("Conclave-Rev"); rev != "0" {
		t.Errorf("something was changed: the revision is %s", rev)
	}
	s.do("PUT", "/v1/rooms/r", "", "Authorization", "bearer good").want(201)
}

// onlyToken lets one token in.
type onlyToken string

func (o onlyToken) Authenticate(token string) (Identity, error) {
	if token != string(o) {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "unknown token").With("reason", "unknown")
	}
	return Identity{Subject: "ada"}, nil
}

// HEAD answers what GET does, without the body: probes ask with it, of metrics too.
func TestServer_head(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	s.do("PUT", "/v1/rooms/r/stores/default/keys/k", `"a value"`).want(201)
	peer := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":60000}`).want(201).text("peer")
	s.do("POST", "/v1/rooms/r/locks/default/pen", `{"ttl_ms":60000}`).want(200)
	want := map[string]int{"/v1/rooms/r/stores/default/keys/none": 404, "/v1/rooms/none": 404, "/v1/rooms/r?x=1": 400}
	for _, path := range []string{
		"/v1", "/livez", "/readyz", "/metrics", "/v1/rooms", "/v1/rooms/r", "/v1/rooms/r/stores", "/v1/rooms/r/stores/default",
		"/v1/rooms/r/stores/default/keys/k", "/v1/rooms/r/stores/default/keys/none", "/v1/rooms/none", "/v1/rooms/r?x=1",
		"/v1/rooms/r/locks", "/v1/rooms/r/locks/default/pen", "/v1/rooms/r/peers", "/v1/rooms/r/peers/" + peer, "/v1/cluster",
	} {
		get, head := s.do("GET", path, ""), s.do("HEAD", path, "")
		if head.status != get.status || head.status != cmp.Or(want[path], 200) || head.body != "" {
			t.Errorf("%s: got %d with the body %q, GET %d", path, head.status, head.body, get.status)
		}
		for _, name := range []string{"Content-Type", "Conclave-Rev", "ETag"} {
			if head.header.Get(name) != get.header.Get(name) {
				t.Errorf("%s: %s is %q, of GET %q", path, name, head.header.Get(name), get.header.Get(name))
			}
		}
	}
	for _, path := range []string{"/v1/rooms/r/events", "/v1/rooms/r/socket", "/v1/rooms/r/txn"} {
		s.do("HEAD", path, "").want(405)
	}
}

func TestServer_readsNoCompressedBody(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	if d := s.do("PUT", "/v1/rooms/r/stores/default/keys/k", "1", "Content-Encoding", "gzip").refused("bad_request"); d["field"] != "Content-Encoding" {
		t.Errorf("got %v", d)
	}
	s.do("GET", "/v1/rooms/r/stores/default/keys/k", "").refused("not_found")
	s.do("PUT", "/v1/rooms/r/stores/default/keys/k", "1", "Content-Encoding", "identity").want(201)
}

// What was never handed to the log is safe to repeat; what may have been is not.
func TestG14_refusalsSayWhetherToRepeat(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	s.store.breakWith(unavailable("no leader"))
	for _, tc := range []struct{ method, path, body string }{
		{"GET", "/v1/rooms/r/stores/default/keys/k", ""},
		{"PUT", "/v1/rooms/r/stores/default/keys/k", "1"},
		{"POST", "/v1/rooms/r/locks/default/k", `{"ttl_ms":1000}`},
		{"DELETE", "/v1/cluster/members/n3", ""},
		{"PUT", "/v1/rooms/r/locks/default/k", `{"fence":1,"owner":"o"}`},
	} {
		r := s.do(tc.method, tc.path, tc.body)
		r.refused("unavailable")
		if r.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: no Retry-After", tc.method, tc.path)
		}
	}
	s.do("GET", "/v1/rooms/r?consistency=stale", "").want(200)
	s.store.breakWith(unknownOutcome("the leader was lost"))
	s.do("PUT", "/v1/rooms/r/stores/default/keys/k", "1").refused("unknown_outcome")
}
