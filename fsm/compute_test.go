package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// computed runs one operation on a key that holds value, "" when absent, and says
// what it holds then, or the code of the refusal with what matters of its details.
func computed(t *testing.T, value string, op Operation) string {
	t.Helper()
	w := newWorld(t)
	ada := w.joined("r")
	if value != "" {
		w.must(single("r", ada, putOp("k", value)))
	}
	before := w.s.rev
	op.Key = "k"
	r := w.one(single("r", ada, op))
	if r.Refusal != nil {
		if w.s.rev != before {
			t.Errorf("%s: refused, and took a revision", value)
		}
		d := r.Refusal.Details
		return strings.Join(strings.Fields(fmt.Sprint(r.Refusal.Code, " ", d.Type, d.Limit, d.Reason, d.Field)), " ")
	}
	entry := w.s.Publish().Session("r").Entry(DefaultStore, "k")
	switch got := r.Ops[0]; {
	case entry == nil:
		if string(got.Value) != "[]" || got.Version != 0 {
			t.Errorf("%s: nothing stored, and answered %s", value, got.Value)
		}
		return ""
	case string(got.Value) != string(entry.Value) || got.Version != entry.Version || got.Rev != entry.Rev || got.Created != (value == ""):
		t.Errorf("%s: answered %s of version %d, stored %s of version %d", value, got.Value, got.Version, entry.Value, entry.Version)
	case r.Changed != (string(entry.Value) != value) || r.Changed == (w.s.rev == before):
		t.Errorf("%s to %s: changed is %v, revision %d after %d", value, entry.Value, r.Changed, w.s.rev, before)
	}
	if !r.Changed && entry.Version != 1 {
		t.Errorf("%s: nothing changed, and the version is %d", value, entry.Version)
	}
	return string(entry.Value)
}

type computeCase struct{ value, given, want string }

func runComputed(t *testing.T, op Operation, cases []computeCase) {
	t.Helper()
	for _, test := range cases {
		op.Value = []byte(test.given)
		if got := computed(t, test.value, op); got != test.want {
			t.Errorf("%s with %s: got %s, want %s", test.value, test.given, got, test.want)
		}
	}
}

// TestRealtimeKit_Update: arrays concatenate, plain objects merge shallowly, a
// different type or anything else replaces, on the server.
func TestRealtimeKit_Update(t *testing.T) {
	runComputed(t, Operation{Kind: OpUpdate}, []computeCase{
		{"", `[1]`, `[1]`},
		{"", `null`, `null`},
		{`[1,2.0]`, `[1.50,"x"]`, `[1,2.0,1.50,"x"]`},
		{`[]`, `[1]`, `[1]`},
		{`[1]`, `[]`, `[1]`},
		{`{"a":{"x":1},"b":1.0}`, `{"c":[],"a":{"y":2}}`, `{"a":{"y":2},"b":1.0,"c":[]}`},
		{`{"a":null}`, `{}`, `{"a":null}`},
		{`{}`, `{"\u00e9":1}`, `{"\u00e9":1}`},
		{`{"\u00e9":1}`, `{"é":2}`, `{"\u00e9":2}`},
		{`{"":1}`, `{"":2}`, `{"":2}`},
		{`{"a":1}`, `[1]`, `[1]`},
		{`[1]`, `{"a":1}`, `{"a":1}`},
		{`1`, `2`, `2`},
		{`"a"`, `"b"`, `"b"`},
		{`1`, `null`, `null`},
		{`null`, `0`, `0`},
		{`1`, `1`, `1`},
		{`[1`, `[2]`, `wrong_type array`}, // what no api lets in
		{`{"a":1`, `{"b":2}`, `wrong_type object`},
		{`[1]`, `[2`, `bad_request value`},
		{`{}`, `{"a":1,"a":2}`, `bad_request value`},
		{`1`, `nope`, `bad_request value`},
		{`1`, `1 2`, `bad_request value`},
		{`1`, strings.Repeat("[", maxDocumentDepth+1) + strings.Repeat("]", maxDocumentDepth+1), `limit_exceeded depth`},
	})
}

