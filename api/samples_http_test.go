package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"conclave/client/wire"
)

// The exchanges over HTTP. Each file is one server, in the order asked.

func newExchanges(t *testing.T) *exchanges {
	return &exchanges{s: newTestServer(t, Config{Auth: tokens{}})}
}

// openStudio is how a scene begins that needs a room.
func (x *exchanges) openStudio() string {
	x.s.open(sampleRoom)
	return "/v1/rooms/" + sampleRoom
}

func TestHTTP_SpeaksTheSamplesOfServers(t *testing.T) {
	x := newExchanges(t)
	x.ask("GET", "/v1", "").want(200)
	x.ask("GET", "/livez", "").want(200)
	x.ask("GET", "/readyz", "").want(200)
	x.s.store.mu.Lock()
	x.s.store.reasons = []string{"no leader", "far behind the leader"}
	x.s.store.mu.Unlock()
	x.ask("GET", "/readyz", "").want(503)
	x.ask("GET", "/v1/cluster", "").want(200)
	x.ask("POST", "/v1/cluster/members", `{"id":"n4","peer_addr":"127.0.0.1:7503","replica":true}`, "If-Match", `"3"`).want(200)
	x.ask("POST", "/v1/cluster/members/n4/promote", "", "If-Match", `"3"`).want(412)
	x.ask("POST", "/v1/cluster/members/n4/promote", "").want(200)
	x.ask("POST", "/v1/cluster/members/n3/demote", "").want(200)
	x.ask("POST", "/v1/cluster/transfer", `{"to":"n2"}`).want(200)
	x.ask("DELETE", "/v1/cluster/members/n1", "").want(200)
	x.s.store.loseLeader(time.Now())
	x.ask("GET", "/v1/cluster", "").want(200) // leader is null
	compareSamples(t, "http_server.json", x.list)
}

func TestHTTP_SpeaksTheSamplesOfRooms(t *testing.T) {
	x := newExchanges(t)
	x.ask("GET", "/v1/rooms", "").want(200)
	x.ask("PUT", "/v1/rooms/studio", `{"profile":"100ms","linger_ms":1000,"grace_ms":60000,"idle_timeout_ms":300000,`+
		`"stores":{"default":{"title":"Tea?","n":1.50}}}`, "Idempotency-Key", "i1").want(201)
	x.ask("PUT", "/v1/rooms/studio", "").want(200)
	x.ask("PUT", "/v1/rooms/lobby", "").want(201)
	x.ask("POST", "/v1/rooms/lobby/peers", `{"ttl_ms":60000}`).want(201)
	x.ask("GET", "/v1/rooms?limit=1", "").want(200)
	x.ask("GET", "/v1/rooms?limit=1&after=lobby", "").want(200)
	x.ask("GET", "/v1/rooms?prefix=none&consistency=stale&min_rev=1", "").want(200)
	x.ask("GET", "/v1/rooms/studio", "").want(200)
	x.ask("GET", "/v1/rooms/lobby", "").want(200)
	x.ask("DELETE", "/v1/rooms/studio", "").want(200)
	x.ask("PUT", "/v1/rooms/studio", "", "Idempotency-Key", "i2").want(201)
	x.ask("DELETE", "/v1/rooms/studio", "").want(200)
	compareSamples(t, "http_rooms.json", x.list)
}

