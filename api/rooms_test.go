package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

func TestRooms_openShowEnd(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("GET", "/v1/rooms/r", "").refused("no_session")
	s.do("DELETE", "/v1/rooms/r", "").refused("no_session")
	opened := s.do("PUT", "/v1/rooms/r", `{"profile":"100ms","linger_ms":5000,"grace_ms":0,"idle_timeout_ms":60000,
		"stores":{"default":{"spotlight":"t1","pinned":{"a":1}}}}`).want(201)
	rev := opened.number("rev")
	want := fmt.Sprintf(`{"room":"r","session":%q,"started_at":"2026-07-01T12:00:00.000Z","rev":%d,"profile":"100ms",`+
		`"limits":{"value_bytes":1024,"keys_per_store":100,"stores":1,"session_bytes":65536,"peers":2500,"peer_data_bytes":4096,`+
		`"message_bytes":4096,"locks":100,"lock_waiters":1000,"writes_per_s":100,"writes_burst":200},`+
		`"grace_ms":0,"linger_ms":5000,"idle_timeout_ms":60000,"counts":{"peers":0,"stores":1,"keys":2,"bytes":26,"locks":0}}`,
		opened.text("session"), rev)
	if diff := cmp.Diff(want, opened.body); diff != "" {
		t.Error(diff)
	}
	if got := s.do("GET", "/v1/rooms/r", "").want(200); got.body != want || got.header.Get("Conclave-Rev") != fmt.Sprint(rev) {
		t.Errorf("got %s %v", got.body, got.header)
	}
	if again := s.do("PUT", "/v1/rooms/r", `{"profile":"large","stores":{"default":{"spotlight":"other"}}}`).want(200); again.body != want {
		t.Errorf("it was changed: %s", again.body)
	}
	if got := s.do("GET", "/v1/rooms/r/stores/default/keys/spotlight?raw", "").want(200); got.body != `"t1"` {
		t.Errorf("got %s", got.body)
	}
	s.do("DELETE", "/v1/rooms/r", "").want(200)
	s.do("GET", "/v1/rooms/r", "").refused("no_session")
	if again := s.open("r"); again.text("session") == opened.text("session") {
		t.Error("the session's id was used again")
	}
}

func TestRooms_idleSessionEnds(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("PUT", "/v1/rooms/r", `{"idle_timeout_ms":1000}`).want(201)
	s.open("five-minutes")
	s.store.advance(1001 * time.Millisecond)
	s.do("GET", "/v1/rooms/r", "").refused("no_session")
	s.store.advance(298 * time.Second)
	s.do("GET", "/v1/rooms/five-minutes", "").want(200)
	s.store.advance(2 * time.Second)
	s.do("GET", "/v1/rooms/five-minutes", "").refused("no_session")
}

// The repeat of a request that ended a session does not end the next one.
func TestG9_repeatedEnd(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	first := s.do("DELETE", "/v1/rooms/r", "", "Idempotency-Key", "e1").want(200)
	again := s.do("DELETE", "/v1/rooms/r", "", "Idempotency-Key", "e1").want(200)
	next := s.open("r").text("session")
	third := s.do("DELETE", "/v1/rooms/r", "", "Idempotency-Key", "e1").want(200)
	if again.body != first.body || third.body != first.body {
		t.Errorf("got %s and %s, first %s", again.body, third.body, first.body)
	}
	if got := s.do("GET", "/v1/rooms/r", "").want(200).text("session"); got != next {
		t.Errorf("the session is %s, want %s", got, next)
	}
}

// A repeat of what opened a room is told what the first was, whatever has been
// written since.
func TestG9_repeatedOpen(t *testing.T) {
	s := newTestServer(t, Config{})
	body := `{"grace_ms":600000,"stores":{"a":{"k":"vv","l":null},"b":{"k":1}}}`
	first := s.do("PUT", "/v1/rooms/r", body, "Idempotency-Key", "o1").want(201)
	s.do("PUT", keys+"k", "1").want(201)
	again := s.do("PUT", "/v1/rooms/r", body, "Idempotency-Key", "o1").want(201)
	if again.body != first.body || again.header.Get("Conclave-Rev") != first.header.Get("Conclave-Rev") {
		t.Errorf("got %s, first %s", again.body, first.body)
	}
	if want := `"counts":{"peers":0,"stores":3,"keys":3,"bytes":12,"locks":0}`; !strings.Contains(first.body, want) {
		t.Errorf("got %s, want %s", first.body, want)
	}
	s.do("PUT", "/v1/rooms/r", `{}`, "Idempotency-Key", "o1").refused("bad_request")
}

