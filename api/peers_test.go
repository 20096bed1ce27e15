package api

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const peers = "/v1/rooms/r/peers"

func TestPeers_withoutSocket(t *testing.T) {
	s := newTestServer(t, Config{})
	joined := s.do("POST", peers, `{"name":"Ada","ref":"u7","data":{"hand": true},"ttl_ms":10000}`).want(201)
	id, key := joined.text("peer"), joined.text("resume_key")
	if len(key) < 22 {
		t.Errorf("the key %q can be guessed", key)
	}
	want := fmt.Sprintf(`{"peer":%q,"ref":"u7","role":"","name":"Ada","data":{"hand":true},"state":"attached",`+
		`"joined_at":"2026-07-01T12:00:00.000Z","joined_rev":%d}`, id, joined.number("rev"))
	if got := s.do("GET", peers+"/"+id, "").want(200); got.body != want {
		t.Errorf("got %s, want %s", got.body, want)
	}
	if got := s.do("GET", peers, "").want(200); got.body != `{"peers":[`+want+`]}` {
		t.Errorf("got %s", got.body)
	}
	s.do("GET", peers+"/pnobody", "").refused("not_found")

	as := []string{"Conclave-Peer", id, "Conclave-Peer-Key", key}
	s.do("PUT", keys+"k", "1", as...).want(201)
	by := s.do("GET", keys+"k", "").want(200).members()["by"]
	if fmt.Sprint(by) != fmt.Sprintf("map[kind:peer peer:%s ref:u7]", id) {
		t.Errorf("written by %v", by)
	}
	s.do("PUT", keys+"k", "1", "Conclave-Peer", id, "Conclave-Peer-Key", "guess").refused("forbidden")
	s.do("PUT", keys+"k", "1", "Conclave-Peer", "pnobody", "Conclave-Peer-Key", key).refused("not_found")
	s.do("PUT", "/v1/rooms/other/stores/default/keys/k", "1", as...).refused("no_session")
	s.do("PUT", keys+"k?owner=somebody", "1", as...).refused("bad_request")

	held := s.do("POST", locks+"stage", `{"ttl_ms":5000}`, as...).want(200)
	if held.text("owner") != id {
		t.Errorf("got %s", held.body)
	}
	s.do("PUT", fmt.Sprintf("%sstage?fence=%d", keys, held.number("fence")), "1", as...).want(201)
	s.do("PUT", fmt.Sprintf("%sstage?fence=%d&owner=%s", keys, held.number("fence"), id), "1").refused("stale_fence")
	s.do("PUT", locks+"stage", fmt.Sprintf(`{"fence":%d}`, held.number("fence")), as...).want(200)
}

func TestPeers_aliveAndGone(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	joined := s.do("POST", peers, `{"ttl_ms":10000}`).want(201)
	keeper := s.do("POST", peers, `{"ttl_ms":1000000}`).want(201)
	id := joined.text("peer")
	s.store.advance(9 * time.Second)
	if left := s.do("PUT", peers+"/"+id+"/alive", "", "Conclave-Peer", id, "Conclave-Peer-Key", joined.text("resume_key")).want(200).number("expires_in_ms"); left != 10000 {
		t.Errorf("got %d ms", left)
	}
	s.do("PUT", peers+"/"+id+"/alive", "", "Conclave-Peer", keeper.text("peer"), "Conclave-Peer-Key", keeper.text("resume_key")).refused("forbidden")
	s.store.advance(9 * time.Second)
	s.do("GET", peers+"/"+id, "").want(200)
	s.store.advance(2 * time.Second)
	s.do("GET", peers+"/"+id, "").refused("not_found")
	s.do("PUT", peers+"/"+id+"/alive", "").refused("not_found")
}

func TestPeers_change(t *testing.T) {
	s := newTestServer(t, Config{})
	a := s.do("POST", peers, `{"name":"Ada","ttl_ms":10000}`).want(201)
	b := s.do("POST", peers, `{"ttl_ms":10000}`).want(201)
	asA := []string{"Conclave-Peer", a.text("peer"), "Conclave-Peer-Key", a.text("resume_key")}
	s.do("PATCH", peers+"/"+a.text("peer"), `{"data":{"x":1},"name":"Ada L."}`, asA...).want(200)
	s.do("PATCH", peers+"/"+b.text("peer"), `{"name":"Eve"}`, asA...).refused("forbidden")
	s.do("PATCH", peers+"/"+a.text("peer"), `{"role":"host"}`).want(200)
	got := s.do("GET", peers+"/"+a.text("peer"), "").want(200)
	if got.text("name") != "Ada L." || got.text("role") != "host" {
		t.Errorf("got %s", got.body)
	}
	s.do("PATCH", peers+"/pnobody", `{"name":"x"}`).refused("not_found")
	for _, body := range []string{`{}`, ``, `{"state":"attached"}`, `{"name":7}`, `{"name":null}`} {
		s.do("PATCH", peers+"/"+a.text("peer"), body).refused("bad_request")
	}
	s.do("DELETE", peers+"/"+a.text("peer"), "", asA...).want(200)
	s.do("DELETE", peers+"/"+a.text("peer"), "").refused("not_found")
	s.do("PUT", keys+"k", "1", asA...).refused("not_found")
	s.do("DELETE", peers+"/"+b.text("peer"), "").want(200)
	s.do("GET", peers, "").refused("no_session")
}

