package fsm

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// lifeModel is what becomes of a room's sessions and peers, written without thought
// of cost: who is in it, and when what ends.
type lifeModel struct {
	rev           uint64
	session       string // "" when none is live
	joined        bool
	peers         map[string]lifePeer
	lingerUntil   int64 // 0: somebody is in it, or nobody was yet
	idleUntil     int64
	grace, linger int64
	idle          int64 // 0: a join started it
}

type lifePeer struct {
	attached bool
	data     string
	deadline int64 // 0: none
	gen      uint64
}

// past is a command that was answered, for a repeat.
type past struct {
	cmd     Command
	result  Result
	session string // that was live when it was answered
}

// lives is the machine beside the model of its sessions.
type lives struct {
	*checked
	life    *lifeModel
	past    []past
	request uint64
	seen    map[string]int // what has occurred, over all histories
}

const (
	lifePeers = 3
	lifeData  = 10
)

func (l *lives) live() bool { return l.life.session != "" }

// send applies a command under an identity of its own, compares its answer with what
// the model says, and keeps it.
func (l *lives) send(cmd Command, want Code, changed bool) Result {
	l.t.Helper()
	l.request++
	cmd.Room = modelRoom
	if cmd.Kind != CommandAttach && cmd.Kind != CommandDetach {
		if l.request%2 == 0 {
			cmd.Client, cmd.Request = "handle", l.request
		} else {
			cmd.Idem, cmd.Hash = fmt.Sprint("key", l.request), []byte{1}
		}
	}
	before := l.life.session
	r := l.one(cmd)
	if code(r) != want || r.Changed != changed {
		l.t.Fatalf("%+v: got %q %+v, changed %v; want %q, %v", cmd, code(r), r.Refusal, r.Changed, want, changed)
	}
	if changed {
		l.life.rev++
	}
	l.seen[fmt.Sprintf("command %d %s", cmd.Kind, want)]++
	if want == "" && cmd.remembers() && cmd.Kind != CommandJoin {
		l.past = append(l.past, past{cmd, r, before})
	}
	return r
}

// again repeats an older command: the answer is the same and nothing changes, also
// when the session has ended meanwhile, by that command or another.
func (l *lives) again(t *rapid.T) {
	if len(l.past) == 0 {
		return
	}
	p := rapid.SampledFrom(l.past[max(0, len(l.past)-8):]).Draw(t, "again")
	if p.cmd.Session == "" && p.result.Session != l.life.session {
		return // it would mean the session that is live now
	}
	r := l.one(p.cmd)
	switch {
	case r.Repeated:
		r.Repeated = false
		if !reflect.DeepEqual(r.Rev, p.result.Rev) || code(r) != code(p.result) || r.Session != p.result.Session {
			t.Fatalf("a repeat of %+v answers %+v, at first %+v", p.cmd, r, p.result)
		}
		l.seen["repeat"]++
	case code(r) == CodeSessionEnded && !r.Changed && p.session != l.life.session:
		l.seen["repeat in another session"]++
	default:
		t.Fatalf("a repeat of %+v answers %+v, at first %+v", p.cmd, r, p.result)
	}
}

func (l *lives) open(t *rapid.T) *Open {
	o := &Open{Profile: "model", Limits: modelLimits}
	o.Limits.Peers, o.Limits.PeerDataBytes = lifePeers, lifeData
	o.Grace = int64(rapid.SampledFrom([]int{0, 3000, 9000}).Draw(t, "grace"))
	o.Linger = int64(rapid.SampledFrom([]int{4000, 0, 2000}).Draw(t, "linger"))
	o.Idle = int64(rapid.SampledFrom([]int{2000, 8000}).Draw(t, "idle"))
	return o
}

func (l *lives) begin(session string, o *Open, idle int64) {
	*l.life = lifeModel{rev: l.life.rev, session: session, peers: map[string]lifePeer{}, grace: o.Grace, linger: o.Linger, idle: idle}
}

// used is called after each change: nobody has joined, so it puts the end off.
func (l *lives) used() {
	if !l.life.joined {
		l.life.idleUntil = l.now + l.life.idle
	}
}

func (l *lives) opens(t *rapid.T) {
	o := l.open(t)
	fresh := !l.live()
	r := l.send(Command{Kind: CommandOpen, Open: o}, "", fresh)
	if r.Created != fresh {
		t.Fatalf("created is %v", r.Created)
	}
	if fresh {
		l.begin(r.Session, o, o.Idle)
		l.used()
	}
}