func TestCompute_Append(t *testing.T) {
	runComputed(t, Operation{Kind: OpAppend}, []computeCase{
		{"", `[1,2]`, `[1,2]`},
		{"", `[]`, `[]`},
		{`[]`, `["a"]`, `["a"]`},
		{`[1]`, `[1,[2]]`, `[1,1,[2]]`},
		{`[1]`, `[]`, `[1]`},
		{`{}`, `[1]`, `wrong_type object`},
		{`null`, `[1]`, `wrong_type null`},
		{`"[]"`, `[1]`, `wrong_type string`},
		{`1`, `[1]`, `wrong_type number`},
		{`true`, `[1]`, `wrong_type boolean`},
		{`[]`, `1`, `bad_request values`},
		{`[]`, `[1,]`, `bad_request value`},
	})
	runComputed(t, Operation{Kind: OpAppend, Unique: true}, []computeCase{
		{"", `[1,1.0,2]`, `[1,2]`},
		{`[1.0,{"a":1,"b":2}]`, `[1,{"b":2e0,"a":1},"1"]`, `[1.0,{"a":1,"b":2},"1"]`},
		{`["\u00e9"]`, `["é","e"]`, `["\u00e9","e"]`},
		{`[[1,2]]`, `[[2,1],[1,2]]`, `[[1,2],[2,1]]`},
		{`[1]`, `[1]`, `[1]`},
		{`[["a","b"]]`, `[["a\u0000b"],["ab"]]`, `[["a","b"],["a\u0000b"],["ab"]]`},
		{`{}`, `[1]`, `wrong_type object`},
	})
}

func TestCompute_Remove(t *testing.T) {
	runComputed(t, Operation{Kind: OpRemove}, []computeCase{
		{"", `[1]`, ``},
		{`[1,2,1.0,"1"]`, `[1]`, `[2,"1"]`},
		{`[{"a":1,"b":[]},null]`, `[{"b":[],"a":1e0}]`, `[null]`},
		{`[1]`, `[1]`, `[]`},
		{`[1]`, `[2]`, `[1]`},
		{`[1]`, `[]`, `[1]`},
		{`[null,false,0,""]`, `[null,0]`, `[false,""]`},
		{`{"a":1}`, `[1]`, `wrong_type object`},
		{`[1]`, `{}`, `bad_request values`},
		{`[1`, `[1]`, `wrong_type array`},
	})
}

func TestCompute_Add(t *testing.T) {
	runComputed(t, Operation{Kind: OpAdd}, []computeCase{
		{"", `1`, `1`},
		{"", `0`, `0`},
		{"", `-2.50`, `-2.5`},
		{`1`, `2`, `3`},
		{`1`, `-1`, `0`},
		{`1`, `-3`, `-2`},
		{`0.1`, `0.2`, `0.3`},
		{`1.10`, `2.2`, `3.3`},
		{`99`, `0.01`, `99.01`},
		{`1e2`, `1`, `101`},
		{`-0.5`, `0.25`, `-0.25`},
		{`1.50`, `0`, `1.50`},
		{`1e3`, `0.000`, `1e3`},
		{`0`, `1e3`, `1000`},
		{`5e-7`, `5e-7`, `0.000001`},
		{`9007199254740991`, `1`, `9007199254740992`},
		{`9007199254740992`, `1`, `9007199254740993`}, // beyond 2^53 too: the digits are exact
		{`12345678901234567890123456789`, `0.5`, `12345678901234567890123456789.5`},
		{`1e300`, `1e300`, `2e300`},
		{`-1.5e300`, `0.5e300`, `-1e300`},
		{`1e-300`, `2e-300`, `3e-300`},
		{`1.25e100`, `1e100`, `2.25e100`},
		{`1e300`, `1`, `limit_exceeded number_digits`},
		{`1e307`, `9e307`, `limit_exceeded number_exponent`},
		{`9e307`, `9e306`, `9.9e307`},
		{`1e9999`, `1`, `limit_exceeded number_digits`},
		{`1`, `1e999999999999999999999`, `limit_exceeded number_exponent`},
		{`1e999999999999999999999`, `1`, `limit_exceeded number_exponent`},
		{`1e99999999999999999`, `-1e99999999999999999`, `0`},
		{`0`, `1e400`, `limit_exceeded number_exponent`},
		{`0`, `1e-400`, `1e-400`},
		{strings.Repeat("9", 64), `1`, `1e64`},
		{strings.Repeat("9", 65), `1`, `limit_exceeded number_digits`},
		{strings.Repeat("9", 70), `0`, strings.Repeat("9", 70)},
		{`1`, strings.Repeat("9", 65), `limit_exceeded number_digits`},
		{`"1"`, `1`, `wrong_type string`},
		{`null`, `1`, `wrong_type null`},
		{`[]`, `0`, `wrong_type array`},
		{`true`, `1`, `wrong_type boolean`},
		{`1`, `"1"`, `bad_request by`},
		{`1`, `NaN`, `bad_request value`},
		{`1`, `01`, `bad_request value`},
		{`01`, `1`, `wrong_type number`},
	})
}