func TestPeers_badInput(t *testing.T) {
	s := newTestServer(t, Config{})
	for body, field := range map[string]string{
		`{}`: "ttl_ms", ``: "ttl_ms", `{"ttl_ms":0}`: "ttl_ms", `{"ttl_ms":1000,"role":"host"}`: "role", `{"ttl_ms":1000,"name":1}`: "name",
	} {
		if d := s.do("POST", peers, body).refused("bad_request"); d["field"] != field {
			t.Errorf("%s: got %v, want %s", body, d, field)
		}
	}
	s.do("GET", peers, "").refused("no_session")
}

// A repeated join gets the same peer and the key that counts.
func TestG9_repeatedJoin(t *testing.T) {
	s := newTestServer(t, Config{})
	first := s.do("POST", peers, `{"ttl_ms":10000}`, "Idempotency-Key", "j1").want(201)
	again := s.do("POST", peers, `{"ttl_ms":10000}`, "Idempotency-Key", "j1").want(201)
	if again.text("peer") != first.text("peer") || again.text("resume_key") != first.text("resume_key") {
		t.Errorf("got %s, first %s", again.body, first.body)
	}
	if n := len(s.do("GET", peers, "").want(200).members()["peers"].([]any)); n != 1 {
		t.Errorf("%d peers joined", n)
	}
	// It used to be attached anew, at a revision of its own, and taken from its socket.
	if again.body != first.body || again.header.Get("Conclave-Rev") != first.header.Get("Conclave-Rev") {
		t.Errorf("got %s, first %s", again.body, first.body)
	}
}

// Who names its session learns that it is over, not that its peer is not in the next.
func TestPeers_ofAnEndedSession(t *testing.T) {
	s := newTestServer(t, Config{})
	first := s.do("POST", peers, `{"ttl_ms":10000}`).want(201)
	as := []string{
		"Conclave-Peer", first.text("peer"), "Conclave-Peer-Key", first.text("resume_key"), "Conclave-Session", first.text("session"),
	}
	s.do("DELETE", "/v1/rooms/r", "").want(200)
	s.do("PUT", keys+"k", "1", as...).refused("session_ended")
	s.open("r")
	s.do("PUT", keys+"k", "1", as...).refused("session_ended")
	s.do("GET", keys+"k", "", as...).refused("session_ended")
	s.do("PUT", keys+"k", "1", as[:4]...).refused("not_found")
}

// A peer may decide about another's role, but not about what it says of itself.
func TestPeers_changeOthers(t *testing.T) {
	s := newTestServer(t, Config{})
	a := s.do("POST", peers, `{"ttl_ms":10000}`).want(201)
	b := s.do("POST", peers, `{"ttl_ms":10000}`).want(201)
	asA := []string{"Conclave-Peer", a.text("peer"), "Conclave-Peer-Key", a.text("resume_key")}
	s.do("PATCH", peers+"/"+b.text("peer"), `{"role":"host"}`, asA...).want(200)
	for _, body := range []string{`{"name":"x"}`, `{"ref":"x"}`, `{"data":1}`, `{"data":1,"role":"guest"}`} {
		s.do("PATCH", peers+"/"+b.text("peer"), body, asA...).refused("forbidden")
	}
	if got := s.do("GET", peers+"/"+b.text("peer"), "").want(200); got.text("role") != "host" {
		t.Errorf("got %s", got.body)
	}
}

// A long answer goes out in pieces.
func TestPeers_longPage(t *testing.T) {
	s := newTestServer(t, Config{})
	data := `"` + strings.Repeat("x", 3000) + `"`
	const n = 100
	for range n {
		s.do("POST", peers, `{"ttl_ms":10000,"data":`+data+`}`).want(201)
	}
	r := s.do("GET", peers, "").want(200)
	if len(r.body) < 4*pieceBytes {
		t.Fatalf("%d bytes are no test", len(r.body))
	}
	if got := len(r.members()["peers"].([]any)); got != n {
		t.Errorf("got %d peers", got)
	}
	if r.header.Get("Conclave-Rev") == "" {
		t.Error("no revision")
	}
}
