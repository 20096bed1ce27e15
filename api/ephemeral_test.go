package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

// catches reads the ephemeral messages that a watcher gets, up to the one that says
// end; events come as their type.
func (c *wsClient) catches() (caught []string) {
	c.t.Helper()
	for {
		f := c.next()
		for _, e := range f.Events {
			caught = append(caught, e.Type)
		}
		for _, e := range f.Ephemeral {
			data := strings.Trim(string(e.Data), `"`)
			if data == "end" {
				return caught
			}
			caught = append(caught, e.Topic+" "+data)
		}
	}
}

// wave tells everybody that no more ephemeral messages come.
func (s *socketServer) wave(room string) {
	s.t.Helper()
	if r := s.post(room, `{"topic":"chat","data":"end","ephemeral":true}`); r.status != http.StatusOK {
		s.t.Fatalf("send: %s", r.body)
	}
}

// post sends a message over HTTP.
func (s *socketServer) post(room, body string, headers ...string) reply {
	s.t.Helper()
	return s.overHTTP().do("POST", "/v1/rooms/"+room+"/messages", body, headers...)
}

// counted is the sum of a counter.
func (s *socketServer) counted(name string) (sum float64) {
	s.t.Helper()
	families, err := s.metrics.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.Counter.GetValue()
			}
		}
	}
	return sum
}

