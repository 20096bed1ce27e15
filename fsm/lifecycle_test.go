package fsm

import (
	"os"
	"strings"
	"testing"
)

// life is a room whose session and peer ada a transition of docs/lifecycle.md is
// about.
type life struct {
	*world
	ada   Caller
	join  Command
	frame []*Event // of the last step
}

func newLife(t *testing.T, linger, grace int64) *life {
	l := &life{world: newWorld(t), join: joinCommand("r")}
	l.join.Open.Linger, l.join.Open.Grace = linger, grace
	return l
}

// session and peer are where they stand.
func (l *life) session() string {
	switch s := l.s.Publish().Session("r"); {
	case s == nil:
		return "none"
	case !s.joined:
		return "open"
	case s.emptySince != 0:
		return "lingering"
	}
	return "live"
}

func (l *life) peer() string {
	s := l.s.Publish().Session("r")
	if s == nil || s.Peer(l.ada.Peer) == nil {
		return "none"
	}
	if s.Peer(l.ada.Peer).Attached {
		return "attached"
	}
	return "detached"
}

// step applies a command and keeps its events.
func (l *life) step(cmd Command) Result {
	l.t.Helper()
	results, out := l.do(cmd)
	if results[0].Refusal != nil {
		l.t.Fatalf("refused: %v", results[0].Refusal)
	}
	l.took(out)
	return results[0]
}

func (l *life) took(out *Outcome) {
	l.frame = nil
	for _, f := range out.Frames {
		l.frame = append(l.frame, f.Frame.Events...)
	}
}

func (l *life) passes(ms int64) { l.now += ms; l.took(l.due()) }

func (l *life) joins() {
	r := l.step(l.join)
	l.ada = Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}
}

func (l *life) opens() {
	l.step(Command{Kind: CommandOpen, Room: "r", Open: &Open{Limits: standardLimits, Grace: 15_000, Linger: l.join.Open.Linger, Idle: 60_000}})
}

func (l *life) leaves() {
	l.step(Command{Kind: CommandLeave, Room: "r", Caller: l.ada, Target: l.ada.Peer})
}
func (l *life) removed() { l.step(Command{Kind: CommandLeave, Room: "r", Target: l.ada.Peer}) }
func (l *life) ends()    { l.step(Command{Kind: CommandEnd, Room: "r"}) }
func (l *life) lost() {
	l.step(Command{Kind: CommandDetach, Room: "r", Caller: l.ada, Target: l.ada.Peer})
}

func (l *life) resumes() {
	l.step(Command{Kind: CommandAttach, Room: "r", Attach: &Attach{Peer: l.ada.Peer, Key: "secret", Node: "n1", Incarnation: 1}})
}

func (l *life) nodeDies() {
	var controls []Control
	l.s.Publish().NodeUse(func(node string, _ uint64) bool { return node == "n1" }, func(ctl Control) {
		ctl.Term = l.term
		controls = append(controls, ctl)
	})
	l.took(l.propose(&Proposal{Controls: controls}))
}