// TestCompute_MergePatch has the examples of RFC 7396, appendix A, and more.
func TestCompute_MergePatch(t *testing.T) {
	runComputed(t, Operation{Kind: OpPatch}, []computeCase{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{"", `{"a":{"b":null,"c":1.0}}`, `{"a":{"c":1.0}}`},
		{"", `{"a":null}`, `{}`},
		{`{"a":1.0,"b":12345678901234567890}`, `{"a":2.50}`, `{"a":2.50,"b":12345678901234567890}`},
		{`{"z":1,"a":{"y":1,"x":2}}`, `{"a":{"x":null,"w":[null]},"b":0}`, `{"z":1,"a":{"y":1,"w":[null]},"b":0}`},
		{`{"a":1}`, `{}`, `{"a":1}`},
		{`{"a":1}`, `{"b":null}`, `{"a":1}`},
		{`{"a":1}`, `{"b":{"c":1,"c":2}}`, `bad_request merge`},
	})
}

// TestCompute_JSONPatch has the examples of RFC 6902, appendix A, and more.
func TestCompute_JSONPatch(t *testing.T) {
	runComputed(t, Operation{Kind: OpPatch, Steps: true}, []computeCase{
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux"}]`, `{"foo":"bar","baz":"qux"}`},
		{`{"foo":["bar","baz"]}`, `[{"op":"add","path":"/foo/1","value":"qux"}]`, `{"foo":["bar","qux","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"remove","path":"/baz"}]`, `{"foo":"bar"}`},
		{`{"foo":["bar","qux","baz"]}`, `[{"op":"remove","path":"/foo/1"}]`, `{"foo":["bar","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"replace","path":"/baz","value":"boo"}]`, `{"baz":"boo","foo":"bar"}`},
		{`{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}`, `[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]`, `{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}`},
		{`{"foo":["all","grass","cows","eat"]}`, `[{"op":"move","from":"/foo/1","path":"/foo/3"}]`, `{"foo":["all","cows","eat","grass"]}`},
		{`{"baz":"qux","foo":["a",2,"c"]}`, `[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]`, `{"baz":"qux","foo":["a",2,"c"]}`},
		{`{"baz":"qux"}`, `[{"op":"test","path":"/baz","value":"bar"}]`, `conflict test`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/child","value":{"grandchild":{}}}]`, `{"foo":"bar","child":{"grandchild":{}}}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux","xyz":123}]`, `{"foo":"bar","baz":"qux"}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz/bat","value":"qux"}]`, `conflict path`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux","op":"remove"}]`, `bad_request ops`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":10}]`, `{"/":9,"~1":10}`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":"10"}]`, `conflict test`},
		{`{"foo":["bar"]}`, `[{"op":"add","path":"/foo/-","value":["abc","def"]}]`, `{"foo":["bar",["abc","def"]]}`},

		{`1`, `[{"op":"test","path":"","value":1.0},{"op":"replace","path":"","value":"x"}]`, `"x"`},
		{"", `[{"op":"add","path":"","value":{"a":1}},{"op":"add","path":"/b","value":2}]`, `{"a":1,"b":2}`},
		{"", `[{"op":"test","path":"/a","value":1}]`, `conflict path`},
		{"", `[]`, `conflict path`},
		{"", `[{"op":"replace","path":"","value":1}]`, `conflict path`},
		{`{"a":1}`, `[]`, `{"a":1}`},
		{`{"":{"":1}}`, `[{"op":"replace","path":"//","value":2}]`, `{"":{"":2}}`},
		{`{"a":1.50,"b":9007199254740993}`, `[{"op":"move","from":"/b","path":"/c"},{"op":"copy","from":"/a","path":"/b"}]`, `{"a":1.50,"c":9007199254740993,"b":1.50}`},
		{`{"a":{"x":[1,2]},"b":0}`, `[{"op":"test","path":"","value":{"b":0.0,"a":{"x":[1,2]}}},{"op":"add","path":"/a","value":1}]`, `{"a":1,"b":0}`},
		{`{"a":null}`, `[{"op":"test","path":"/a","value":null},{"op":"remove","path":"/a"},{"op":"test","path":"/a","value":null}]`, `conflict path`},
		{`[1,2,3]`, `[{"op":"remove","path":"/3"}]`, `conflict path`},
		{`[1,2,3]`, `[{"op":"add","path":"/3","value":4}]`, `[1,2,3,4]`},
		{`[1,2,3]`, `[{"op":"add","path":"/4","value":4}]`, `conflict path`},
		{`[1]`, `[{"op":"replace","path":"/-","value":4}]`, `conflict path`},
		{`[1,2]`, `[{"op":"remove","path":"/00"}]`, `conflict path`},
		{`[1,2]`, `[{"op":"remove","path":"/-1"}]`, `conflict path`},
		{`[1,2]`, `[{"op":"remove","path":"/+1"}]`, `conflict path`},
		{`[1,2]`, `[{"op":"test","path":"/99999999999999999999","value":1}]`, `conflict path`},
		{`{"a":1}`, `[{"op":"add","path":"/a/b","value":1}]`, `wrong_type number`},
		{`"x"`, `[{"op":"remove","path":"/0"}]`, `wrong_type string`},
		{`{"a":1}`, `[{"op":"move","from":"/a","path":"/a/b"}]`, `bad_request ops`},
		{`{"a":1}`, `[{"op":"move","from":"/a","path":"/a"}]`, `{"a":1}`},
		{`{"a":[1]}`, `[{"op":"copy","from":"","path":"/b"}]`, `{"a":[1],"b":{"a":[1]}}`},
		{`{"a":[1]}`, `[{"op":"move","from":"/a","path":""}]`, `[1]`},
		{`{"a":1}`, `[{"op":"add","path":"/\"\\\u0001\ud800é","value":1}]`, `{"a":1,"\"\\\u0001\ud800é":1}`},
		{`{"a":1}`, `[{"op":"remove","path":""}]`, `bad_request ops`},
		{`{"a":1}`, `[{"op":"add","path":"a","value":1}]`, `bad_request ops`},
		{`{"a":1}`, `[{"op":"add","path":"/~2","value":1}]`, `bad_request ops`},
		{`{"a":1}`, `[{"op":"add","path":"/a"}]`, `bad_request ops`},
		{`{"a":1}`, `[{"op":"spin","path":"/a"}]`, `bad_request ops`},
		{`{"a":1}`, `[{"path":"/a"}]`, `bad_request ops`},
		{`{"a":1}`, `[1]`, `bad_request ops`},
		{`{"a":1}`, `{"op":"remove","path":"/a"}`, `bad_request ops`},
		{`{"a":1}`, `[{"op":"copy","path":"/a"}]`, `bad_request ops`},
		// A malformed step is found before a test that fails.
		{`{"a":1}`, `[{"op":"test","path":"/a","value":2},{"op":"nope","path":"/a"}]`, `bad_request ops`},
	})
}