func TestEphemeral_ReachesWhomItIsFor(t *testing.T) {
	s := newSocketServer(t, Config{})
	const watch = `"watch":[{"types":["message"]}]`
	ada, bob, eve := s.join("r", watch+`,"ref":"u1"`), s.join("r", watch+`,"ref":"u2"`), s.join("r", watch)
	s.setRole("r", eve.hello.Peer, "host")
	other, observer := s.join("r", `"watch":[{"topics":["other"]},{"keys":["*"]}]`), s.join("r", watch+`,"observe":true`)
	browser := s.events("r", "?type=message", "")
	for _, c := range []*wsClient{ada, bob, eve, other, observer} {
		c.snapshot(1)
	}
	browser.next() // its snapshot
	rev, index := s.store.View().Rev(), s.store.View().Index()
	var sent struct{ Rev uint64 }
	for _, members := range []string{
		`"data":"all"`,
		`"data":"all with echo","echo":true`,
		`"data":"bob","to":{"peers":["` + bob.hello.Peer + `","pnobody"]}`,
		`"data":"u2 and hosts","to":{"refs":["u2"],"roles":["host"]}`,
		`"data":"hosts, echo","to":{"roles":["host"]},"echo":true`,
		`"data":"myself","to":{"peers":["` + ada.hello.Peer + `"]}`,
	} {
		ada.must(&sent, "send", `"topic":"chat","ephemeral":true,`+members)
		if sent.Rev != rev {
			t.Errorf("answered revision %d, the state has %d", sent.Rev, rev)
		}
	}
	observer.must(nil, "send", `"topic":"chat","data":"from an observer","ephemeral":true`)
	s.post("r", `{"topic":"other","data":"end","ephemeral":true,"to":{"peers":["`+other.hello.Peer+`"]}}`).want(200)
	s.wave("r")
	for name, test := range map[string]struct {
		c    *wsClient
		want []string
	}{
		"the sender":                 {ada, []string{"chat all with echo", "chat hosts, echo", "chat from an observer"}},
		"a peer":                     {bob, []string{"chat all", "chat all with echo", "chat bob", "chat u2 and hosts", "chat from an observer"}},
		"a host":                     {eve, []string{"chat all", "chat all with echo", "chat u2 and hosts", "chat hosts, echo", "chat from an observer"}},
		"an observer":                {observer, []string{"chat all", "chat all with echo", "chat from an observer"}},
		"who watches something else": {other, nil},
	} {
		if d := cmp.Diff(test.want, test.c.catches()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	var heard []string
	for !slices.Contains(heard, "end") {
		e := browser.next()
		if e.id != 0 || e.Ephemeral == nil {
			t.Fatalf("got %q with the id %d, want ephemeral messages without one", e.raw, e.id)
		}
		for _, m := range e.Ephemeral {
			heard = append(heard, strings.Trim(string(m.Data), `"`))
		}
	}
	if d := cmp.Diff([]string{"all", "all with echo", "from an observer", "end"}, heard); d != "" {
		t.Errorf("a browser: %s", d)
	}
	if v := s.store.View(); v.Rev() != rev || v.Index() != index {
		t.Errorf("the log went from %d to %d, the revision from %d to %d", index, v.Index(), rev, v.Rev())
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if len(s.store.relayed) != 9 {
		t.Errorf("%d messages go to the other nodes", len(s.store.relayed))
	}
	e := s.store.relayed[0]
	want := fsm.By{Kind: fsm.CallerPeer, Peer: ada.hello.Peer, Ref: "u1"}
	if e.Room != "r" || e.Session != ada.hello.Session || e.By != want || e.Message.Topic != "chat" || string(e.Message.Data) != `"all"` {
		t.Errorf("relayed %+v", e)
	}
}

func TestEphemeral_IsRefusedLikeAMessage(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", `"watch":[{}]`)
	c.snapshot(1)
	rev := s.store.View().Rev()
	large := strings.Repeat("x", 4<<10-1)
	e := c.fails(wire.LimitExceeded, "send", `"topic":"chat","ephemeral":true,"data":"`+large+`"`)
	if e.Details["limit"] != "message_bytes" || e.Details["max"] != 4096.0 || e.Details["actual"] != 4097.0 {
		t.Errorf("got %v", e.Details)
	}
	for members, field := range map[string]string{
		`"topic":"t"`:                           "data",
		`"data":1`:                              "topic",
		`"topic":"a*","data":1`:                 "topic",
		`"topic":"t","data":1,"to":{}`:          "to",
		`"topic":"t","data":1,"to":{"refs":1}`:  "to.refs",
		`"topic":"t","data":1,"key":"k"`:        "key",
		`"topic":"t","data":1,"echo":"yes"`:     "echo",
		`"topic":"t","data":1,"to":{"users":1}`: "to.users",
	} {
		if e := c.fails(wire.BadRequest, "send", `"ephemeral":true,`+members); e.Details["field"] != field {
			t.Errorf("%s: got %v, want the field %q", members, e.Details, field)
		}
		if got := s.post("r", `{"ephemeral":true,`+members+`}`).refused("bad_request"); got["field"] != field {
			t.Errorf("%s over HTTP: got %v, want the field %q", members, got, field)
		}
	}
	e = c.fails(wire.BadRequest, "txn", `"then":[{"do":"put","key":"k","value":1},{"do":"send","topic":"t","data":1,"ephemeral":true}]`)
	if e.Details["field"] != "then[1].ephemeral" {
		t.Errorf("in a transaction: %v", e.Details)
	}
	const fine = `{"topic":"t","data":1,"ephemeral":true}`
	s.post("none", fine).refused("no_session")
	s.post("r", fine, "Conclave-Session", "sother").refused("session_ended")
	s.post("r", fine, "Conclave-Peer", c.hello.Peer, "Conclave-Peer-Key", "guessed").refused("forbidden")
	if got := s.overHTTP().do("POST", "/v1/rooms/none/messages?open_ms=60000", fine).refused("bad_request"); got["field"] != "open_ms" {
		t.Errorf("got %v", got)
	}
	s.join("none", `"observe":true`).fails(wire.NoSession, "send", `"topic":"t","data":1,"ephemeral":true`)
	if v := s.store.View(); v.Rev() != rev || v.Session("none") != nil || len(s.store.relayed) != 0 {
		t.Errorf("the revision went from %d to %d, %d messages were sent", rev, v.Rev(), len(s.store.relayed))
	}
}

// A peer without a socket is the sender of what it sends, and a server of what it
// sends.
func TestEphemeral_OverHTTP(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", `"watch":[{"topics":["*"]}]`)
	c.snapshot(1)
	peer := s.overHTTP().do("POST", "/v1/rooms/r/peers", `{"ttl_ms":100000,"ref":"u1"}`).want(201)
	rev := s.store.View().Rev()
	as := []string{"Conclave-Peer", peer.text("peer"), "Conclave-Peer-Key", peer.text("resume_key"), "Conclave-Session", c.hello.Session}
	r := s.post("r", `{"topic":"t","data":{"x":[1.50]},"ephemeral":true}`, as...).want(200)
	if r.body != fmt.Sprintf(`{"rev":%d}`, rev) || r.header.Get("Conclave-Rev") != fmt.Sprint(rev) {
		t.Errorf("got %s %v", r.body, r.header)
	}
	s.post("r", `{"topic":"t","data":2,"ephemeral":true}`).want(200)
	want := []string{
		`{"topic":"t","data":{"x":[1.50]},"from":{"kind":"peer","peer":"` + peer.text("peer") + `","ref":"u1"}}`,
		`{"topic":"t","data":2,"from":{"kind":"server"}}`,
	}
	var frames []string // they may come in one or in two
	for n := 0; n < len(want); {
		f := c.read()
		if items, ok := strings.CutPrefix(f.raw, `{"ephemeral":[`); ok {
			frames = append(frames, strings.TrimSuffix(items, `]}`))
			n += len(f.Ephemeral)
		}
	}
	if d := cmp.Diff(strings.Join(want, ","), strings.Join(frames, ",")); d != "" {
		t.Error(d)
	}
}

// From another node messages may come late, when the session is over or the sender
// has left, or early, when this node has not heard of the sender yet.
func TestEphemeral_OfAnotherNodeComesInItsTime(t *testing.T) {
	s := newSocketServer(t, Config{})
	const watch = `"observe":true,"watch":[{"types":["message","peer"]}]`
	first := s.join("r", "")
	old := first.hello
	before := s.store.View().Rev()
	first.must(nil, "leave", "")
	waitFor(t, "the end of the session", func() bool { return s.store.View().Session("r") == nil })
	keeper, gone := s.join("r", ""), s.join("r", "")
	session := keeper.hello.Session
	gone.must(nil, "leave", "")
	c := s.join("r", watch)
	c.snapshot(1)
	send := func(session, peer string, rev uint64, data string) {
		s.store.receive(cluster.NewEphemeral("r", session, rev, fsm.By{Kind: fsm.CallerPeer, Peer: peer},
			&fsm.Message{Topic: "t", Data: []byte(`"` + data + `"`)}))
	}
	now := s.store.View().Rev()
	send(old.Session, old.Peer, before, "of the session before")
	send(old.Session, keeper.hello.Peer, before, "of the session before, by somebody who is here")
	send(session, gone.hello.Peer, now, "of a peer that has left")
	send(session, keeper.hello.Peer, now, "in time")
	s.wave("r")
	if d := cmp.Diff([]string{"t in time"}, c.catches()); d != "" {
		t.Error(d)
	}
	soon := fmt.Sprintf("p%d", now+1) // who joins next
	send(session, soon, now+1, "early")
	send("ssoon", "psoon", now+1, "of a session that never comes")
	s.wave("r")
	if caught := c.catches(); len(caught) > 0 {
		t.Errorf("got %q too early", caught)
	}
	next := s.join("r", "")
	if next.hello.Peer != soon {
		t.Fatalf("the next peer is %s, expected %s", next.hello.Peer, soon)
	}
	s.wave("r")
	if d := cmp.Diff([]string{"peer", "t early"}, c.catches()); d != "" {
		t.Error(d)
	}
}

// Who joined after a message was sent does not get it, however late it comes.
func TestEphemeral_IsNotForWhoJoinedLater(t *testing.T) {
	s := newSocketServer(t, Config{})
	keeper := s.join("r", "")
	before := s.store.View().Rev()
	late := s.join("r", `"watch":[{"types":["message"]}]`)
	late.snapshot(1)
	s.store.receive(cluster.NewEphemeral("r", keeper.hello.Session, before, fsm.By{Kind: fsm.CallerPeer, Peer: keeper.hello.Peer},
		&fsm.Message{Topic: "t", Data: []byte(`"before"`)}))
	s.wave("r")
	if caught := late.catches(); len(caught) > 0 {
		t.Errorf("got %q", caught)
	}
}

// At most once: what a client sends again after a broken connection is answered.
func TestEphemeral_IsNotSentAgainAfterAReconnect(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", `"watch":[{"types":["message"]}]`)
	c.snapshot(1)
	sender := s.dial("r")
	sender.write(`{"id":7,"do":"hello","v":1,"client":"h"}`)
	sender.answer(7)
	sender.write(`{"id":6,"do":"send","topic":"t","data":"again","ephemeral":true}`)
	if f := sender.answer(6); f.Error != nil {
		t.Errorf("got %s", f.raw)
	}
	sender.write(`{"id":8,"do":"send","topic":"t","data":"new","ephemeral":true}`)
	sender.answer(8)
	s.wave("r")
	if d := cmp.Diff([]string{"t new"}, c.catches()); d != "" {
		t.Error(d)
	}
}

// A watcher that takes its time gets the latest of each sender and topic; nobody
// waits for it, and a quick one gets everything.
func TestG12_SlowWatcherGetsTheLatestEphemeral(t *testing.T) {
	s := newSocketServer(t, Config{Profile: "large"})
	slow := s.dialWith("r", nil, small)
	slow.greet(`"watch":[{"types":["message"]}]`)
	slow.snapshot(1)
	ada := s.join("r", "")
	value := strings.Repeat("v", 60<<10)
	sent := 0
	waitFor(t, "messages to give way", func() bool {
		sent++
		ada.must(nil, "send", fmt.Sprintf(`"topic":"cursor","ephemeral":true,"data":"%d %s"`, sent, value))
		return s.counted("conclave_ephemeral_dropped_total") >= 3
	})
	got, last := 0, 0
	s.wave("r")
	for _, caught := range slow.catches() {
		var n int
		if _, err := fmt.Sscanf(caught, "cursor %d", &n); err != nil || n <= last {
			t.Fatalf("got %.20q after %d", caught, last)
		}
		got, last = got+1, n
	}
	t.Logf("%d of %d", got, sent)
	if last != sent || got > sent-3 {
		t.Errorf("got %d messages up to number %d of %d", got, last, sent)
	}
}

// However many ephemeral messages come, a watcher learns where the log is.
func TestEphemeral_PutsNoBookmarkOff(t *testing.T) {
	s := newSocketServer(t, Config{Pace: Pace{Ping: 300 * time.Millisecond}})
	c := s.join("r", `"watch":[{"types":["message"]}]`)
	c.snapshot(1)
	browser := s.events("r", "?type=message", "")
	browser.next()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for ctx.Err() == nil {
			s.post("r", `{"topic":"t","data":1,"ephemeral":true}`)
			<-pace.C // not a wait for something to happen
		}
	}()
	defer func() { stop(); <-done }()
	for f := c.next(); f.Ephemeral != nil || f.Rev != s.store.View().Rev(); f = c.next() {
	}
	for e := browser.next(); e.Ephemeral != nil || e.id != s.store.View().Rev(); e = browser.next() {
	}
}

// Fifty peers' cursors on three nodes: everybody gets them, and the log does not
// move.
func TestEphemeral_CostsNoLogEntry(t *testing.T) {
	c, servers := socketServers(t)
	const each, rounds = 6, 20
	var peers []*wsClient
	for i := range 3 * each {
		peers = append(peers, servers[i%3].join("r", `"watch":[{"types":["message"]}]`))
		peers[i].snapshot(1)
	}
	rev := servers[c.Leader()].node.View().Rev()
	before := make([]cluster.Status, 3)
	waitFor(t, "all nodes to have all", func() bool {
		for i, s := range servers {
			before[i] = s.node.Status(t.Context())
		}
		return !slices.ContainsFunc(before, func(st cluster.Status) bool {
			return st.Rev != rev || st.Applied != before[0].Applied || st.Commit != before[0].Commit || st.Term != before[0].Term
		})
	})
	for range rounds {
		for i, p := range peers {
			p.send("send", fmt.Sprintf(`"topic":"cursor/%d","data":[1,2],"ephemeral":true`, i))
		}
	}
	for i, p := range peers {
		p.must(nil, "send", fmt.Sprintf(`"topic":"cursor/%d","data":"last","ephemeral":true`, i))
	}
	for i, p := range peers {
		last := map[string]bool{}
		for len(last) < len(peers)-1 {
			for _, e := range p.next().Ephemeral {
				if string(e.Data) == `"last"` {
					last[e.Topic] = true
				}
			}
		}
		if last[fmt.Sprintf("cursor/%d", i)] {
			t.Errorf("peer %d got its own", i)
		}
	}
	for i, s := range servers {
		was, is := before[i], s.node.Status(t.Context())
		if is.Applied != was.Applied || is.Rev != was.Rev {
			t.Errorf("node %d applied entry %d and has revision %d; before the messages it was %d and %d", i, is.Applied, is.Rev, was.Applied, was.Rev)
		}
		if is.Term == was.Term && is.Commit != was.Commit { // an election logs entries of its own
			t.Errorf("node %d has %d entries; before the messages it had %d", i, is.Commit, was.Commit)
		}
	}
}
