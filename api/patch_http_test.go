package api

import (
	"fmt"
	"net/url"
	"testing"

	"conclave/fsm"
)

const (
	mergePatch = "application/merge-patch+json"
	jsonPatch  = "application/json-patch+json; charset=utf-8"
)

func TestPatchKey_EveryKind(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	for _, tc := range []struct {
		key, kind, body string
		status          int
		want            string
	}{
		{"o", "application/json", `{"update":{"a":1.50,"b":2}}`, 201, `{"a":1.50,"b":2}`},
		{"o", mergePatch, `{"b":null,"c":{"d":1}}`, 200, `{"a":1.50,"c":{"d":1}}`},
		{"o", jsonPatch, `[{"op":"replace","path":"/c","value":[]},{"op":"add","path":"/c/0","value":"x"}]`, 200, `{"a":1.50,"c":["x"]}`},
		{"o", mergePatch, `{"update":1}`, 200, `{"a":1.50,"c":["x"],"update":1}`}, // a member like any other
		{"new", mergePatch, `{"a":{"b":null}}`, 201, `{"a":{}}`},
		{"l", "", `{"append":["a","b"]}`, 201, `["a","b"]`},
		{"l", "application/x-www-form-urlencoded", `{"append":["b","c"],"unique":true}`, 200, `["a","b","c"]`},
		{"l", "application/json; charset=utf-8", `{"remove":["a","c"]}`, 200, `["b"]`},
		{"n", "", `{"add":-5}`, 201, `-5`},
		{"n", "", `{"add":5}`, 200, `0`},
	} {
		r := s.do("PATCH", keys+tc.key, tc.body, "Content-Type", tc.kind).want(tc.status)
		rev := r.number("rev")
		if want := fmt.Sprintf(`{"value":%s,"version":%d,"rev":%d}`, tc.want, r.number("version"), rev); r.body != want {
			t.Errorf("%s: got %s, want %s", tc.body, r.body, want)
		}
		if got := r.header.Get("ETag"); got != fmt.Sprintf("%q", fmt.Sprint(rev)) {
			t.Errorf("%s: ETag %s of revision %d", tc.body, got, rev)
		}
		if got := s.do("GET", keys+tc.key+"?raw", "").want(200); got.body != tc.want || got.header.Get("ETag") != r.header.Get("ETag") {
			t.Errorf("%s: stored %s", tc.body, got.body)
		}
	}
	if d := s.do("PATCH", keys+"o", `{"add":1}`).refused("wrong_type"); d["type"] != "object" || d["key"] != "o" {
		t.Errorf("got %v", d)
	}
	if d := s.do("PATCH", keys+"o", `[{"op":"test","path":"/a","value":2}]`, "Content-Type", jsonPatch).refused("conflict"); d["key"] != "o" {
		t.Errorf("got %v", d)
	}
	if r := s.do("PATCH", keys+"absent", `{"remove":[1]}`).want(200); r.header.Get("ETag") != "" || r.number("version") != 0 {
		t.Errorf("got %s %v", r.body, r.header)
	}
}

func TestPatchKey_ConditionsAndEnds(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("PATCH", keys+"k", `{"add":1}`).refused("no_session")
	first := s.do("PATCH", keys+"k?open_ms=60000", `{"add":1}`, "If-None-Match", "*").want(201)
	s.do("PATCH", keys+"k", `{"add":1}`, "If-None-Match", "*").refused("conflict")
	s.do("PATCH", keys+"k", `{"add":1}`, "If-Match", first.header.Get("ETag")).want(200)
	s.do("PATCH", keys+"k", `{"add":1}`, "If-Match", first.header.Get("ETag")).refused("conflict")
	s.do("PATCH", keys+"k?if_version=2", `{"add":1}`).want(200)

	again := func() reply { return s.do("PATCH", keys+"k", `{"add":10}`, "Idempotency-Key", "i1") }
	if a, b := again().want(200), again().want(200); a.body != b.body || s.do("GET", keys+"k?raw", "").body != "13" {
		t.Errorf("got %s, then %s", a.body, b.body)
	}
	s.do("PATCH", keys+"k", `{"add":10}`, "Idempotency-Key", "i1", "Content-Type", mergePatch).refused("bad_request")

	fence := s.do("POST", "/v1/rooms/r/locks/default/k", `{"owner":"me","ttl_ms":5000}`).want(200).number("fence")
	s.do("PATCH", keys+"k", `{"add":1}`).refused("locked")
	s.do("PATCH", keys+fmt.Sprintf("k?fence=%d&owner=you", fence), `{"add":1}`).refused("stale_fence")
	s.do("PATCH", keys+fmt.Sprintf("k?fence=%d&owner=me", fence), `{"add":1}`).want(200)

	s.do("PATCH", keys+"t?ttl_ms=500", `{"append":[1]}`).want(201)
	s.do("PATCH", keys+"t", `{"append":[2]}`).want(200)
	s.store.advance(501e6)
	s.do("GET", keys+"t", "").refused("not_found")
}

func TestStores_ReplaceAndMerge(t *testing.T) {
	s := newTestServer(t, Config{})
	const store = "/v1/rooms/r/stores/votes"
	s.do("PUT", store, `{"a":1}`).refused("no_session")
	content := func(want string) {
		t.Helper()
		got := ""
		s.store.View().Session("r").Entries("votes", "", "", scanInto(&got))
		if got != want {
			t.Errorf("the store has %s, want %s", got, want)
		}
	}
	r := s.do("PUT", store+"?open_ms=60000", ` {"b":[1, 2],"a":null} `).want(200)
	if r.body != fmt.Sprintf(`{"rev":%d}`, r.number("rev")) || r.header.Get("Conclave-Rev") != fmt.Sprint(r.number("rev")) {
		t.Errorf("got %s %v", r.body, r.header)
	}
	content(`a=null b=[1,2] `)
	s.do("PATCH", store, `{"set":{"c":3,"a":0},"delete":["b","never"]}`).want(200)
	content(`a=0 c=3 `)
	s.do("PATCH", store, `{"delete":["c"]}`).want(200)
	content(`a=0 `)

	fence := s.do("POST", "/v1/rooms/r/locks/votes/a", `{"owner":"me","ttl_ms":5000}`).want(200).number("fence")
	fences := fmt.Sprintf(`{"a":%d}`, fence)
	s.do("PUT", store, `{"z":1}`).refused("locked")
	s.do("PATCH", store, `{"set":{"z":1,"a":1}}`).refused("locked")
	s.do("PATCH", store+"?owner=you", `{"set":{"a":1},"fences":`+fences+`}`).refused("stale_fence")
	content(`a=0 `)
	s.do("PATCH", store+"?owner=me", `{"set":{"a":1},"fences":`+fences+`}`).want(200)
	content(`a=1 `)
	s.do("PUT", store+"?owner=me&fences="+url.QueryEscape(fences), `{}`).want(200)
	content(``)
}

// scanInto writes entries down as key=value.
func scanInto(text *string) func(*fsm.Entry) bool {
	return func(e *fsm.Entry) bool {
		*text += e.Key + "=" + string(e.Value) + " "
		return true
	}
}
