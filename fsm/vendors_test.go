package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What users of other vendors' stores are used to, where it is up to the state.

// limits100ms are those of the 100ms profile.
var limits100ms = Limits{
	ValueBytes: 1 << 10, KeysPerStore: 100, Stores: 1, SessionBytes: 64 << 10, Peers: 2500, PeerDataBytes: 4 << 10,
	MessageBytes: 4 << 10, Locks: 100, LockWaiters: 1000, WritesPerS: 100, WritesBurst: 200,
}

func refusedBy(r Result, limit string, most, actual int64) bool {
	return code(r) == CodeLimitExceeded && r.Refusal.Details.Limit == limit && r.Refusal.Details.Max == most && r.Refusal.Details.Actual == actual
}

// text is a JSON string of n bytes, quotes included.
func text(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }

// Test100ms_LimitsToTheByte: a value of 1 KiB, 100 keys, 64 KiB for all with key
// names, by whatever operation; what is over is refused whole.
func Test100ms_LimitsToTheByte(t *testing.T) {
	w := newWorld(t)
	join := joinCommand("r")
	join.Open.Limits, join.Open.Grace = limits100ms, 60_000
	r := w.must(join)
	ada := Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}
	do := func(op Operation) Result { return w.one(single("r", ada, op)) }
	counts := func() Counts { return w.s.Publish().Session("r").Counts() }
	refused := func(op Operation, limit string, most, actual int64) {
		t.Helper()
		before := w.s.rev
		if r := do(op); !refusedBy(r, limit, most, actual) || w.s.rev != before {
			t.Errorf("%+.60v: got %+v, want %s %d of %d", op, r.Refusal, limit, actual, most)
		}
	}
	passes := func(op Operation) {
		t.Helper()
		if r := do(op); r.Refusal != nil {
			t.Errorf("%+.60v: got %v %+v", op, r.Refusal, r.Refusal.Details)
		}
	}

	passes(putOp("k", text(1<<10)))
	refused(putOp("k", text(1<<10+1)), "value_bytes", 1<<10, 1<<10+1)
	passes(putOp("k", text(1<<10-2)))
	refused(Operation{Kind: OpUpdate, Key: "k", Value: []byte(text(1<<10 + 1))}, "value_bytes", 1<<10, 1<<10+1)
	passes(putOp("list", "["+text(1<<10-2-2)+"]")) // [ ] and , 0 to come
	passes(Operation{Kind: OpAppend, Key: "list", Value: []byte("[0]")})
	refused(Operation{Kind: OpAppend, Key: "list", Value: []byte("[1]")}, "value_bytes", 1<<10, 1<<10+2)
	refused(Operation{Kind: OpPatch, Key: "list", Steps: true, Value: []byte(`[{"op":"add","path":"/-","value":1},{"op":"remove","path":"/0"}]`)}, "value_bytes", 1<<10, 1<<10+2)
	refused(Operation{Kind: OpMerge, Set: []KeyValue{{"a", []byte("1")}, {"b", []byte(text(1<<10 + 1))}}}, "value_bytes", 1<<10, 1<<10+1)
	refused(Operation{Kind: OpPut, Store: "other", Key: "k", Value: []byte("1")}, "stores", 1, 2)
	refused(Operation{Kind: OpMerge, Store: "other", Set: []KeyValue{{"k", []byte("1")}}}, "stores", 1, 2)

	passes(Operation{Kind: OpDeletePrefix})
	var hundred []KeyValue
	for i := range 100 {
		hundred = append(hundred, KeyValue{fmt.Sprintf("key%02d", i), []byte("1")})
	}
	passes(Operation{Kind: OpMerge, Set: hundred})
	refused(putOp("one more", "1"), "keys_per_store", 100, 101)
	refused(Operation{Kind: OpAdd, Key: "one more", Value: []byte("1")}, "keys_per_store", 100, 101)
	refused(Operation{Kind: OpReplace, Set: append(slices.Clone(hundred), KeyValue{"z", []byte("1")})}, "keys_per_store", 100, 101)
	passes(Operation{Kind: OpMerge, Set: []KeyValue{{"a", []byte("1")}}, Delete: []string{"key00"}})
	passes(Operation{Kind: OpReplace, Set: hundred})

	// 64 keys of 5 bytes with values that make it 64 KiB exactly.
	full := slices.Clone(hundred[:64])
	for i := range full {
		full[i].Value = []byte(text(1<<10 - 5))
	}
	passes(Operation{Kind: OpReplace, Set: full})
	if got := counts().Bytes; got != 64<<10 {
		t.Fatalf("%d bytes", got)
	}
	refused(putOp("k", "1"), "session_bytes", 64<<10, 64<<10+2)
	refused(putOp("key00", text(1<<10-4)), "session_bytes", 64<<10, 64<<10+1)
	refused(Operation{Kind: OpMerge, Set: []KeyValue{{"key00", []byte(text(1<<10 - 6))}, {"key01", []byte(text(1<<10 - 3))}}}, "session_bytes", 64<<10, 64<<10+1)
	passes(Operation{Kind: OpMerge, Set: []KeyValue{{"key00", []byte(text(1<<10 - 6))}, {"key01", []byte(text(1<<10 - 4))}}})
	passes(putOp("key00", text(1<<10-7)))
	if got := counts(); got.Bytes != 64<<10-1 || got.Keys != 64 {
		t.Errorf("%+v", got)
	}
}

