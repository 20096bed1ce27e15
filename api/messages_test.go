package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
	"conclave/fsm"
)

// hears reads what a watcher of messages gets, up to the one that says end.
func (c *wsClient) hears() (heard []string) {
	c.t.Helper()
	for {
		for _, e := range c.nextEvents().Events {
			switch {
			case e.Type != "message":
				heard = append(heard, e.Type+" "+e.Key)
			case string(e.Data) == `"end"`:
				return heard
			default:
				heard = append(heard, e.Topic+" "+strings.Trim(string(e.Data), `"`))
			}
		}
	}
}

// end tells everybody that no more messages come.
func (s *socketServer) end(room string) {
	s.t.Helper()
	s.message(room, &fsm.Message{Topic: "chat", Data: []byte(`"end"`)})
}

// message sends past the api, as a server.
func (s *socketServer) message(room string, m *fsm.Message) *fsm.Result {
	s.t.Helper()
	r, err := s.store.Do(s.t.Context(), &fsm.Command{
		Kind: fsm.CommandTxn, Room: room, Txn: single(fsm.Operation{Kind: fsm.OpSend, Message: m}),
	})
	if err = outcome(r, err); err != nil {
		s.t.Fatalf("send: %v", err)
	}
	return r
}

// setRole gives a peer a role, as a server.
func (s *socketServer) setRole(room, peer, role string) {
	s.t.Helper()
	r, err := s.store.Do(s.t.Context(), &fsm.Command{
		Kind: fsm.CommandSetPeer, Room: room, Target: peer, SetPeer: &fsm.SetPeer{Role: &role},
	})
	if err = outcome(r, err); err != nil {
		s.t.Fatalf("set the role: %v", err)
	}
}