// data draws what a peer says of itself; now and then it is too much.
func (l *lives) data(t *rapid.T) string {
	return `"` + strings.Repeat("d", rapid.IntRange(0, lifeData).Draw(t, "data")) + `"`
}

func (l *lives) joins(t *rapid.T) {
	o, data := l.open(t), l.data(t)
	join := &Join{Key: "secret", Data: []byte(data), Node: "n1", Incarnation: 1}
	deadline := int64(0)
	if rapid.Bool().Draw(t, "without a socket") {
		join.Node, join.Incarnation, join.TTL = "", 0, 5000
		deadline = l.now + join.TTL
	}
	want := Code("")
	if len(data) > lifeData || l.live() && len(l.life.peers) == lifePeers {
		want = CodeLimitExceeded
	}
	fresh := !l.live()
	r := l.send(Command{Kind: CommandJoin, Open: o, Join: join}, want, want == "")
	if want != "" {
		return
	}
	if fresh {
		l.begin(r.Session, o, 0)
	}
	l.life.joined, l.life.lingerUntil = true, 0
	l.life.peers[r.Peer] = lifePeer{true, data, deadline, r.Gen}
}

// peer draws one that is there, or one that is not; its session is the live one or
// an older.
func (l *lives) peer(t *rapid.T) (id, session string, want Code) {
	ids := append(slices.Sorted(maps.Keys(l.life.peers)), "nobody")
	id = rapid.SampledFrom(ids).Draw(t, "peer")
	session = l.life.session
	if rapid.IntRange(0, 9).Draw(t, "session") == 0 {
		session = "older"
	}
	_, there := l.life.peers[id]
	switch {
	case session == "" && !l.live():
		want = CodeNoSession
	case session != l.life.session:
		want = CodeSessionEnded
	case !there:
		want = CodeNotFound
	}
	return id, session, want
}

func (l *lives) leaves(id string) {
	delete(l.life.peers, id)
	switch {
	case len(l.life.peers) > 0:
	case l.life.linger == 0:
		l.life.session = ""
	default:
		l.life.lingerUntil = l.now + l.life.linger
	}
}

func (l *lives) removes(t *rapid.T) {
	id, session, want := l.peer(t)
	l.send(Command{Kind: CommandLeave, Session: session, Target: id}, want, want == "")
	if want == "" {
		l.leaves(id)
	}
}

func (l *lives) sets(t *rapid.T) {
	id, session, want := l.peer(t)
	data := l.data(t)
	if want == "" && len(data) > lifeData {
		want = CodeLimitExceeded
	}
	p := l.life.peers[id]
	changed := want == "" && data != p.data
	l.send(Command{Kind: CommandSetPeer, Session: session, Target: id, SetPeer: &SetPeer{Data: []byte(data)}}, want, changed)
	if changed {
		p.data = data
		l.life.peers[id] = p
	}
}

func (l *lives) attaches(t *rapid.T) {
	id, session, want := l.peer(t)
	key := rapid.SampledFrom([]string{"secret", "secret", "wrong"}).Draw(t, "key")
	if want == "" && key == "wrong" {
		want = CodeForbidden
	}
	r := l.send(Command{Kind: CommandAttach, Session: session, Attach: &Attach{Peer: id, Key: key, Node: "n1", Incarnation: 1}}, want, want == "")
	if want == "" {
		l.life.peers[id] = lifePeer{true, l.life.peers[id].data, 0, r.Gen}
	}
}

func (l *lives) detaches(t *rapid.T) {
	id, session, want := l.peer(t)
	if want == CodeNotFound {
		want = "" // nobody to detach is no mistake
	}
	p := l.life.peers[id]
	gen := p.gen - uint64(rapid.IntRange(0, 1).Draw(t, "older connection"))
	breaks := want == "" && p.attached && gen == p.gen
	caller := Caller{Kind: CallerPeer, Peer: id, Gen: gen}
	l.send(Command{Kind: CommandDetach, Session: session, Caller: caller, Target: id}, want, breaks)
	switch {
	case !breaks:
	case l.life.grace == 0:
		l.leaves(id)
	default:
		l.life.peers[id] = lifePeer{false, p.data, l.now + l.life.grace, l.life.rev}
	}
}

func (l *lives) puts(t *rapid.T) {
	cmd := single(modelRoom, Caller{}, putOp(fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "key")), "1"))
	cmd.Session = l.life.session
	want := Code("")
	if !l.live() {
		want = CodeNoSession
	}
	l.send(cmd, want, want == "")
	if want == "" {
		l.used()
	}
}