func TestHTTP_SpeaksTheSamplesOfStores(t *testing.T) {
	x := newExchanges(t)
	room := x.openStudio()
	key := room + "/stores/default/keys/"
	x.ask("PUT", key+"poll%2F1", `{"q":"Tea?","n":1.50}`, "If-None-Match", "*", "Idempotency-Key", "i1").want(201)
	x.ask("PUT", key+"poll%2F1", `{"q":"Tea?","n":2}`, "If-Match", `"2"`).want(200)
	x.ask("PUT", key+"toast?ttl_ms=60000", `null`).want(201)
	x.ask("GET", key+"poll%2F1", "").want(200)
	x.ask("GET", key+"toast", "").want(200)
	x.ask("GET", key+"poll%2F1?raw", "").want(200)
	x.ask("GET", key+"poll%2F1", "", "If-None-Match", `"3"`).want(304)
	x.ask("PATCH", key+"poll%2F1", `{"n":null,"open":true}`, "Content-Type", "application/merge-patch+json").want(200)
	x.ask("PATCH", key+"poll%2F1", `[{"op":"replace","path":"/open","value":false}]`, "Content-Type", "application/json-patch+json").want(200)
	x.ask("PATCH", key+"poll%2F1", `{"update":{"n":3}}`).want(200)
	x.ask("PATCH", key+"hands", `{"append":["ada","bob"],"unique":true}`).want(201)
	x.ask("PATCH", key+"hands", `{"remove":["ada"]}`).want(200)
	x.ask("PATCH", key+"count", `{"add":1.50}`).want(201)
	x.ask("DELETE", key+"count?if_version=1", "").want(200)
	x.ask("DELETE", key+"count", "").want(200)
	x.ask("PATCH", room+"/stores/votes", `{"set":{"a":1,"b":{}},"delete":["c"]}`).want(200)
	x.ask("PUT", room+"/stores/votes", `{"b":{},"d":[]}`).want(200)
	x.ask("GET", room+"/stores", "").want(200)
	x.ask("GET", room+"/stores/default?limit=1", "").want(200)
	x.ask("GET", room+"/stores/default?limit=5&after=hands&prefix=poll%2F", "").want(200)
	x.ask("POST", room+"/txn?owner=cron", `{"if":[{"key":"hands","exists":true},{"key":"host","version":0}],"then":[`+
		`{"do":"get","key":"hands"},{"do":"put","key":"host","value":"p1"},{"do":"acquire","key":"stage","ttl_ms":5000},`+
		`{"do":"delete","key":"none"},{"do":"send","topic":"chat","data":1.50}]}`).want(200)
	x.ask("POST", room+"/txn", `{"if":[{"key":"host","absent":true}],"then":[{"do":"delete","key":"host"}],"else":[{"do":"get","key":"none"}]}`).want(200)
	x.ask("POST", room+"/messages", `{"topic":"chat","data":"hi","to":{"peers":["p1"],"refs":["u7"],"roles":["host"]},"echo":true}`).want(200)
	x.ask("POST", room+"/messages", `{"topic":"cursor","data":{"x":0.25},"ephemeral":true}`).want(200)
	compareSamples(t, "http_stores.json", x.list)
}

func TestHTTP_SpeaksTheSamplesOfLocks(t *testing.T) {
	x := newExchanges(t)
	room := x.openStudio()
	at := room + "/locks/default/"
	pen := x.ask("POST", at+"pen", `{"owner":"cron","ttl_ms":5000,"data":{"why":"night"}}`).want(200).number("fence")
	x.ask("POST", at+"made-up", `{"ttl_ms":5000}`).want(200)
	x.ask("PUT", at+"pen", fmt.Sprintf(`{"fence":%d,"owner":"cron"}`, pen)).want(200)
	x.ask("GET", fmt.Sprintf("%spen?fence=%d", at, pen), "").want(200)
	x.ask("GET", at+"pen", "").want(200)
	x.ask("POST", at+"stage", `{"owner":"a","ttl_ms":60000,"mode":"shared"}`).want(200)
	x.ask("POST", at+"stage", `{"owner":"b","ttl_ms":60000,"mode":"shared"}`).want(200)
	x.ask("POST", at+"slots", `{"owner":"a","ttl_ms":60000,"permits":2}`).want(200)
	wait := `{"owner":"late","ttl_ms":60000,"wait_ms":60000}`
	granted := x.s.later(context.Background(), "POST", at+"pen", wait)
	waitFor(t, "a waiter", func() bool {
		l := x.s.store.View().Session(sampleRoom).Lock(defaultStore, "pen")
		return len(l.Queue) == 1
	})
	x.ask("GET", room+"/locks", "").want(200)
	x.ask("GET", room+"/locks?limit=1&prefix=default%2Fp", "").want(200)
	x.ask("DELETE", fmt.Sprintf("%spen?fence=%d&owner=cron", at, pen), "").want(200)
	x.add("POST", at+"pen", wait, nil, (<-granted).want(200))
	x.ask("GET", fmt.Sprintf("%spen?fence=%d", at, pen), "").want(200)
	gate := x.ask("POST", at+"gate", `{"owner":"a","ttl_ms":1000,"delay_ms":30000}`).want(200).number("fence")
	x.s.store.advance(time.Second)
	x.ask("GET", at+"gate", "").want(200)
	x.ask("GET", fmt.Sprintf("%sgate?fence=%d", at, gate), "").want(200)
	x.ask("DELETE", at+"gate?break", "").want(200)
	compareSamples(t, "http_locks.json", x.list)
}