// TestRealtimeKit_RacingUpdatesLoseNothing: theirs is read-modify-write in the
// client, so of two at once one is lost. Raised hands are null, and stay.
func TestRealtimeKit_RacingUpdatesLoseNothing(t *testing.T) {
	w := newWorld(t)
	var peers []Caller
	for range 20 {
		peers = append(peers, w.joined("r"))
	}
	const rounds = 10
	for round := range rounds {
		var racers []Command
		for _, p := range peers {
			racers = append(racers,
				single("r", p, Operation{Kind: OpUpdate, Key: "list", Value: []byte(fmt.Sprintf(`["%s-%d"]`, p.Peer, round))}),
				single("r", p, Operation{Kind: OpUpdate, Key: "hands", Value: []byte(fmt.Sprintf(`{"%s":null}`, p.Peer))}),
				single("r", p, Operation{Kind: OpAdd, Key: "count", Value: []byte("1")}),
				single("r", p, Operation{Kind: OpAppend, Key: "voters", Unique: true, Value: []byte(fmt.Sprintf("[%q]", p.Peer))}))
		}
		results, _ := w.do(racers...)
		for i, r := range results {
			if r.Refusal != nil {
				t.Fatalf("%d: %v", i, r.Refusal)
			}
		}
	}
	s := w.s.Publish().Session("r")
	list, _ := splitArray(s.Entry(DefaultStore, "list").Value)
	hands, _ := splitObject(s.Entry(DefaultStore, "hands").Value)
	voters, _ := splitArray(s.Entry(DefaultStore, "voters").Value)
	if len(list) != rounds*len(peers) || len(hands) != len(peers) || len(voters) != len(peers) {
		t.Errorf("%d items, %d hands, %d voters", len(list), len(hands), len(voters))
	}
	if got := string(s.Entry(DefaultStore, "count").Value); got != fmt.Sprint(rounds*len(peers)) {
		t.Errorf("counted %s", got)
	}
	for _, m := range hands {
		if string(m.value) != "null" {
			t.Errorf("hand %s is %s", m.name, m.value)
		}
	}
	if v := s.Entry(DefaultStore, "voters").Version; v != uint64(len(peers)) {
		t.Errorf("votes that were there already took versions: %d", v)
	}
}