func (l *lives) endsNow(t *rapid.T) {
	if rapid.IntRange(0, 4).Draw(t, "end") != 0 {
		return
	}
	want := Code("")
	if !l.live() {
		want = CodeNoSession
	}
	l.send(Command{Kind: CommandEnd, Session: l.life.session}, want, want == "")
	l.life.session = ""
}

// passes lets time pass; what is due ends, the session's own ends first.
func (l *lives) passes(t *rapid.T) {
	l.now += int64(rapid.IntRange(1, 6000).Draw(t, "ms"))
	l.due()
	m := l.life
	switch {
	case !l.live():
		return
	case m.lingerUntil != 0 && m.lingerUntil <= l.now:
		m.session = ""
		m.rev++
		l.seen["linger"]++
		return
	case !m.joined && m.idleUntil <= l.now:
		m.session = ""
		m.rev++
		l.seen["idle"]++
		return
	}
	for _, id := range slices.Sorted(maps.Keys(m.peers)) {
		p := m.peers[id]
		if !l.live() || p.deadline == 0 || p.deadline > l.now {
			continue
		}
		l.seen[fmt.Sprint("peer's end, attached ", p.attached)]++
		l.leaves(id)
		m.rev++
	}
}

func (l *lives) agrees() {
	l.t.Helper()
	v, m := l.s.Publish(), l.life
	s := v.Session(modelRoom)
	if v.Rev() != m.rev || (s != nil) != l.live() || s != nil && s.ID != m.session {
		l.t.Fatalf("rev %d of %+v, want %+v", v.Rev(), s, m)
	}
	if s == nil {
		return
	}
	peers, bytes := map[string]lifePeer{}, s.bytes+200*s.keys+300*s.locks.len()
	s.Peers(func(p *Peer) bool {
		peers[p.ID] = lifePeer{p.Attached, string(p.Data), p.Deadline, p.Gen}
		bytes += 250 + p.bytes()
		return true
	})
	if !maps.Equal(peers, m.peers) {
		l.t.Fatalf("peers %+v, want %+v", peers, m.peers)
	}
	if s.SnapshotBytes() != bytes {
		l.t.Fatalf("a snapshot takes %d bytes, want %d", s.SnapshotBytes(), bytes)
	}
	if s.joined != m.joined || s.emptyUntil != m.lingerUntil || !m.joined && s.idleUntil != m.idleUntil {
		l.t.Fatalf("joined %v, empty until %d, idle until %d; want %+v", s.joined, s.emptyUntil, s.idleUntil, m)
	}
}

// TestState_LifeModel compares sessions and peers with their model over random
// histories: opening, joining with and without a socket, detaching, coming back,
// leaving, removal, ends by linger, idle timeout, grace, TTL and by request, and
// repeats. All of it must have occurred.
func TestState_LifeModel(t *testing.T) {
	seen := map[string]int{}
	rounds := 6
	if testing.Short() {
		rounds = 1
	}
	steps := 0
	for i := range rounds {
		t.Run(fmt.Sprint(i), rapid.MakeCheck(func(t *rapid.T) {
			l := &lives{checked: &checked{world: newWorld(t)}, life: &lifeModel{}, seen: seen}
			actions := map[string]func(*rapid.T){
				"open": l.opens, "join": l.joins, "join again": l.joins, "remove": l.removes, "set": l.sets,
				"attach": l.attaches, "detach": l.detaches, "put": l.puts, "end": l.endsNow, "time": l.passes,
				"time again": l.passes, "time on": l.passes, "repeat": l.again, "": func(*rapid.T) { steps++; l.agrees() },
			}
			for range 2 {
				t.Repeat(actions)
			}
			l.finish()
		}))
	}
	t.Logf("%d steps: %v", steps, seen)
	for _, what := range []string{
		"command 1 ", "command 2 ", "command 2 no_session", "command 3 ", "command 3 limit_exceeded", "command 4 ",
		"command 4 forbidden", "command 4 not_found", "command 4 session_ended", "command 5 ", "command 6 ", "command 6 not_found",
		"command 7 ", "command 7 limit_exceeded", "command 7 session_ended", "command 8 ", "command 8 no_session", "repeat",
		"repeat in another session", "linger", "idle", "peer's end, attached true", "peer's end, attached false",
	} {
		if seen[what] == 0 && !t.Failed() && !testing.Short() {
			t.Errorf("%q did not occur", what)
		}
	}
}