func TestHTTP_SpeaksTheSamplesOfPeers(t *testing.T) {
	x := newExchanges(t)
	room := x.openStudio()
	join := x.ask("POST", room+"/peers", `{"name":"Ada","ref":"u7","data":{"hand":false},"ttl_ms":60000}`).want(201)
	ada := room + "/peers/" + join.text("peer")
	acting := []string{"Conclave-Peer", join.text("peer"), "Conclave-Peer-Key", join.text("resume_key"), "Conclave-Session", join.text("session")}
	x.ask("POST", room+"/peers", `{"ttl_ms":60000}`).want(201)
	x.ask("PUT", ada+"/alive", "", acting...).want(200)
	x.ask("PATCH", ada, `{"name":"Ada L.","data":null}`, acting...).want(200)
	x.ask("PATCH", ada, `{"role":"host"}`).want(200)
	x.ask("PUT", room+"/stores/default/keys/hand?bind="+join.text("peer"), `true`, acting...).want(201)
	x.ask("GET", ada, "").want(200)
	x.ask("GET", room+"/peers?limit=1", "").want(200)
	x.ask("GET", room+"/peers?after="+join.text("peer"), "").want(200)
	x.ask("DELETE", ada, "", acting...).want(200)
	compareSamples(t, "http_peers.json", x.list)
}

// Every code of the table as a problem; rate_limited has a file of its own.
func TestHTTP_SpeaksTheSamplesOfErrors(t *testing.T) {
	x := newExchanges(t)
	refused := func(code wire.Code, method, path, body string, headers ...string) {
		t.Helper()
		x.ask(method, path, body, headers...).refused(code)
	}
	room := "/v1/rooms/" + sampleRoom
	key := room + "/stores/default/keys/k"
	pen := room + "/locks/default/pen"
	refused("no_session", "GET", room, "")
	session := x.s.open(sampleRoom).text("session")
	x.s.do("PUT", key, `"text"`).want(201)
	fence := x.s.do("POST", pen, `{"owner":"cron","ttl_ms":5000}`).want(200).number("fence")
	refused("bad_request", "GET", key+"?colour=red", "")
	refused("bad_request", "PUT", key, `{"a":1,"a":2}`)
	x.ask("POST", room, "").want(405)
	refused("unauthenticated", "GET", room, "", "Authorization", "Bearer bad")
	refused("forbidden", "GET", room, "", "Origin", "https://elsewhere.example")
	refused("not_found", "GET", room+"/stores/default/keys/none", "")
	refused("conflict", "PUT", key, "1", "If-None-Match", "*")
	refused("locked", "POST", pen, `{"owner":"b","ttl_ms":5000}`)
	refused("stale_fence", "PUT", fmt.Sprintf("%s?fence=%d&owner=b", room+"/stores/default/keys/pen", fence), "1")
	refused("not_holder", "PUT", pen, `{"fence":1,"owner":"b"}`)
	wait := `{"owner":"b","ttl_ms":5000,"wait_ms":1000}`
	answer := x.s.later(context.Background(), "POST", pen, wait)
	waitFor(t, "a waiter", func() bool {
		return len(x.s.store.View().Session(sampleRoom).Lock(defaultStore, "pen").Queue) == 1
	})
	x.s.store.advance(time.Second)
	late := <-answer
	late.refused("lock_timeout")
	x.add("POST", pen, wait, nil, late)
	refused("wrong_type", "PATCH", key, `{"add":1}`)
	refused("limit_exceeded", "PUT", key, `"`+strings.Repeat("x", 64<<10)+`"`)
	refused("wrong_type", "POST", room+"/txn", `{"then":[{"do":"get","key":"k"},{"do":"append","key":"k","values":[1]}]}`)
	x.s.do("DELETE", room, "").want(200)
	refused("session_ended", "PUT", key, "1", "Conclave-Session", session)
	for _, fault := range []struct {
		code wire.Code
		err  error
	}{
		{"unavailable", unavailable("no leader")},
		{"unknown_outcome", unknownOutcome("the leader was lost")},
		{"internal", errors.New("a bug")},
	} {
		x.s.store.breakWith(fault.err)
		refused(fault.code, "PUT", key, "1")
	}
	x.s.store.breakWith(nil)
	compareSamples(t, "http_errors.json", x.list)
}