// TestRegression_PoisonPatch: no run of steps makes a document grow beyond a value's
// limits on the way, in size or in depth, even if the last would make it small.
func TestRegression_PoisonPatch(t *testing.T) {
	steps := func(n int, each func(i int) string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = each(i)
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	doubling := steps(60, func(i int) string {
		return fmt.Sprintf(`{"op":"copy","from":"","path":"/%d"}`, i)
	})
	shrinks := strings.TrimSuffix(doubling, "]") + `,{"op":"replace","path":"","value":{}}]`
	wide := "[" + strings.Repeat("0,", 20_000) + "0]"
	for _, test := range []struct{ name, value, patch, want string }{
		{"doubling copies", `{"a":"aaaaaaaaaaaaaaaaaaaa"}`, doubling, `limit_exceeded`},
		{"doubling copies that end small", `{"a":1}`, shrinks, `limit_exceeded`},
		{"into the depth", `[]`, steps(200, func(i int) string {
			return `{"op":"add","path":"/0` + strings.Repeat("/0", i) + `","value":[]}`
		}), `limit_exceeded depth`},
		{"copies into the depth", `[[]]`, steps(200, func(int) string {
			return `{"op":"copy","from":"","path":"/1"},{"op":"remove","path":"/0"}`
		}), `limit_exceeded depth`},
		{"too many steps", `{}`, steps(maxPatchSteps+1, func(int) string { return `{"op":"test","path":"","value":{}}` }), `limit_exceeded patch_operations`},
		{"comparing the whole again and again", wide, steps(maxPatchSteps-10, func(int) string { return `{"op":"test","path":"","value":` + "[0]" + `}` }), `conflict test`},
		{"expensive comparisons", `[1` + strings.Repeat("0", 60_000) + `]`, steps(maxPatchSteps, func(int) string { return `{"op":"test","path":"","value":[1e60000]}` }), `limit_exceeded work_bytes`},
		{"inserting in front", wide, steps(maxPatchSteps, func(int) string { return `{"op":"add","path":"/0","value":0}` }), `limit_exceeded work_bytes`},
		{"copying again and again", wide, steps(maxPatchSteps, func(int) string { return `{"op":"copy","from":"","path":""}` }), `limit_exceeded work_bytes`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := computed(t, test.value, Operation{Kind: OpPatch, Steps: true, Value: []byte(test.patch)})
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("got %.80s, want %s", got, test.want)
			}
		})
	}
	t.Run("many steps on an ordinary value", func(t *testing.T) {
		var members []string
		for i := range maxPatchSteps {
			members = append(members, fmt.Sprintf(`"%d":0`, i))
		}
		patch := steps(maxPatchSteps, func(i int) string { return fmt.Sprintf(`{"op":"replace","path":"/%d","value":1}`, i) })
		got := computed(t, "{"+strings.Join(members, ",")+"}", Operation{Kind: OpPatch, Steps: true, Value: []byte(patch)})
		if strings.Count(got, ":1") != maxPatchSteps {
			t.Errorf("got %.80s", got)
		}
	})
	t.Run("deep merges of a large value", func(t *testing.T) {
		nest := func(n int, inner string) string { return strings.Repeat(`{"a":`, n) + inner + strings.Repeat("}", n) }
		w := newWorld(t)
		ada := w.joined("r")
		w.must(single("r", ada, putOp("k", nest(30, `"`+strings.Repeat("x", 60_000)+`"`))))
		merge := Operation{Kind: OpPatch, Store: DefaultStore, Key: "k", Value: []byte(nest(29, `{"b":null}`))}
		w.must(single("r", ada, merge)) // once is no harm
		cmd := Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{Then: slices.Repeat([]Operation{merge}, MaxOperations)}}
		r := w.one(cmd)
		if code(r) != CodeLimitExceeded || r.Refusal.Details.Limit != "work_bytes" || r.Refusal.Details.Actual <= r.Refusal.Details.Max {
			t.Errorf("got %+v", r.Refusal)
		}
	})
}

