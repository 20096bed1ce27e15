package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// What users of other vendors' stores are used to, and what they ask for, where it
// is up to what goes over the wire. docs/migrating.md names these tests.

// Test100ms_ListenersGetInitialValuesAndAllChanges: a key change listener is called
// back with what is there and then with every change, own ones included. A key that
// is not set is not in the snapshot. One's own change has come when its set is
// acknowledged, so an answer never overwrites what is newer.
func Test100ms_ListenersGetInitialValuesAndAllChanges(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "100ms"})
	s.put("r", "spotlight", `"track-1"`)
	c := s.join("r", `"watch":[{"keys":["spotlight","pinnedMessages"]}]`)
	snap, _ := c.snapshot(1)
	if got := snap.Stores[defaultStore]; len(got) != 1 || got[0].Key != "spotlight" || string(got[0].Value) != `"track-1"` {
		t.Fatalf("begins with %+v", got)
	}
	s.put("r", "spotlight", `"track-2"`)
	var set struct{ Rev, Version uint64 }
	c.must(&set, "put", `"key":"spotlight","value":"track-3"`)
	// Read before the answer, hence kept: the other's change, then one's own.
	if d := cmp.Diff([]string{"put spotlight", "put spotlight"}, c.takeEvents()); d != "" || set.Version != 3 {
		t.Errorf("answered %+v: %s", set, d)
	}
	// A second listener for the same key has its own initial value.
	again := c.send("watch", `"watch":[{"keys":["spotlight"],"snapshot":true}]`)
	c.answer(again)
	if snap, rev := c.snapshot(again); len(snap.Stores[defaultStore]) != 1 || snap.Stores[defaultStore][0].Rev != set.Rev || rev < set.Rev {
		t.Errorf("the second listener begins with %+v at %d", snap, rev)
	}
}

// Test100ms_WatchesGoOnAfterAReconnect: theirs observe nothing any more after one.
func Test100ms_WatchesGoOnAfterAReconnect(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "100ms"})
	s.put("r", "spotlight", `1`)
	c := s.join("r", `"watch":[{"keys":["spotlight"]}]`)
	_, rev := c.snapshot(1)
	c.ws.NetConn().Close()
	s.put("r", "spotlight", `2`)
	s.put("r", "spotlight", `3`)
	again := s.join("r", fmt.Sprintf(`"watch":[{"keys":["spotlight"]}],"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`,
		c.hello.Session, c.hello.Peer, c.hello.ResumeKey, rev))
	if !again.hello.PeerResumed || !again.hello.StreamResumed {
		t.Fatalf("hello %+v", again.hello)
	}
	var seen []string
	for len(seen) < 2 {
		for _, e := range again.nextEvents().Events {
			seen = append(seen, string(e.Value))
		}
	}
	s.put("r", "spotlight", `4`)
	seen = append(seen, string(again.nextEvents().Events[0].Value))
	if d := cmp.Diff([]string{"2", "3", "4"}, seen); d != "" {
		t.Error(d)
	}
}

// Test100ms_SessionMetadataIsPushed: the older API keeps one string under the key
// default of the same store, and its apps send each other a message to re-read it.
func Test100ms_SessionMetadataIsPushed(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "100ms"})
	reader := s.join("r", `"watch":[{"keys":["default"]}]`)
	reader.snapshot(1)
	writer := s.join("r", "")
	writer.must(nil, "put", `"key":"default","value":"{\"topic\":\"Q&A\"}"`)
	if e := reader.nextEvents().Events[0]; e.Key != "default" || string(e.Value) != `"{\"topic\":\"Q&A\"}"` {
		t.Errorf("pushed %s %s", e.Key, e.Value)
	}
}

// Test100ms_MessagesToAllToRolesAndToPeers, with a type, which is the topic here.
func Test100ms_MessagesToAllToRolesAndToPeers(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "100ms"})
	const watch = `"watch":[{"types":["message"]}]`
	sender, host, guest := s.join("r", ""), s.join("r", watch), s.join("r", watch)
	host.snapshot(1)
	guest.snapshot(1)
	s.setRole("r", host.hello.Peer, "host")
	sender.must(nil, "send", `"topic":"chat","data":"broadcast"`)
	sender.must(nil, "send", `"topic":"alert","data":"role","to":{"roles":["host"]}`)
	sender.must(nil, "send", fmt.Sprintf(`"topic":"chat","data":"direct","to":{"peers":[%q]}`, guest.hello.Peer))
	s.end("r")
	if d := cmp.Diff([]string{"chat broadcast", "alert role"}, host.hears()); d != "" {
		t.Errorf("the host: %s", d)
	}
	if d := cmp.Diff([]string{"chat broadcast", "chat direct"}, guest.hears()); d != "" {
		t.Errorf("the guest: %s", d)
	}
}

