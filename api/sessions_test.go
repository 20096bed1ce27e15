package api

import (
	"fmt"
	"strings"
	"testing"

	"conclave/client/wire"
)

// first is in every text of a room's first session, and in none of its second.
const first = "FIRST"

// none reports a trace of the first session.
func none(t *testing.T, what, text string) {
	t.Helper()
	if strings.Contains(text, first) {
		t.Errorf("%s shows the first session: %.300s", what, text)
	}
}

// A room's second session shows nothing of its first, to nobody: not to those who
// slept through the end of it and the beginning of the next, on sockets, streams
// and in lists, on this node or another; and nothing that was meant for the first
// gets in.
func TestG10_TheSecondSessionShowsNothingOfTheFirst(t *testing.T) {
	s := newSocketServer(t, Config{})
	h := s.overHTTP()
	rooms := "/v1/rooms/twice"
	h.do("PUT", rooms, `{"stores":{"default":{"a":"FIRST","b":"FIRST","k":"FIRST"},"notes":{"n":"FIRST"}}}`).want(201)
	sleeper := s.dialWith("twice", nil, small)
	sleeper.greet(`"observe":true,"watch":[{}]`)
	sleeper.snapshot(1)
	peer := s.join("twice", `"name":"FIRST","ref":"FIRST","data":"FIRST","watch":[{}]`)
	_, rev := peer.snapshot(1)
	var lock struct{ Fence uint64 }
	peer.must(&lock, "acquire", `"key":"k","data":"FIRST"`)
	peer.must(nil, "send", `"topic":"FIRST","data":"FIRST"`)
	stream := s.events("twice", "", "")
	seen := stream.next().id
	page := h.do("GET", rooms+"/stores/default?limit=1", "").want(200)
	if page.text("next") != "a" {
		t.Fatalf("got %s", page.body)
	}
	h.do("PUT", rooms+"/stores/default/keys/b", `"FIRST"`, "Idempotency-Key", "once", "Conclave-Session", peer.hello.Session).want(200)
	joined := h.do("POST", rooms+"/peers", `{"name":"FIRST","ttl_ms":60000}`).want(201)

	h.do("DELETE", rooms, "").want(200)
	h.do("PUT", rooms, `{"stores":{"default":{"b":"second","k":"second"}}}`).want(201)
	second := s.session("twice").ID

	// Who slept on an open connection: what it has not read yet of the first session
	// ends with a reset, and nothing of it comes later.
	reset := false
	for fresh := false; !fresh; {
		f := sleeper.next()
		if reset {
			none(t, "a frame after the reset", f.raw)
			if f.Events != nil {
				fresh = strings.Contains(f.raw, "second")
			} else if f.Snapshot == nil || f.Snapshot.Session != second {
				t.Errorf("after the reset: %s", f.raw)
			} else {
				fresh = len(f.Snapshot.Stores) > 0
			}
		}
		reset = reset || f.Reset == "session"
	}
	s.wantClose(peer, wire.CloseSessionEnded)

	other := newSocketServer(t, Config{})
	other.store.become(s.store)
	for name, s := range map[string]*socketServer{"this node": s, "another node": other} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			h := s.overHTTP()
			// Who resumes a socket of the first session.
			again := s.dial("twice")
			resume := fmt.Sprintf(`"session":%q,"peer":%q,"key":%q,"rev":%d`, peer.hello.Session, peer.hello.Peer, peer.hello.ResumeKey, rev)
			f := again.do("hello", `"v":1,"client":"again","watch":[{}],"resume":{`+resume+`}`)
			if f.Error == nil || f.Error.Code != wire.SessionEnded {
				t.Errorf("a peer that resumes got %s", f.raw)
			}
			s.wantClose(again, wire.CloseSessionEnded)
			none(t, "its hello", f.raw)
			observer := s.dial("twice")
			f = observer.do("hello", fmt.Sprintf(`"v":1,"client":"o","observe":true,"watch":[{}],"resume":{"session":%q,"rev":%d}`, peer.hello.Session, rev))
			if f.Error == nil || f.Error.Code != wire.SessionEnded {
				t.Errorf("an observer that resumes got %s", f.raw)
			}
			anew := s.join("twice", `"observe":true,"watch":[{}]`)
			for f = anew.next(); f.More; f = anew.next() {
				none(t, "a new observer's snapshot", f.raw)
			}
			none(t, "a new observer's snapshot", f.raw)
			if f.Snapshot == nil || f.Snapshot.Session != second || len(f.Snapshot.Stores["default"]) != 2 {
				t.Errorf("a new observer got %s", f.raw)
			}
			// The old resume key does not name its session: the peer is not there.
			stray := s.dial("twice")
			f = stray.do("hello", fmt.Sprintf(`"v":1,"client":"stray","resume":{"session":%q,"peer":%q,"key":%q}`, second, peer.hello.Peer, peer.hello.ResumeKey))
			none(t, "a hello with an old resume key", f.raw)
			if f.Error == nil {
				var w helloAnswer
				if stray.decode(f.OK, &w); w.PeerResumed || w.Peer == peer.hello.Peer {
					t.Errorf("an old resume key got the peer: %s", f.raw)
				}
			}
			// Who resumes a stream of events.
			late := s.events("twice", "", fmt.Sprint(seen))
			if e := late.next(); e.Reset != "session" {
				t.Errorf("a stream that resumes got %s", e.raw)
			}
			if e := late.next(); e.Snapshot == nil || e.Snapshot.Session != second || strings.Contains(e.raw, first) {
				t.Errorf("a stream that resumes got %s", e.raw)
			}
			// Lists, also from where a page of the first session ended.
			for _, path := range []string{"", "/stores", "/stores/default?after=a", "/stores/default", "/stores/notes", "/locks", "/peers", "/stores/default/keys/k"} {
				none(t, path, h.do("GET", rooms+path, "").body)
			}
			h.do("GET", rooms+"/stores/default/keys/a", "").refused("not_found")
		})
	}
	s.t = t

	// Late writes.
	named := []string{"Conclave-Session", peer.hello.Session}
	h.do("PUT", rooms+"/stores/default/keys/x", `"FIRST"`, named...).refused("session_ended")
	h.do("PUT", rooms+"/stores/default/keys/b", `"FIRST"`, append(named, "Idempotency-Key", "once")...).refused("session_ended")
	h.do("POST", rooms+"/messages", `{"topic":"t","data":"FIRST"}`, named...).refused("session_ended")
	h.do("POST", rooms+"/txn", fmt.Sprintf(`{"if":[{"session":%q}],"then":[{"do":"put","key":"x","value":"FIRST"}]}`, peer.hello.Session)).want(200)
	h.do("PUT", fmt.Sprintf("%s/stores/default/keys/k?fence=%d&owner=FIRST", rooms, lock.Fence), `"FIRST"`).refused("stale_fence")
	h.do("DELETE", fmt.Sprintf("%s/locks/default/k?fence=%d&owner=FIRST", rooms, lock.Fence), "").refused("not_holder")
	old := []string{"Conclave-Peer", joined.text("peer"), "Conclave-Peer-Key", joined.text("resume_key")}
	if r := h.do("PUT", rooms+"/stores/default/keys/x", `"FIRST"`, old...); r.status < 400 {
		t.Errorf("a peer of the first session wrote: %s", r.body)
	}
	if r := h.do("PUT", rooms+"/peers/"+joined.text("peer")+"/alive", "", old...); r.status < 400 {
		t.Errorf("a peer of the first session was kept alive: %s", r.body)
	}
	h.do("DELETE", rooms, "", named...).refused("session_ended")
	for _, path := range []string{"/stores/default", "/stores", "/peers", "/locks"} {
		none(t, path+" afterwards", h.do("GET", rooms+path, "").want(200).body)
	}
	if n := s.session("twice").Counts(); n.Keys != 2 || s.session("twice").ID != second {
		t.Errorf("%+v in session %s, want 2 keys in %s", n, s.session("twice").ID, second)
	}
}