// TestDaily_SessionData: shallow-merge merges top-level members and deletes those
// named, merging {} changes nothing, replacing with {} empties, null is data.
func TestDaily_SessionData(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	set := func(pairs ...string) (list []KeyValue) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, KeyValue{pairs[i], []byte(pairs[i+1])})
		}
		return list
	}
	data := func() string {
		var b strings.Builder
		w.s.Publish().Session("r").Entries("daily", "", "", func(e *Entry) bool {
			fmt.Fprintf(&b, "%s=%s ", e.Key, e.Value)
			return true
		})
		return b.String()
	}
	for _, step := range []struct {
		op      Operation
		want    string
		changes bool
	}{
		{Operation{Kind: OpMerge, Set: set("a", `{"x":1,"y":2}`, "b", `1`)}, `a={"x":1,"y":2} b=1 `, true},
		{Operation{Kind: OpMerge, Set: set("a", `{"x":2}`, "c", `null`)}, `a={"x":2} b=1 c=null `, true},
		{Operation{Kind: OpMerge}, `a={"x":2} b=1 c=null `, false},
		{Operation{Kind: OpMerge, Delete: []string{"b", "nothing"}}, `a={"x":2} c=null `, true},
		{Operation{Kind: OpReplace, Set: set("c", `null`, "d", `0`)}, `c=null d=0 `, true},
		{Operation{Kind: OpReplace, Set: set("c", `null`, "d", `0.0`)}, `c=null d=0 `, false},
		{Operation{Kind: OpReplace}, ``, true},
		{Operation{Kind: OpReplace}, ``, false},
	} {
		step.op.Store = "daily"
		r := w.must(single("r", ada, step.op))
		if got := data(); got != step.want || r.Changed != step.changes {
			t.Errorf("%+v: %q, changed %v; want %q, %v", step.op, got, r.Changed, step.want, step.changes)
		}
	}
}

// Test100ms_RacingModeratorsLoseNothing: their UI keeps pinnedMessages and
// chatPeerBlacklist by reading, changing and setting, and there the last of two
// wins. Here the servers change what is there, and who sets all the same can make
// it a condition that nobody came between.
func Test100ms_RacingModeratorsLoseNothing(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	w.must(single("r", ada, putOp("pinnedMessages", `["old","older"]`)))
	w.do(
		single("r", ada, Operation{Kind: OpAppend, Key: "pinnedMessages", Value: []byte(`["a"]`)}),
		single("r", bob, Operation{Kind: OpAppend, Key: "pinnedMessages", Value: []byte(`["b"]`)}),
		single("r", bob, Operation{Kind: OpRemove, Key: "pinnedMessages", Value: []byte(`["older"]`)}),
		single("r", ada, Operation{Kind: OpAppend, Key: "chatPeerBlacklist", Unique: true, Value: []byte(`["eve","mallory"]`)}),
		single("r", bob, Operation{Kind: OpAppend, Key: "chatPeerBlacklist", Unique: true, Value: []byte(`["mallory","trent"]`)}),
	)
	value := func(key string) string { return string(w.s.Publish().Session("r").Entry(DefaultStore, key).Value) }
	if got := value("pinnedMessages"); got != `["old","a","b"]` {
		t.Errorf("pinned: %s", got)
	}
	if got := value("chatPeerBlacklist"); got != `["eve","mallory","trent"]` {
		t.Errorf("blocked: %s", got)
	}

	seen := w.s.Publish().Session("r").Entry(DefaultStore, "pinnedMessages").Rev
	set := putOp("pinnedMessages", `["only mine"]`)
	set.If = &If{Rev: &seen}
	results, _ := w.do(single("r", ada, set), single("r", bob, set))
	if results[0].Refusal != nil || code(results[1]) != CodeConflict {
		t.Errorf("of two that set what they saw: %v, %v", results[0].Refusal, results[1].Refusal)
	}
}

// Test100ms_StrayRetriesAreAppliedOnce: their set is tried up to three times
// without saying so, so that a late copy undoes what came in between.
func Test100ms_StrayRetriesAreAppliedOnce(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	set := single("r", ada, putOp("spotlight", `"track-1"`))
	set.Client, set.Request = "app", 7
	first := w.must(set)
	w.must(single("r", bob, putOp("spotlight", `"track-2"`)))
	for range 2 {
		if again := w.must(set); !again.Repeated || again.Rev != first.Rev {
			t.Errorf("a copy is answered %+v, the first was %+v", again, first)
		}
	}
	if got := w.s.Publish().Session("r").Entry(DefaultStore, "spotlight"); string(got.Value) != `"track-2"` || got.Version != 2 {
		t.Errorf("the spotlight is %s, version %d", got.Value, got.Version)
	}
}