// Test100ms_ProfileHasTheirGrace: 60 s, until a room says something else.
func Test100ms_ProfileHasTheirGrace(t *testing.T) {
	s := newTestServer(t, Config{})
	if got := s.do("PUT", "/v1/rooms/theirs", `{"profile":"100ms"}`).want(201).number("grace_ms"); got != 60_000 {
		t.Errorf("grace %d", got)
	}
	for _, grace := range []uint64{0, 600_000} {
		path := fmt.Sprintf("/v1/rooms/ours-%d", grace)
		if got := s.do("PUT", path, fmt.Sprintf(`{"profile":"100ms","grace_ms":%d}`, grace)).want(201).number("grace_ms"); got != grace {
			t.Errorf("grace %d, want %d", got, grace)
		}
	}
}

// TestRealtimeKit_AStoreComesWithItsContent: create fetches what the store holds
// first, subscribe('*') tells of each changed key from then on, a delete ends no
// subscription, and other stores keep to themselves.
func TestRealtimeKit_AStoreComesWithItsContent(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "realtimekit"})
	writer := s.join("r", "")
	writer.must(nil, "merge", `"store":"board","set":{"a":0,"b":null,"c":""}`)
	writer.must(nil, "put", `"store":"other","key":"a","value":1`)
	c := s.join("r", `"watch":[{"store":"board"}]`)
	snap, _ := c.snapshot(1)
	content := map[string]string{}
	for store, entries := range snap.Stores {
		for _, e := range entries {
			content[store+" "+e.Key] = string(e.Value)
		}
	}
	if d := cmp.Diff(map[string]string{"board a": "0", "board b": "null", "board c": `""`}, content); d != "" {
		t.Errorf("the store comes with %s", d)
	}
	writer.must(nil, "put", `"store":"other","key":"a","value":2`)
	writer.must(nil, "merge", `"store":"board","set":{"d":1},"delete":["a"]`)
	writer.must(nil, "put", `"store":"board","key":"a","value":false`)
	var seen []string
	for len(seen) < 3 {
		for _, e := range c.nextEvents().Events {
			seen = append(seen, e.Type+" "+e.Store+" "+e.Key)
		}
	}
	if d := cmp.Diff([]string{"delete board a", "put board d", "put board a"}, seen); d != "" {
		t.Error(d)
	}
}

// TestRealtimeKit_AnAnsweredSetIsThere: theirs resolves before the server has the
// value, and nobody hears if it never gets it.
func TestRealtimeKit_AnAnsweredSetIsThere(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "realtimekit"})
	writer, reader := s.join("r", ""), s.join("r", "")
	for n := range 20 {
		writer.must(nil, "put", fmt.Sprintf(`"store":"board","key":"k","value":%d`, n))
		var got struct{ Entry wire.Entry }
		reader.must(&got, "get", `"store":"board","key":"k"`)
		if string(got.Entry.Value) != fmt.Sprint(n) {
			t.Fatalf("%d was answered, another reads %s", n, got.Entry.Value)
		}
	}
	before := s.store.View().Rev()
	e := writer.fails(wire.LimitExceeded, "put", `"store":"board","key":"k","value":"`+strings.Repeat("x", 64<<10)+`"`)
	if after := s.store.View().Rev(); e.Details["limit"] != "value_bytes" || after != before {
		t.Errorf("a set that fails says %v, the revision went from %d to %d", e.Details, before, after)
	}
}

// TestRealtimeKit_Profile: the rate is the room's, 20 writes a second; their 5 calls
// per method are counted by the adapter. The session lives a minute longer than its
// last participant.
func TestRealtimeKit_Profile(t *testing.T) {
	s := newTestServer(t, Config{})
	r := s.do("PUT", "/v1/rooms/r", `{"profile":"realtimekit"}`).want(201)
	limits := r.members()["limits"].(map[string]any)
	if fmt.Sprint(limits["writes_per_s"], "/s, ", limits["writes_burst"]) != "20/s, 40" || r.number("linger_ms") != 60_000 {
		t.Errorf("got %s", r.body)
	}
	peer := s.do("POST", peers, `{"ttl_ms":3600000}`).want(201)
	s.do("PUT", keys+"k", "1").want(201)
	s.do("DELETE", peers+"/"+peer.text("peer"), "").want(200)
	s.store.advance(59 * time.Second)
	s.do("GET", keys+"k", "").want(200)
	s.store.advance(2 * time.Second)
	s.do("GET", keys+"k", "").refused("no_session")
}