func TestMessages_ReachWhomTheyAreFor(t *testing.T) {
	s := newSocketServer(t, Config{})
	const watch = `"watch":[{"types":["message"]}]`
	ada, bob, eve := s.join("r", watch+`,"ref":"u1"`), s.join("r", watch+`,"ref":"u2"`), s.join("r", watch)
	s.setRole("r", eve.hello.Peer, "host")
	observer := s.join("r", watch+`,"observe":true`)
	browser := s.events("r", "?type=message", "")
	for _, c := range []*wsClient{ada, bob, eve, observer} {
		c.snapshot(1)
	}
	var sent struct{ Rev uint64 }
	for _, members := range []string{
		`"data":"all"`,
		`"data":"all with echo","echo":true`,
		`"data":"bob","to":{"peers":["` + bob.hello.Peer + `","pnobody"]}`,
		`"data":"u2 and hosts","to":{"refs":["u2"],"roles":["host"]}`,
		`"data":"hosts, echo","to":{"roles":["host"]},"echo":true`,
		`"data":"myself","to":{"peers":["` + ada.hello.Peer + `"]}`,
		`"data":"myself, echo","to":{"peers":["` + ada.hello.Peer + `"]},"echo":true`,
	} {
		ada.must(&sent, "send", `"topic":"chat",`+members)
	}
	if sent.Rev != s.store.View().Rev() {
		t.Errorf("answered revision %d, the state has %d", sent.Rev, s.store.View().Rev())
	}
	observer.must(nil, "send", `"topic":"chat","data":"from an observer"`)
	s.end("r")
	for name, test := range map[string]struct {
		c    *wsClient
		want []string
	}{
		"the sender":  {ada, []string{"chat all with echo", "chat hosts, echo", "chat myself, echo", "chat from an observer"}},
		"a peer":      {bob, []string{"chat all", "chat all with echo", "chat bob", "chat u2 and hosts", "chat from an observer"}},
		"a host":      {eve, []string{"chat all", "chat all with echo", "chat u2 and hosts", "chat hosts, echo", "chat from an observer"}},
		"an observer": {observer, []string{"chat all", "chat all with echo", "chat from an observer"}},
	} {
		if d := cmp.Diff(test.want, test.c.hears()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	var heard []string
	for {
		e := browser.next()
		if e.Events == nil {
			continue // its snapshot
		}
		if strings.Contains(e.raw, `"end"`) {
			break
		}
		heard = append(heard, string(e.Events[0].Data))
	}
	if d := cmp.Diff([]string{`"all"`, `"all with echo"`, `"from an observer"`}, heard); d != "" {
		t.Errorf("events over HTTP: %s", d)
	}
}

func TestMessages_TopicsAndForm(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", `"watch":[{"topics":["chat","news/*"]}]`)
	c.snapshot(1)
	b := s.join("r", `"name":"Bob","ref":"u2"`)
	for _, topic := range []string{"chat", "chat/x", "news/1", "new", "news/"} {
		b.must(nil, "send", fmt.Sprintf(`"topic":%q,"data":{"n":1.50}`, topic))
	}
	s.end("r")
	if d := cmp.Diff([]string{`chat {"n":1.50}`, `news/1 {"n":1.50}`, `news/ {"n":1.50}`}, c.hears()); d != "" {
		t.Error(d)
	}
	b.must(nil, "send", `"topic":"chat","data":null`)
	f := c.nextEvents()
	want := fmt.Sprintf(`{"events":[{"type":"message","topic":"chat","data":null,"from":{"kind":"peer","peer":%q,"ref":"u2"},"at":"2026-07-01T12:00:00.000Z","rev":%d}],"rev":%[2]d}`,
		b.hello.Peer, f.Rev)
	if f.raw != want {
		t.Errorf("got %s, want %s", f.raw, want)
	}
	before := s.store.View().Rev()
	e := b.fails(wire.LimitExceeded, "send", `"topic":"chat","data":"`+strings.Repeat("x", 4<<10-1)+`"`)
	if e.Details["limit"] != "message_bytes" || e.Details["max"] != 4096.0 || e.Details["actual"] != 4097.0 {
		t.Errorf("got %v", e.Details)
	}
	for members, field := range map[string]string{
		`"topic":"t","data":1,"ephemeral":1`: "ephemeral", `"topic":"t","data":1,"to":{"peers":[]}`: "to", `"topic":"t"`: "data",
	} {
		if e := b.fails(wire.BadRequest, "send", members); e.Details["field"] != field {
			t.Errorf("%s: got %v, want the field %q", members, e.Details, field)
		}
	}
	if after := s.store.View().Rev(); after != before {
		t.Errorf("the revision went from %d to %d", before, after)
	}
	b.must(nil, "send", `"topic":"chat","data":"`+strings.Repeat("x", 4<<10-2)+`","ephemeral":false`)
}

// Who does not get a message of a transaction gets the rest of its frame, under the
// same revision; the message's bytes are encoded once for all who do.
func TestG7_MessagesAreOrderedWithTheState(t *testing.T) {
	s := newSocketServer(t, Config{})
	ada, bob, eve := s.join("r", ""), s.join("r", `"watch":[{}]`), s.join("r", `"watch":[{}]`)
	bob.snapshot(1)
	eve.snapshot(1)
	bob.nextEvents() // eve joined
	for n := range 3 {
		var got wire.TxnResult
		ada.must(&got, "txn", fmt.Sprintf(`"then":[{"do":"put","key":"k%d","value":1},{"do":"send","topic":"chat","data":"for bob","to":{"peers":[%q]}},{"do":"put","key":"l","value":1}]`, n, bob.hello.Peer))
		f, g := bob.nextEvents(), eve.nextEvents()
		if len(f.Events) != 3 || f.Rev != got.Rev || f.Events[1].Type != "message" || f.Events[1].Rev != got.Rev {
			t.Errorf("bob got %s", f.raw)
		}
		if len(g.Events) != 2 || g.Rev != got.Rev || strings.Contains(g.raw, "for bob") {
			t.Errorf("eve got %s", g.raw)
		}
	}
}

// A message is replayed to a peer that was away, and to nobody who came later.
func TestG7_MessagesAreReplayedToWhoResumes(t *testing.T) {
	s := newSocketServer(t, Config{})
	const watch = `"watch":[{"types":["message"]}]`
	ada, keeper := s.join("r", watch+`,"ref":"u1"`), s.join("r", "")
	ada.snapshot(1)
	ada.ws.NetConn().Close()
	waitFor(t, "the detach", func() bool { return !s.session("r").Peer(ada.hello.Peer).Attached })
	keeper.must(nil, "send", `"topic":"chat","data":"one"`)
	keeper.must(nil, "send", `"topic":"chat","data":"two","to":{"refs":["u1"]}`)
	late := s.join("r", watch+`,"ref":"u1"`)
	late.snapshot(1)
	// Whoever comes later is not sent them by resuming another's stream either.
	thief := s.dial("r")
	thief.greet(fmt.Sprintf(`%s,"ref":"u1","resume":{"session":%q,"rev":%d}`, watch, ada.hello.Session, ada.hello.Rev))
	if !thief.hello.StreamResumed || thief.hello.PeerResumed {
		t.Fatalf("hello %+v", thief.hello)
	}
	again := s.dial("r")
	again.greet(fmt.Sprintf(`%s,"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`,
		watch, ada.hello.Session, ada.hello.Peer, ada.hello.ResumeKey, ada.hello.Rev))
	s.end("r")
	if d := cmp.Diff([]string{"chat one", "chat two"}, again.hears()); d != "" {
		t.Error(d)
	}
	for name, c := range map[string]*wsClient{"who joined later": late, "who resumes another's stream": thief} {
		if heard := c.hears(); len(heard) > 0 {
			t.Errorf("%s got %v", name, heard)
		}
	}
}

// frames is a sink that keeps what it gets.
type frames []string

func (f *frames) frame(_ uint64, payload []byte) error {
	*f = append(*f, string(payload))
	return nil
}

// Between a join and the snapshot that follows it messages may be sent. They are in
// no snapshot, so the stream has to bring them.
func TestG8_NoMessageIsLostBetweenJoinAndSnapshot(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.put("r", "k", "1")
	s.message("r", &fsm.Message{Topic: "chat", Data: []byte(`"before"`)})
	c := s.join("r", "")
	joined := s.session("r").Peer(c.hello.Peer).JoinedRev
	s.message("r", &fsm.Message{Topic: "chat", Data: []byte(`"welcome"`), Peers: []string{c.hello.Peer}})
	s.message("r", &fsm.Message{Topic: "other", Data: []byte(`"off topic"`)})
	s.put("r", "k", "2")

	var got frames
	st := s.stream("r", &got, new(inbox))
	st.pinned, st.session, st.self = true, c.hello.Session, c.hello.Peer
	fs, bad := parseFilters(t, `[{"topics":["chat"]},{"keys":["k"]}]`)
	if bad != nil {
		t.Fatal(bad)
	}
	err := st.add(fs, 1, func(v *fsm.View, _ *fsm.Session) error { return st.messages(fs, joined, v) })
	if err != nil {
		t.Fatal(err)
	}
	defer st.watch(nil)
	s.message("r", &fsm.Message{Topic: "chat", Data: []byte(`"after"`)})
	if _, _, err := st.follow(); err != nil {
		t.Fatal(err)
	}
	kinds := make([]string, len(got))
	for i, f := range got {
		for _, kind := range []string{`"snapshot"`, `"welcome"`, `"after"`, `"before"`, `"off topic"`} {
			if strings.Contains(f, kind) {
				kinds[i] += kind
			}
		}
	}
	if want := []string{`"welcome"`, `"snapshot"`, `"after"`}; !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
}

// Its socket is closed when the log has removed a peer; what is sent meanwhile is
// not for it any more.
func TestMessages_EndForAPeerThatIsRemoved(t *testing.T) {
	s := newSocketServer(t, Config{})
	keeper, c := s.join("r", ""), s.join("r", "")
	var got frames
	st := s.stream("r", &got, new(inbox))
	st.pinned, st.session, st.self = true, c.hello.Session, c.hello.Peer
	fs, bad := parseFilters(t, `[{"types":["message","peer"]}]`)
	if bad != nil {
		t.Fatal(bad)
	}
	if err := st.add(fs, 1, func(*fsm.View, *fsm.Session) error { return nil }); err != nil {
		t.Fatal(err)
	}
	defer st.watch(nil)
	s.message("r", &fsm.Message{Topic: "chat", Data: []byte(`"while there"`)})
	if _, _, err := st.follow(); err != nil {
		t.Fatal(err)
	}
	keeper.must(nil, "remove_peer", fmt.Sprintf(`"peer":%q`, c.hello.Peer))
	s.message("r", &fsm.Message{Topic: "chat", Data: []byte(`"for those left"`)})
	if _, _, err := st.follow(); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(got, "\n")
	if !strings.Contains(all, "while there") || !strings.Contains(all, `"reason":"removed"`) || strings.Contains(all, "for those left") {
		t.Errorf("got %s", all)
	}
}

func TestMessages_OverHTTP(t *testing.T) {
	s := newTestServer(t, Config{})
	const messages = "/v1/rooms/r/messages"
	s.do("POST", messages, `{"topic":"t","data":1}`).refused("no_session")
	first := s.do("POST", messages+"?open_ms=60000", `{"topic":"t","data":1}`).want(200)
	if first.body != fmt.Sprintf(`{"rev":%d}`, first.number("rev")) || first.header.Get("Conclave-Rev") != fmt.Sprint(first.number("rev")) {
		t.Errorf("got %s %v", first.body, first.header)
	}
	peer := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":100000,"ref":"u1"}`).want(201)
	key := peer.text("resume_key")
	as := []string{"Conclave-Peer", peer.text("peer"), "Conclave-Peer-Key", key, "Idempotency-Key", "m1"}
	a := s.do("POST", messages, `{"topic":"t","data":{"x":[1]},"to":{"roles":["host"]},"echo":true}`, as...).want(200)
	if b := s.do("POST", messages, `{"topic":"t","data":{"x":[1]},"to":{"roles":["host"]},"echo":true}`, as...).want(200); a.body != b.body {
		t.Errorf("got %s, then %s", a.body, b.body)
	}
	rev := a.number("rev")
	frames, _, _ := s.store.Ring("r").After(rev-1, rev, 1<<20)
	if len(frames) != 1 || len(frames[0].Events) != 1 {
		t.Fatalf("got %d frames", len(frames))
	}
	e := frames[0].Events[0]
	want := &fsm.Recipients{Roles: []string{"host"}, Sender: peer.text("peer"), Echo: true}
	if d := cmp.Diff(want, e.To); d != "" || e.Topic != "t" || string(e.Data) != `{"x":[1]}` || e.By.Ref != "u1" {
		t.Errorf("sent %+v %s", e, d)
	}
	for body, field := range map[string]string{
		``: "data", `{"topic":"t"}`: "data", `{"data":1}`: "topic", `{"topic":"t","data":1,"key":"k"}`: "key",
		`{"topic":"t","data":1,"ephemeral":1}`: "ephemeral", `{"topic":"t","data":1,"to":{"peers":["p1"],"key":1}}`: "to.key",
	} {
		if got := s.do("POST", messages, body).refused("bad_request"); got["field"] != field {
			t.Errorf("%s: got %v, want the field %q", body, got, field)
		}
	}
	if after := s.store.View().Rev(); after != rev {
		t.Errorf("the revision went from %d to %d", rev, after)
	}
}