// TestCompute_ResultsAreBounded: what a transaction computes is answered and told to
// watchers, so its sum has a limit, however short the operations are.
func TestCompute_ResultsAreBounded(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	w.must(single("r", ada, putOp("k", "["+strings.Repeat("0,", 30_000)+"0]")))
	cmd := Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{}}
	for range MaxOperations {
		cmd.Txn.Then = append(cmd.Txn.Then, Operation{Kind: OpAppend, Store: DefaultStore, Key: "k", Value: []byte("[1]")})
	}
	r := w.one(cmd)
	if d := (Details{Limit: "result_bytes", Max: maxResultBytes}); code(r) != CodeLimitExceeded ||
		cmp.Diff(d, Details{Limit: r.Refusal.Details.Limit, Max: r.Refusal.Details.Max}) != "" {
		t.Fatalf("got %+v", r.Refusal)
	}
	if e := w.s.Publish().Session("r").Entry(DefaultStore, "k"); e.Version != 1 {
		t.Errorf("version %d after a refused transaction", e.Version)
	}
}

// TestCompute_AResultTooLargeChangesNothing: appends may outgrow what a command can
// carry, where an operator's limits allow it; a refusal comes before the change.
func TestCompute_AResultTooLargeChangesNothing(t *testing.T) {
	w := newWorld(t)
	join := joinCommand("r")
	join.Open.Limits.ValueBytes, join.Open.Limits.SessionBytes = 8<<20, 8<<20
	r := w.must(join)
	ada := Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen}
	half := "[" + text(maxResultBytes/2) + "]"
	w.must(single("r", ada, putOp("k", half)))
	before := w.s.rev
	again := w.one(single("r", ada, Operation{Kind: OpAppend, Key: "k", Value: []byte(half)}))
	if !refusedBy(again, "result_bytes", maxResultBytes, maxResultBytes+3) {
		t.Errorf("got %+v", again.Refusal)
	}
	if e := w.s.Publish().Session("r").Entry(DefaultStore, "k"); w.s.rev != before || e.Version != 1 {
		t.Errorf("version %d, revision %d after %d", e.Version, w.s.rev, before)
	}
	w.must(single("r", ada, Operation{Kind: OpAppend, Key: "k", Value: []byte("[" + text(maxResultBytes/2-3) + "]")}))
}