// TestDaily_WhatTheirLimitsAllowFits: 102,400 UTF-16 units of session data, 4,096 of
// user data and of a message, each of three bytes in UTF-8. More is refused, whole.
func TestDaily_WhatTheirLimitsAllowFits(t *testing.T) {
	s := newTestServer(t, Config{Profile: "daily"})
	s.open("r")
	const store = "/v1/rooms/r/stores/daily"
	text := func(units int) string { return strings.Repeat("€", units) }
	// {"a":"…"} is what Daily counts: eight units besides the text.
	s.do("PUT", store, `{"a":"`+text(102_400-8)+`"}`).want(200)
	peer := s.do("POST", peers, `{"ttl_ms":100000,"data":"`+text(4_096-2)+`"}`).want(201)
	s.do("PATCH", peers+"/"+peer.text("peer"), `{"data":"`+text(4_096-2)+`"}`).want(200)
	s.do("POST", "/v1/rooms/r/messages", `{"topic":"app","data":"`+text(4_096-2)+`"}`).want(200)

	before := s.store.View().Rev()
	for limit, r := range map[string]reply{
		"value_bytes":     s.do("PUT", store, `{"a":"`+strings.Repeat("x", 320<<10)+`"}`),
		"session_bytes":   s.do("PATCH", store, `{"set":{"b":"`+text(20_000)+`"}}`),
		"peer_data_bytes": s.do("PATCH", peers+"/"+peer.text("peer"), `{"data":"`+text(6_000)+`"}`),
		"message_bytes":   s.do("POST", "/v1/rooms/r/messages", `{"topic":"app","data":"`+text(6_000)+`"}`),
	} {
		if d := r.refused("limit_exceeded"); d["limit"] != limit {
			t.Errorf("got %v, want the limit %s", d, limit)
		}
	}
	if after := s.store.View().Rev(); after != before {
		t.Errorf("refusals took the revision from %d to %d", before, after)
	}
}

// TestDaily_ServersSetSessionData: POST set-session-data {data, mergeStrategy,
// keysToDelete} is a PUT or a PATCH of the store here, get-session-data a GET; the
// writer hears of its change like everybody.
func TestDaily_ServersSetSessionData(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "daily"})
	c := s.join("r", `"watch":[{"store":"daily"}]`)
	c.snapshot(1)
	h := s.overHTTP()
	const store = "/v1/rooms/r/stores/daily"
	data := func() map[string]json.RawMessage {
		var page struct{ Entries []wire.Entry }
		decodeInto(t, h.do("GET", store, "").want(200).body, &page)
		got := map[string]json.RawMessage{}
		for _, e := range page.Entries {
			got[e.Key] = e.Value
		}
		return got
	}
	h.do("PUT", store, `{"a":{"x":1},"b":null,"c":3}`).want(200)
	h.do("PATCH", store, `{"set":{"a":{"y":2}},"delete":["c"]}`).want(200)
	want := map[string]json.RawMessage{"a": []byte(`{"y":2}`), "b": []byte("null")}
	if d := cmp.Diff(want, data()); d != "" {
		t.Error(d)
	}
	c.must(nil, "merge", `"store":"daily","set":{"d":1}`)
	if seen := c.takeEvents(); len(seen) == 0 || seen[len(seen)-1] != "put d" {
		t.Errorf("the writer itself hears %v", seen)
	}
	h.do("PUT", store, `{}`).want(200)
	h.do("GET", store, "").refused("not_found") // a store without keys is none
}

// TestDaily_UserDataReachesPresentAndNewPeers, and is one's own: another peer cannot
// set it.
func TestDaily_UserDataReachesPresentAndNewPeers(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "daily"})
	const watch = `"watch":[{"types":["peer"]}]`
	ada, bob := s.join("r", ""), s.join("r", watch)
	bob.snapshot(1)
	ada.must(nil, "set_self", `"data":{"hand":true}`)
	if e := bob.nextEvents().Events[0]; e.State != "updated" || string(e.Peer.Data) != `{"hand":true}` || e.Peer.Peer != ada.hello.Peer {
		t.Errorf("who is there gets %+v", e)
	}
	late := s.join("r", watch)
	snap, _ := late.snapshot(1)
	found := ""
	for _, p := range snap.Peers {
		if p.Peer == ada.hello.Peer {
			found = string(p.Data)
		}
	}
	if found != `{"hand":true}` {
		t.Errorf("who comes later gets %+v", snap.Peers)
	}
	h := s.overHTTP()
	as := []string{"Conclave-Peer", bob.hello.Peer, "Conclave-Peer-Key", bob.hello.ResumeKey}
	h.do("PATCH", peers+"/"+ada.hello.Peer, `{"data":{"hand":false}}`, as...).refused("forbidden")
}