// TestLifecycle makes each transition of docs/lifecycle.md happen: the page has
// these, with these events and reasons, and no others.
func TestLifecycle(t *testing.T) {
	const (
		joined  = "a peer joins"
		deleted = "it is ended: `DELETE /v1/rooms/{room}`"
		away    = "it is removed: `remove_peer`, `DELETE` by another"
	)
	rows := map[string]bool{}
	transition := func(cause string, l *life, where func() string, before, by func()) {
		t.Helper()
		before()
		from := where()
		by()
		var events []string
		reason := ""
		for _, e := range l.frame {
			if e.Type != EventPeer && e.Type != EventSession {
				continue
			}
			kind := map[EventType]string{EventPeer: "peer ", EventSession: "session "}[e.Type]
			events = append(events, "`"+kind+e.State+"`")
			if e.Type == EventSession || len(l.frame) == 1 {
				if reason = e.Reason; e.Type == EventPeer && l.session() != "live" {
					reason = "" // a row about the session, which goes on
				}
			}
		}
		if reason != "" {
			reason = "`" + reason + "`"
		}
		rows[strings.Join(strings.Fields("| "+strings.Join([]string{from, where(), cause, strings.Join(events, ", "), reason}, " | ")+" |"), " ")] = true
	}
	session := func(cause string, linger int64, before func(*life), by func(*life)) {
		t.Helper()
		l := newLife(t, linger, 15_000)
		transition(cause, l, l.session, func() { before(l) }, func() { by(l) })
	}
	lingering := func(l *life) { l.joins(); l.leaves() }

	session("a server opens it: `PUT /v1/rooms/{room}`, or a write with `open_ms`", 0, func(*life) {}, (*life).opens)
	session("a server opens it: `PUT /v1/rooms/{room}`, or a write with `open_ms`", 0, func(*life) {}, func(l *life) {
		put := single("r", Caller{}, putOp("k", "1"))
		put.Open = &Open{Limits: standardLimits, Idle: 60_000}
		l.step(put)
	})
	session(joined, 0, func(*life) {}, (*life).joins)
	session(joined, 0, (*life).opens, (*life).joins)
	session("the idle timeout is over", 0, (*life).opens, func(l *life) { l.passes(60_000) })
	session(deleted, 0, (*life).opens, (*life).ends)
	session("the last peer leaves, and `linger_ms` is not 0", 60_000, (*life).joins, (*life).leaves)
	session("the last peer leaves, and `linger_ms` is 0", 0, (*life).joins, (*life).leaves)
	session(deleted, 0, (*life).joins, (*life).ends)
	session(joined, 60_000, lingering, (*life).joins)
	session("the linger is over", 60_000, lingering, func(l *life) { l.passes(60_000) })
	session(deleted, 60_000, lingering, (*life).ends)

	// Somebody else is in the room, so that it goes on.
	peer := func(cause string, grace, ttl int64, before, by func(*life)) {
		t.Helper()
		l := newLife(t, 0, grace)
		l.must(l.join)
		if ttl > 0 {
			l.join.Join = &Join{Key: "secret", TTL: ttl}
		}
		transition(cause, l, l.peer, func() { before(l) }, func() { by(l) })
		if l.session() != "live" {
			t.Errorf("%s: the session is %s", cause, l.session())
		}
	}
	detached := func(l *life) { l.joins(); l.lost() }
	peer("it joins: `hello`, or `POST …/peers` with a TTL", 15_000, 0, func(*life) {}, (*life).joins)
	peer("it joins: `hello`, or `POST …/peers` with a TTL", 15_000, 5_000, func(*life) {}, (*life).joins)
	peer("its connection ends other than with 1000", 15_000, 0, (*life).joins, (*life).lost)
	peer("its connection ends, and `grace_ms` is 0", 0, 0, (*life).joins, (*life).lost)
	peer("a newer connection resumes it; the older is closed with 4105", 15_000, 0, (*life).joins, (*life).resumes)
	peer("it resumes within its grace", 15_000, 0, detached, (*life).resumes)
	peer("its grace is over", 15_000, 0, detached, func(l *life) { l.passes(15_000) })
	peer("it leaves: `leave`, close 1000, `DELETE` by itself", 15_000, 0, (*life).joins, (*life).leaves)
	peer(away, 15_000, 0, (*life).joins, (*life).removed)
	peer(away, 15_000, 0, detached, (*life).removed)
	peer("it has no socket, and its TTL is over", 15_000, 5_000, (*life).joins, func(l *life) { l.passes(5_000) })

	// A dead node takes both along, so ada is alone on it here.
	l := newLife(t, 0, 15_000)
	l.join.Join.Node = "n2"
	l.must(l.join)
	l.join = joinCommand("r")
	transition("the node that serves it dies", l, l.peer, l.joins, l.nodeDies)

	page, err := os.ReadFile("../docs/lifecycle.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| ---") && !strings.HasPrefix(line, "| from ") {
			shown[line] = true
		}
	}
	for row := range rows {
		if !shown[row] {
			t.Errorf("this happens, and docs/lifecycle.md does not say so:\n%s", row)
		}
	}
	for row := range shown {
		if !rows[row] {
			t.Errorf("docs/lifecycle.md says this, and it did not happen:\n%s", row)
		}
	}
}
