package api

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const keys = "/v1/rooms/r/stores/default/keys/"

func TestKeys_putGetDelete(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	created := s.do("PUT", keys+"poll%2F1", ` {"q": 1.50, "a":[1, 2]} `).want(201)
	rev := created.number("rev")
	if created.number("version") != 1 || created.header.Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(rev)) || created.header.Get("Conclave-Rev") != fmt.Sprint(rev) {
		t.Errorf("got %s %v", created.body, created.header)
	}
	got := s.do("GET", keys+"poll%2F1", "").want(200)
	want := fmt.Sprintf(`{"key":"poll/1","value":{"q":1.50,"a":[1,2]},"version":1,"rev":%d,"created_rev":%[1]d,"by":{"kind":"server"},"at":"2026-07-01T12:00:00.000Z"}`, rev)
	if got.body != want {
		t.Errorf("got %s, want %s", got.body, want)
	}
	for _, raw := range []string{"?raw", "?raw=true", "?raw=1"} {
		if got := s.do("GET", keys+"poll%2F1"+raw, "").want(200); got.body != `{"q":1.50,"a":[1,2]}` || got.header.Get("ETag") != created.header.Get("ETag") {
			t.Errorf("%s: got %s %v", raw, got.body, got.header)
		}
	}
	if got.header.Get("Cache-Control") != "no-cache" || got.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %v", got.header)
	}
	tag := created.header.Get("ETag")
	for _, match := range []string{tag, "*", "W/" + tag, `"1", ` + tag} {
		if r := s.do("GET", keys+"poll%2F1", "", "If-None-Match", match).want(304); r.body != "" || r.header.Get("ETag") != tag {
			t.Errorf("If-None-Match %s: got %q %v", match, r.body, r.header)
		}
	}
	s.do("GET", keys+"poll%2F1", "", "If-None-Match", `"1"`).want(200)

	if r := s.do("PUT", keys+"poll%2F1", "null").want(200); r.number("version") != 2 {
		t.Errorf("got %s", r.body)
	}
	if r := s.do("GET", keys+"poll%2F1?raw", "").want(200); r.body != "null" {
		t.Errorf("got %s", r.body)
	}
	if r := s.do("DELETE", keys+"poll%2F1", "").want(200); r.members()["existed"] != true {
		t.Errorf("got %s", r.body)
	}
	if d := s.do("GET", keys+"poll%2F1", "").refused("not_found"); d["key"] != "poll/1" {
		t.Errorf("got %v", d)
	}
	if r := s.do("DELETE", keys+"poll%2F1", "").want(200); r.members()["existed"] != false {
		t.Errorf("got %s", r.body)
	}
}