// A session that is named is the one meant, also by what would open another.
func TestG10_openingNamesASession(t *testing.T) {
	s := newTestServer(t, Config{})
	session := s.open("r").text("session")
	s.do("PUT", "/v1/rooms/r", "", "Conclave-Session", session).want(200)
	s.do("DELETE", "/v1/rooms/r", "").want(200)
	s.do("PUT", "/v1/rooms/r", "", "Conclave-Session", session).refused("session_ended")
	s.do("GET", "/v1/rooms/r", "").refused("no_session")
}

// What a room cannot be opened with is named by its place: numbers of operations
// are the server's own.
func TestRooms_badSeedIsNamed(t *testing.T) {
	s := newTestServer(t, Config{})
	d := s.do("PUT", "/v1/rooms/r", `{"profile":"100ms","stores":{"default":{"a":1,"big":"`+strings.Repeat("x", 1023)+`"}}}`).refused("limit_exceeded")
	if d["store"] != "default" || d["key"] != "big" || d["limit"] != "value_bytes" || d["index"] != nil {
		t.Errorf("got %v", d)
	}
	s.do("GET", "/v1/rooms/r", "").refused("no_session")
}

func TestRooms_badInput(t *testing.T) {
	s := newTestServer(t, Config{})
	for body, field := range map[string]string{
		`{"profile":"huge"}`: "profile", `{"profile":1}`: "profile", `{"idle_timeout_ms":0}`: "idle_timeout_ms",
		`{"linger_ms":-1}`: "linger_ms", `{"grace_ms":600001}`: "grace_ms", `{"grace_ms":-1}`: "grace_ms", `{"linger_ms":86400001}`: "linger_ms", `{"limits":{}}`: "limits", `null`: "body",
		`{"stores":{"a/b":{}}}`: "stores.a/b", `{"stores":{"s":[]}}`: "stores.s", `{"stores":{"s":{"a*":1}}}`: "stores.s.a*",
		`{"stores":{"s":{"a":1,"a":2}}}`: "body",
	} {
		if d := s.do("PUT", "/v1/rooms/r", body).refused("bad_request"); d["field"] != field {
			t.Errorf("%s: got %v, want %s", body, d, field)
		}
	}
	for _, room := range []string{strings.Repeat("r", 129), "a%2Fb", "a%20b", "..", "%2E"} {
		s.do("PUT", "/v1/rooms/"+room, "").refused("bad_request")
	}
	if d := s.do("PUT", "/v1/rooms/r", `{"profile":"100ms","stores":{"a":{"k":1},"b":{"k":1}}}`).refused("limit_exceeded"); d["limit"] != "stores" {
		t.Errorf("got %v", d)
	}
	if got := s.do("GET", "/v1/rooms", "").want(200); got.body != `{"rooms":[]}` {
		t.Errorf("got %s", got.body)
	}
	s.do("PUT", "/v1/rooms/"+strings.Repeat("r", 128), "").want(201)
	if d := s.do("PUT", "/v1/rooms/r", `{"grace_ms":600001}`); !strings.Contains(d.body, "grace_ms: must be an integer from 0 to 600000") {
		t.Errorf("got %s", d.body)
	}
	if got := s.do("PUT", "/v1/rooms/r", `{"grace_ms":600000,"linger_ms":86400000}`).want(201); got.number("grace_ms") != 600_000 || got.number("linger_ms") != 86_400_000 {
		t.Errorf("got %s", got.body)
	}
}