// streamed is a stream of Server-Sent Events: the request, and what came.
type streamed struct {
	Request sampleRequest `json:"request"`
	Status  int           `json:"status"`
	Events  []sampleEvent `json:"events"`
}

// read reads some events of a stream, which stays open.
func (s *testServer) read(path string, headers map[string]string, n int, between func(i int)) streamed {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	got := streamed{Request: sampleRequest{Method: "GET", Path: path, Headers: headers}}
	req, err := http.NewRequestWithContext(ctx, "GET", s.http.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, v := range headers {
		req.Header.Set(name, v)
	}
	res, err := s.http.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	got.Status = res.StatusCode
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	var e sampleEvent
	for len(got.Events) < n && lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			e.ID = value
		case "data":
			e.Data = json.RawMessage(unchanging(value))
		case "":
			got.Events = append(got.Events, e)
			between(len(got.Events))
			e = sampleEvent{}
		default:
			s.t.Errorf("unexpected line %q", lines.Text())
		}
	}
	if len(got.Events) < n {
		s.t.Fatalf("the stream ended after %d events: %v", len(got.Events), lines.Err())
	}
	return got
}

func TestHTTP_SpeaksTheSamplesOfEvents(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open(sampleRoom)
	room := "/v1/rooms/" + sampleRoom
	key := room + "/stores/default/keys/"
	s.do("PUT", key+"poll%2F1", `{"n":1.50}`).want(201)
	list := []streamed{s.read(room+"/events?store=default&key=poll%2F*&type=put&type=message&topic=chat", nil, 4, func(i int) {
		switch i {
		case 1: // the snapshot
			s.do("PUT", key+"poll%2F1", "2").want(200)
		case 2:
			s.do("POST", room+"/messages", `{"topic":"chat","data":"hi"}`).want(200)
		case 3:
			s.do("POST", room+"/messages", `{"topic":"chat","data":"+1","ephemeral":true}`).want(200)
		}
	})}
	last := list[0].Events[1].ID
	nothing := func(int) {}
	list = append(list, s.read(room+"/events", map[string]string{"Last-Event-ID": last}, 1, nothing)) // resumed
	s.do("DELETE", room, "").want(200)
	s.open(sampleRoom)
	list = append(list, s.read(room+"/events", map[string]string{"Last-Event-ID": last}, 2, nothing)) // a reset and a snapshot
	quick := newTestServer(t, Config{Pace: Pace{Ping: 200 * time.Millisecond}})
	list = append(list, quick.read(room+"/events", nil, 2, nothing)) // a snapshot of nothing and a bookmark
	compareSamples(t, "sse_events.json", list)
}

// The table of codes, for who has no other: with its HTTP status and its retry class.
func TestHTTP_SpeaksTheSamplesOfCodes(t *testing.T) {
	type row struct {
		Code   wire.Code  `json:"code"`
		Status int        `json:"status"`
		Retry  wire.Retry `json:"retry"`
	}
	var rows []row
	for code, class := range wire.Codes {
		rows = append(rows, row{code, class.Status, class.Retry})
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(string(a.Code), string(b.Code)) })
	compareSamples(t, "codes.json", rows)
}