// A name is the bytes of one escaped segment, nothing more and nothing less.
func TestKeys_namesSurviveTheURL(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	for _, key := range []string{"a/b", "a b", "a+b", "a%2Fb", "ß/😀", "/", "//", "a?b", "a#b", "%", "+", "...", ".a", "x;y", "x&y=z", `"`, `\`, "<"} {
		s.do("PUT", keys+url.PathEscape(key), `1`).want(201)
		got := s.do("GET", keys+url.PathEscape(key), "").want(200)
		if got.text("key") != key {
			t.Errorf("%q became %q", key, got.text("key"))
		}
	}
	if n := len(s.do("GET", "/v1/rooms/r/stores/default", "").want(200).members()["entries"].([]any)); n != 18 {
		t.Errorf("got %d keys, want 18", n)
	}
	s.do("PUT", keys+"plus+sign", "1").want(201) // a plus is a plus in a path
	s.do("GET", keys+"plus%2Bsign", "").want(200)
}

func TestG3_conditionsOverHTTP(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	first := s.do("PUT", keys+"k", `"a"`, "If-None-Match", "*").want(201)
	d := s.do("PUT", keys+"k", `"b"`, "If-None-Match", "*").refused("conflict")
	if d["key"] != "k" || d["exists"] != true || d["version"] != 1.0 || d["value"] != "a" || d["rev"] != float64(first.number("rev")) {
		t.Errorf("got %v", d)
	}
	second := s.do("PUT", keys+"k", `"b"`, "If-Match", first.header.Get("ETag")).want(200)
	s.do("PUT", keys+"k", `"c"`, "If-Match", first.header.Get("ETag")).refused("conflict")
	s.do("PUT", keys+"k?if_version=1", `"c"`).refused("conflict")
	s.do("PUT", keys+"k?if_version=2", `"c"`, "If-Match", first.header.Get("ETag")).refused("conflict")
	s.do("PUT", keys+"k?if_version=2", `"c"`, "If-Match", second.header.Get("ETag")).want(200)
	s.do("PUT", keys+"new?if_version=0", `1`).want(201)
	s.do("PUT", keys+"k", `1`, "If-Match", "*").want(200)
	if d := s.do("PUT", keys+"absent", `1`, "If-Match", "*").refused("conflict"); d["exists"] != false || d["rev"] != 0.0 {
		t.Errorf("got %v", d)
	}
	s.do("DELETE", keys+"k?if_version=1", "").refused("conflict")
	s.do("DELETE", keys+"k?if_version=4", "").want(200)
}

func TestKeys_badInputChangesNothing(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	before := s.do("GET", "/v1", "").header.Get("Conclave-Rev")
	k300, k, store := strings.Repeat("k", 300), keys+"k", "/v1/rooms/r/stores/default"
	for name, tc := range map[string]struct {
		path, body, header, value, field string
	}{
		"bad JSON":                  {path: k, body: `{"a":`, field: "value"},
		"no JSON":                   {path: k, body: "", field: "value"},
		"two values":                {path: k, body: "1 2", field: "value"},
		"duplicate members":         {path: k, body: `{"a":{"b":1,"b":2}}`, field: "value"},
		"no UTF-8":                  {path: k, body: "\"\xff\"", field: "value"},
		"a key of 300 bytes":        {path: keys + k300, body: "1", field: "key"},
		"a key with a star":         {path: keys + "a*", body: "1", field: "key"},
		"a key with a NUL":          {path: keys + "a%00", body: "1", field: "key"},
		"a key that is no UTF-8":    {path: keys + "%ff", body: "1", field: "key"},
		"a key of two dots":         {path: keys + "%2E%2E", body: "1", field: "key"},
		"a store of 65 bytes":       {path: "/v1/rooms/r/stores/" + strings.Repeat("s", 65) + "/keys/k", body: "1", field: "store"},
		"a store with a slash":      {path: "/v1/rooms/r/stores/a%2Fb/keys/k", body: "1", field: "store"},
		"a room with a space":       {path: "/v1/rooms/a%20b/stores/s/keys/k", body: "1", field: "room"},
		"an unknown parameter":      {path: k + "?ttl=5", body: "1", field: "ttl"},
		"a parameter twice":         {path: k + "?ttl_ms=5&ttl_ms=6", body: "1", field: "ttl_ms"},
		"a ttl that is no number":   {path: k + "?ttl_ms=soon", body: "1", field: "ttl_ms"},
		"a ttl of nothing":          {path: k + "?ttl_ms=0", body: "1", field: "ttl_ms"},
		"a fence of nothing":        {path: k + "?fence=0", body: "1", field: "fence"},
		"a negative version":        {path: k + "?if_version=-1", body: "1", field: "if_version"},
		"a bad escape in the query": {path: k + "?owner=%zz", body: "1", field: "query"},
		"a bare If-Match":           {path: k, body: "1", header: "If-Match", value: "12", field: "If-Match"},
		"a weak If-Match":           {path: k, body: "1", header: "If-Match", value: `W/"12"`, field: "If-Match"},
		"two tags in If-Match":      {path: k, body: "1", header: "If-Match", value: `"1", "2"`, field: "If-Match"},
		"words in If-Match":         {path: k, body: "1", header: "If-Match", value: `"abc"`, field: "If-Match"},
		"If-None-Match of a tag":    {path: k, body: "1", header: "If-None-Match", value: `"1"`, field: "If-None-Match"},
		"an empty Idempotency-Key":  {path: k, body: "1", header: "Idempotency-Key", value: "", field: "Idempotency-Key"},
		"a long Idempotency-Key":    {path: k, body: "1", header: "Idempotency-Key", value: strings.Repeat("i", 129), field: "Idempotency-Key"},
		"a session with a slash":    {path: k, body: "1", header: "Conclave-Session", value: "a/b", field: "Conclave-Session"},
		"a peer without its key":    {path: k, body: "1", header: "Conclave-Peer", value: "p1", field: "Conclave-Peer"},
		"an open_ms of nothing":     {path: k + "?open_ms=0", body: "1", field: "open_ms"},
		"a bind to nobody's id":     {path: k + "?bind=a*b", body: "1", field: "bind"},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if tc.header != "" {
				headers = []string{tc.header, tc.value}
			}
			r := s.do("PUT", tc.path, tc.body, headers...)
			r.t = t
			if got := r.refused("bad_request"); got["field"] != tc.field {
				t.Errorf("got %s, want the field %q", r.body, tc.field)
			}
		})
	}
	for _, path := range []string{k + "?consistency=strong", k + "?min_rev=x", k + "?raw=maybe", "/v1/rooms/r/stores/default?limit=0", "/v1/rooms/r/stores/default?limit=1001", "/v1/rooms?limit=x"} {
		s.do("GET", path, "").refused("bad_request")
	}
	for _, tc := range []struct{ method, path, body, kind, field string }{
		{"PATCH", k, `{}`, "application/json", "body"},
		{"PATCH", k, ``, "application/json", "body"},
		{"PATCH", k, `{"add":1,"update":1}`, "application/json", "add"},
		{"PATCH", k, `{"update":1,"unique":true}`, "application/json", "unique"},
		{"PATCH", k, `{"append":1}`, "", "append"},
		{"PATCH", k, `{"remove":{}}`, "", "remove"},
		{"PATCH", k, `{"add":"1"}`, "", "add"},
		{"PATCH", k, `{"update":}`, "", "body"},
		{"PATCH", k, `{"a":1}`, "text/plain", "Content-Type"},
		{"PATCH", k, `{"a":1}`, "application/", "Content-Type"},
		{"PATCH", k, `{"op":"add"}`, "application/json-patch+json", "value"},
		{"PATCH", k, `{"a":1`, "application/merge-patch+json", "value"},
		{"PATCH", k + "?ttl_ms=0", `{"a":1}`, "application/merge-patch+json", "ttl_ms"},
		{"PUT", store, ``, "", "body"},
		{"PUT", store, `[]`, "", "body"},
		{"PUT", store, `{"a*":1}`, "", "a*"},
		{"PUT", store, `{"a":1,"a":2}`, "", "body"},
		{"PUT", store + "?fences=1", `{}`, "", "fences"},
		{"PUT", store + "?fences=%7B%22k%22:0%7D", `{}`, "", "fences.k"},
		{"PUT", store + "?fence=1", `{}`, "", "fence"},
		{"PATCH", store, `{}`, "", "set"},
		{"PATCH", store, `{"set":{},"remove":[]}`, "", "remove"},
		{"PATCH", store, `{"set":{"a":1},"delete":["a"]}`, "", "delete"},
	} {
		if got := s.do(tc.method, tc.path, tc.body, "Content-Type", tc.kind).refused("bad_request"); got["field"] != tc.field {
			t.Errorf("%s %s %s %s: got %v, want the field %q", tc.method, tc.path, tc.kind, tc.body, got, tc.field)
		}
	}
	for _, header := range []string{"If-Match", "If-None-Match"} {
		if got := s.do("PUT", store, "{}", header, "*").refused("bad_request"); got["field"] != header {
			t.Errorf("got %v, want the field %s", got, header)
		}
	}
	if after := s.do("GET", "/v1", "").header.Get("Conclave-Rev"); after != before {
		t.Errorf("the revision went from %s to %s", before, after)
	}
}

func TestKeys_limits(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	before := s.do("GET", "/v1", "").header.Get("Conclave-Rev")
	value := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	d := s.do("PUT", keys+"k", value(64<<10+1)).refused("limit_exceeded")
	if d["limit"] != "value_bytes" || d["max"] != 65536.0 || d["actual"] != 65537.0 {
		t.Errorf("got %v", d)
	}
	if d := s.do("PUT", keys+"k", value(maxBodyBytes)).refused("limit_exceeded"); d["limit"] != "command_bytes" {
		t.Errorf("got %v", d)
	}
	t.Run("a body over 2 MiB", func(t *testing.T) {
		if d := s.do("PUT", keys+"k", value(maxBodyBytes+1)).refused("limit_exceeded"); d["limit"] != "body_bytes" || d["actual"] != float64(maxBodyBytes+1) {
			t.Errorf("got %v", d)
		}
	})
	t.Run("a body of unknown length", func(t *testing.T) {
		// Chunked, and by hand: a client that stops reading early would hide the answer.
		conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %sk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", keys, maxBodyBytes+1, value(maxBodyBytes+1))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 413 {
			t.Errorf("got %s", res.Status)
		}
	})
	if after := s.do("GET", "/v1", "").header.Get("Conclave-Rev"); after != before {
		t.Errorf("the revision went from %s to %s", before, after)
	}
	s.do("PUT", keys+"k", value(64<<10)).want(201)
}

func TestG9_idempotencyKey(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	first := s.do("PUT", keys+"k", "1", "Idempotency-Key", "x1").want(201)
	again := s.do("PUT", keys+"k", "1", "Idempotency-Key", "x1").want(201)
	if again.body != first.body || again.header.Get("Conclave-Rev") != first.header.Get("Conclave-Rev") || again.header.Get("ETag") != first.header.Get("ETag") {
		t.Errorf("got %s, first %s", again.body, first.body)
	}
	if v := s.do("GET", keys+"k", "").number("version"); v != 1 {
		t.Errorf("applied %d times", v)
	}
	for _, tc := range [][]string{
		{"PUT", keys + "k", "2"}, {"PUT", keys + "k?ttl_ms=5", "1"}, {"PUT", keys + "k2", "1"}, {"DELETE", keys + "k", ""},
	} {
		if d := s.do(tc[0], tc[1], tc[2], "Idempotency-Key", "x1").refused("bad_request"); d["field"] != "Idempotency-Key" {
			t.Errorf("%v: got %v", tc, d)
		}
	}
	s.do("PUT", keys+"k", "1", "Idempotency-Key", "x1", "If-Match", `"1"`).refused("bad_request")
	// A refusal is an answer too.
	s.do("PUT", keys+"k", "1", "Idempotency-Key", "x2", "If-None-Match", "*").refused("conflict")
	s.do("DELETE", keys+"k", "").want(200)
	s.do("PUT", keys+"k", "1", "Idempotency-Key", "x2", "If-None-Match", "*").refused("conflict")
}

func TestKeys_ttlBindAndOpen(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("PUT", keys+"k", "1").refused("no_session")
	s.do("GET", keys+"k", "").refused("no_session")
	s.do("PUT", keys+"k?open_ms=60000&ttl_ms=500", "1").want(201)
	if got := s.do("GET", keys+"k", "").text("expires_at"); got != "2026-07-01T12:00:00.500Z" {
		t.Errorf("got %s", got)
	}
	s.store.advance(501e6)
	s.do("GET", keys+"k", "").refused("not_found")

	peer := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":10000}`).want(201).text("peer")
	s.do("PUT", keys+"b?bind="+peer, "1").want(201)
	if got := s.do("GET", keys+"b", "").text("bound_to"); got != peer {
		t.Errorf("got %s", got)
	}
	s.do("PUT", keys+"c?bind=pnobody", "1").refused("not_found")
	s.do("PUT", keys+"keep", "1").want(201)
	other := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":100000}`).want(201).text("peer")
	s.do("DELETE", "/v1/rooms/r/peers/"+peer, "").want(200)
	s.do("GET", keys+"b", "").refused("not_found")
	s.do("GET", keys+"keep", "").want(200)
	s.do("DELETE", "/v1/rooms/r/peers/"+other, "").want(200)
	s.do("GET", keys+"keep", "").refused("no_session")
}

func TestG10_aNamedSessionIsTheOneMeant(t *testing.T) {
	s := newTestServer(t, Config{})
	first := s.open("r").text("session")
	s.do("PUT", keys+"k", "1", "Conclave-Session", first).want(201)
	s.do("DELETE", "/v1/rooms/r", "", "Conclave-Session", first).want(200)
	s.do("PUT", keys+"k", "1", "Conclave-Session", first).refused("session_ended")
	s.do("GET", keys+"k", "", "Conclave-Session", first).refused("session_ended")
	s.open("r")
	s.do("PUT", keys+"k", "1", "Conclave-Session", first).refused("session_ended")
	s.do("GET", keys+"k", "", "Conclave-Session", first).refused("session_ended")
	s.do("DELETE", "/v1/rooms/r", "", "Conclave-Session", first).refused("session_ended")
	s.do("GET", keys+"k", "").refused("not_found")
}

func TestG11_minRevWaits(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	rev := s.do("PUT", keys+"k", "1").want(201).number("rev")
	s.do("GET", fmt.Sprintf("%sk?min_rev=%d&consistency=stale", keys, rev), "").want(200)
	got := make(chan reply)
	go func() { got <- s.do("GET", fmt.Sprintf("%sk?min_rev=%d", keys, rev+1), "") }()
	s.do("PUT", keys+"k", "2").want(200)
	r := <-got
	if r.want(200).number("version") != 2 {
		t.Errorf("got %s", r.body)
	}
}
