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