// TestDaily_AppMessagesReachThosePresent: to everybody ('*'), one or several, never
// to oneself, never to who comes later.
func TestDaily_AppMessagesReachThosePresent(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "daily"})
	const watch = `"watch":[{"types":["message"]}]`
	ada, bob, eve := s.join("r", watch), s.join("r", watch), s.join("r", watch)
	for _, c := range []*wsClient{ada, bob, eve} {
		c.snapshot(1)
	}
	ada.must(nil, "send", `"topic":"app","data":"all"`)
	ada.must(nil, "send", fmt.Sprintf(`"topic":"app","data":"one","to":{"peers":[%q]}`, bob.hello.Peer))
	ada.must(nil, "send", fmt.Sprintf(`"topic":"app","data":"two","to":{"peers":[%q,%q]}`, bob.hello.Peer, eve.hello.Peer))
	late := s.join("r", watch)
	late.snapshot(1)
	s.end("r")
	for name, test := range map[string]struct {
		c    *wsClient
		want []string
	}{
		"the sender": {ada, nil}, "bob": {bob, []string{"app all", "app one", "app two"}},
		"eve": {eve, []string{"app all", "app two"}}, "who came later": {late, nil},
	} {
		if d := cmp.Diff(test.want, test.c.hears()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestUsersAsk_AServerAPI: a back end without a peer reads, writes, locks, sends and
// sees who is there, over plain HTTP.
func TestUsersAsk_AServerAPI(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("PUT", "/v1/rooms/r", `{"stores":{"default":{"stage":null}}}`).want(201)
	s.do("PUT", keys+"pinned", `"hello"`).want(201)
	if got := s.do("GET", keys+"pinned?raw", "").want(200); got.body != `"hello"` {
		t.Errorf("got %s", got.body)
	}
	held := s.do("POST", locks+"stage", `{"owner":"back-end","ttl_ms":5000}`).want(200)
	s.do("PUT", keys+"stage", `"other"`).refused("locked")
	s.do("PUT", fmt.Sprintf("%sstage?owner=back-end&fence=%d", keys, held.number("fence")), `"mine"`).want(200)
	s.do("POST", "/v1/rooms/r/messages", `{"topic":"chat","data":1}`).want(200)
	s.do("POST", peers, `{"ttl_ms":10000}`).want(201)
	if n := len(s.do("GET", peers, "").want(200).members()["peers"].([]any)); n != 1 {
		t.Errorf("%d peers", n)
	}
	s.do("DELETE", "/v1/rooms/r", "").want(200)
}

// TestUsersAsk_ToResumeOrBeToldOfAGap: a watch goes on where it was, or says that it
// cannot and why, and begins anew with a snapshot. It is never silently behind.
func TestUsersAsk_ToResumeOrBeToldOfAGap(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", `"watch":[{"keys":["k"]}]`)
	_, rev := c.snapshot(1)
	resume := func() *wsClient {
		return s.join("r", fmt.Sprintf(`"watch":[{"keys":["k"]}],"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`,
			c.hello.Session, c.hello.Peer, c.hello.ResumeKey, rev))
	}
	s.put("r", "k", "1")
	if again := resume(); !again.hello.StreamResumed || string(again.nextEvents().Events[0].Value) != "1" {
		t.Errorf("hello %+v", again.hello)
	}
	s.outrun("r", rev)
	again := resume()
	if f := again.next(); again.hello.StreamResumed || f.Reset != "compacted" {
		t.Fatalf("hello %+v, then %s", again.hello, f.raw)
	}
	if snap, at := again.snapshot(1); len(snap.Stores[defaultStore]) == 0 || at <= rev {
		t.Errorf("begins anew with %+v at %d", snap, at)
	}
}

// TestUsersAsk_AGraceThatFits: of the room, from none at all to ten minutes.
func TestUsersAsk_AGraceThatFits(t *testing.T) {
	s := newSocketServer(t, Config{})
	h := s.overHTTP()
	for _, grace := range []int{0, 5_000, 600_000} {
		room := fmt.Sprintf("grace-%d", grace)
		h.do("PUT", "/v1/rooms/"+room, fmt.Sprintf(`{"grace_ms":%d}`, grace)).want(201)
		c, keeper := s.join(room, ""), s.join(room, `"watch":[{"types":["peer"]}]`)
		keeper.snapshot(1)
		if c.hello.GraceMs == nil || *c.hello.GraceMs != int64(grace) {
			t.Errorf("%s: hello says %v", room, c.hello.GraceMs)
		}
		c.ws.NetConn().Close()
		want := "detached"
		if grace == 0 {
			want = "left"
		}
		if e := keeper.nextEvents().Events[0]; e.State != want {
			t.Errorf("%s: a lost connection is %s, want %s", room, e.State, want)
		}
	}
}