// Test100ms_ClearedWhenTheLastPeerLeaves: a session's keys are one set for all
// peers, and none of them is there in the next session. The null that clears
// theirs is a value here; deleting is a verb of its own.
func Test100ms_ClearedWhenTheLastPeerLeaves(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	w.must(single("r", ada, putOp("spotlight", `"track"`)))
	w.must(single("r", bob, putOp("spotlight", `null`)))
	if e := w.s.Publish().Session("r").Entry(DefaultStore, "spotlight"); e == nil || string(e.Value) != "null" || e.Version != 2 {
		t.Fatalf("a null is kept as %+v", e)
	}
	if r := w.must(single("r", bob, Operation{Kind: OpDelete, Key: "spotlight"})); !r.Ops[0].Existed {
		t.Error("a null that is deleted was there")
	}
	w.must(single("r", bob, putOp("spotlight", `"track"`)))
	leave := func(p Caller) { w.must(Command{Kind: CommandLeave, Room: "r", Caller: p, Target: p.Peer}) }
	leave(ada)
	if w.s.Publish().Session("r").Entry(DefaultStore, "spotlight") == nil {
		t.Error("it went with the first of two peers")
	}
	leave(bob)
	if w.s.Publish().Session("r") != nil {
		t.Fatal("the session outlived its last peer")
	}
	w.joined("r")
	if got := w.s.Publish().Session("r").Counts(); got.Keys != 0 || got.Bytes != 0 {
		t.Errorf("the next session begins with %+v", got)
	}
}

// Test100ms_AKilledAppStaysForTheGraceOfItsRoom: theirs stays a peer for a fixed
// 60 s. Here that is what their profile says, and a room may say another.
func Test100ms_AKilledAppStaysForTheGraceOfItsRoom(t *testing.T) {
	for _, grace := range []int64{60_000, 5_000, 0} {
		w := newWorld(t)
		join := joinCommand("r")
		join.Open.Grace = grace
		r := w.must(join)
		w.joined("r") // somebody who stays
		w.must(Command{Kind: CommandDetach, Room: "r", Target: r.Peer, Caller: Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}})
		there := func() bool { return w.s.Publish().Session("r").Peer(r.Peer) != nil }
		if grace > 0 {
			w.now += grace - 1
			w.due()
			if !there() {
				t.Errorf("grace %d: gone before it was over", grace)
			}
			w.now++
			w.due()
		}
		if there() {
			t.Errorf("grace %d: there when it is over", grace)
		}
	}
}

// TestRealtimeKit_FalsyValuesAreValues: their get hides null, 0, false and an
// empty text, and their delete does nothing for one. Cloudflare's own hand-raise add-on
// sets null.
func TestRealtimeKit_FalsyValuesAreValues(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	for _, value := range []string{`null`, `0`, `false`, `""`, `[]`, `{}`} {
		_, out := w.do(single("r", ada, putOp("k", value)))
		if e := out.Frames[0].Frame.Events[0]; e.Type != EventPut || string(e.Entry.Value) != value {
			t.Errorf("%s: watchers see %+v", value, e)
		}
		absent := putOp("k", `1`)
		absent.If = &If{Absent: true}
		if r := w.one(single("r", ada, absent)); code(r) != CodeConflict || string(r.Refusal.Details.Value) != value {
			t.Errorf("%s counts as absent: %+v", value, r.Refusal)
		}
		results, out := w.do(single("r", ada, Operation{Kind: OpDelete, Key: "k"}))
		if !results[0].Ops[0].Existed || len(out.Frames) != 1 || out.Frames[0].Frame.Events[0].Type != EventDelete {
			t.Errorf("%s: the delete is answered %+v", value, results[0])
		}
	}
}