func TestRooms_list(t *testing.T) {
	s := newTestServer(t, Config{})
	for _, room := range []string{"b2", "a1", "b1", "b3"} {
		s.open(room)
	}
	names := func(query string) string {
		var list struct {
			Rooms []struct{ Room, Session string }
			Next  string
		}
		decodeInto(t, s.do("GET", "/v1/rooms"+query, "").want(200).body, &list)
		var got []string
		for _, r := range list.Rooms {
			got = append(got, r.Room)
		}
		return strings.Join(got, " ") + ">" + list.Next
	}
	for query, want := range map[string]string{
		"": "a1 b1 b2 b3>", "?limit=2": "a1 b1>b1", "?limit=2&after=b1": "b2 b3>", "?prefix=b": "b1 b2 b3>",
		"?prefix=b&limit=1&after=b1": "b2>b2", "?prefix=x": ">", "?consistency=stale": "a1 b1 b2 b3>",
	} {
		if got := names(query); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
}

func TestStores_listAndPages(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("PUT", "/v1/rooms/r", `{"stores":{"votes":{"a":1,"b":2,"b/1":3,"c":4}}}`).want(201)
	if got := s.do("GET", "/v1/rooms/r/stores", "").want(200); got.body != `{"stores":[{"store":"default","keys":0,"bytes":0},{"store":"votes","keys":4,"bytes":10}]}` {
		t.Errorf("got %s", got.body)
	}
	page := func(query string) string {
		var list struct {
			Store   string
			Rev     uint64
			Entries []wire.Entry
			Next    string
		}
		decodeInto(t, s.do("GET", "/v1/rooms/r/stores/votes"+query, "").want(200).body, &list)
		var got []string
		for _, e := range list.Entries {
			got = append(got, e.Key+"="+string(e.Value))
		}
		if list.Store != "votes" || list.Rev != s.store.View().Rev() {
			t.Errorf("got %+v", list)
		}
		return strings.Join(got, " ") + ">" + list.Next
	}
	for query, want := range map[string]string{
		"": "a=1 b=2 b/1=3 c=4>", "?limit=3": "a=1 b=2 b/1=3>b/1", "?limit=4": "a=1 b=2 b/1=3 c=4>", "?after=b%2F1": "c=4>",
		"?prefix=b": "b=2 b/1=3>", "?prefix=b&limit=1": "b=2>b", "?prefix=b%2F&after=a": "b/1=3>",
		"?after=zz": ">",
	} {
		if got := page(query); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	if got := s.do("GET", "/v1/rooms/r/stores/default", "").want(200); !strings.Contains(got.body, `"entries":[]`) {
		t.Errorf("got %s", got.body)
	}
	s.do("GET", "/v1/rooms/r/stores/nothing", "").refused("not_found")
}

// A page ends at a megabyte, and the pages together are the store.
func TestStores_pagesAreBoundedInBytes(t *testing.T) {
	s := newTestServer(t, Config{Profile: "large"})
	s.open("r")
	value := `"` + strings.Repeat("x", 400<<10) + `"`
	for i := range 6 {
		s.do("PUT", fmt.Sprintf("/v1/rooms/r/stores/s/keys/k%d", i), value).want(201)
	}
	var got []string
	for after, pages := "", 0; ; pages++ {
		r := s.do("GET", "/v1/rooms/r/stores/s?after="+after, "").want(200)
		if len(r.body) > maxPageBytes+len(value)+1024 {
			t.Fatalf("a page of %d bytes", len(r.body))
		}
		var list struct {
			Entries []struct{ Key string }
			Next    string
		}
		decodeInto(t, r.body, &list)
		for _, e := range list.Entries {
			got = append(got, e.Key)
		}
		if after = list.Next; after == "" {
			if pages == 0 {
				t.Error("all came at once")
			}
			break
		}
	}
	if diff := cmp.Diff([]string{"k0", "k1", "k2", "k3", "k4", "k5"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestProfiles(t *testing.T) {
	mine := Profile{Limits: builtin["standard"].Limits, Grace: 3 * time.Second, Linger: time.Minute}
	mine.Limits.KeysPerStore = 2
	s := newTestServer(t, Config{Profile: "mine", Profiles: map[string]Profile{"mine": mine}})
	r := s.open("r")
	if r.text("profile") != "mine" || r.number("grace_ms") != 3000 || r.number("linger_ms") != 60000 {
		t.Errorf("got %s", r.body)
	}
	s.do("PUT", keys+"a", "1").want(201)
	s.do("PUT", keys+"b", "1").want(201)
	if d := s.do("PUT", keys+"c", "1").refused("limit_exceeded"); d["limit"] != "keys_per_store" || d["max"] != 2.0 {
		t.Errorf("got %v", d)
	}
	for name := range builtin {
		if got := s.do("PUT", "/v1/rooms/of-"+name, fmt.Sprintf(`{"profile":%q}`, name)).want(201); got.text("profile") != name {
			t.Errorf("got %s", got.body)
		}
	}
}

func TestConfig_Check(t *testing.T) {
	if err := (Config{}).Check(); err != nil {
		t.Error(err)
	}
	if err := (Config{Profile: "huge"}).Check(); err == nil || !strings.Contains(err.Error(), "huge") {
		t.Errorf("got %v", err)
	}
	mine := builtin["standard"]
	mine.Limits.LockWaiters = 0
	if err := (Config{Profiles: map[string]Profile{"mine": mine}}).Check(); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("got %v", err)
	}
}