// TestRealtimeKit_BulkIsOneRevision: bulkSet and bulkDelete are one change here,
// which nobody sees half of: an event for each changed key, all in one frame.
func TestRealtimeKit_BulkIsOneRevision(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	set := []KeyValue{{"a", []byte("1")}, {"b", []byte("2")}, {"c", []byte("3")}}
	results, out := w.do(single("r", ada, Operation{Kind: OpMerge, Store: "board", Set: set}))
	if len(out.Frames) != 1 || len(out.Frames[0].Frame.Events) != 3 {
		t.Fatalf("a bulk of three makes %+v", out.Frames)
	}
	for i, e := range out.Frames[0].Frame.Events {
		if e.Rev != results[0].Rev || e.Key != set[i].Key || e.Store != "board" {
			t.Errorf("event %d is %s/%s at %d, the change was %d", i, e.Store, e.Key, e.Rev, results[0].Rev)
		}
	}
	_, out = w.do(single("r", ada, Operation{Kind: OpMerge, Store: "board", Delete: []string{"a", "c", "nothing"}}))
	if events := out.Frames[0].Frame.Events; len(events) != 2 || events[0].Type != EventDelete || events[1].Key != "c" {
		t.Errorf("a bulk delete makes %d events", len(events))
	}
	tooLong := append(set, KeyValue{strings.Repeat("k", MaxKeyBytes+1), []byte("1")})
	if r := w.one(single("r", ada, Operation{Kind: OpMerge, Store: "board", Set: tooLong})); code(r) != CodeBadRequest {
		t.Errorf("a bulk with one bad key: %v", r.Refusal)
	}
	if got := w.s.Publish().Session("r").Counts().Keys; got != 1 {
		t.Errorf("a refused bulk left %d keys", got)
	}
}

// TestRealtimeKit_StoresLiveAMinuteAfterTheLastPeer, as their profile's linger
// says; who comes back in time finds everything, who comes later nothing.
func TestRealtimeKit_StoresLiveAMinuteAfterTheLastPeer(t *testing.T) {
	w := newWorld(t)
	join := joinCommand("r")
	join.Open.Linger = 60_000
	leave := func(r Result) {
		w.must(Command{Kind: CommandLeave, Room: "r", Caller: Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}, Target: r.Peer})
	}
	first := w.must(join)
	w.must(single("r", Caller{Kind: CallerPeer, Peer: first.Peer, Gen: first.Gen}, Operation{Kind: OpPut, Store: "board", Key: "k", Value: []byte("1")}))
	leave(first)
	w.now += 59_999
	w.due()
	second := w.must(join)
	if second.Session != first.Session || w.s.Publish().Session("r").Entry("board", "k") == nil {
		t.Fatal("what the last participant left is not there a minute later")
	}
	w.now += 120_000 // somebody is there: no minute runs
	w.due()
	leave(second)
	w.now += 60_000
	w.due()
	if w.s.Publish().Session("r") != nil {
		t.Fatal("the session outlived its minute")
	}
	if third := w.must(join); third.Session == first.Session || w.s.Publish().Session("r").Counts().Keys != 0 {
		t.Errorf("the next session has %+v", w.s.Publish().Session("r").Counts())
	}
}

// TestDaily_RacingMergesAreOrderedAndAnswered: Daily promises no order of racing
// calls, acknowledges none and has no version. Here both are kept, each is answered
// with its revision, and watchers see them in that order.
func TestDaily_RacingMergesAreOrderedAndAnswered(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	merge := func(key, value string) Operation {
		return Operation{Kind: OpMerge, Store: "daily", Set: []KeyValue{{key, []byte(value)}}}
	}
	results, out := w.do(
		single("r", ada, merge("layout", `"grid"`)), single("r", bob, merge("music", `"on"`)), single("r", bob, merge("layout", `"stage"`)),
	)
	var seen []string
	for _, f := range out.Frames {
		for _, e := range f.Frame.Events {
			seen = append(seen, fmt.Sprintf("%s=%s v%d", e.Key, e.Entry.Value, e.Entry.Version))
		}
	}
	if want := []string{`layout="grid" v1`, `music="on" v1`, `layout="stage" v2`}; !slices.Equal(seen, want) {
		t.Errorf("watchers see %q, want %q", seen, want)
	}
	for i := 1; i < len(results); i++ {
		if results[i].Rev <= results[i-1].Rev {
			t.Errorf("answered with revisions %d, then %d", results[i-1].Rev, results[i].Rev)
		}
	}
}
