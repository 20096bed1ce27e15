package fsm

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestG4_EveryOperationAsksTheLock: whatever writes a locked key needs the fence of
// the grant, named by its owner; one that writes several keys is refused whole.
func TestG4_EveryOperationAsksTheLock(t *testing.T) {
	one := func(kind OpKind, value string, steps bool) func(uint64) Operation {
		return func(fence uint64) Operation {
			return Operation{Kind: kind, Store: DefaultStore, Key: "k", Value: []byte(value), Steps: steps, Fence: fence}
		}
	}
	several := func(op Operation) func(uint64) Operation {
		return func(fence uint64) Operation {
			if op.Store = DefaultStore; fence != 0 {
				op.Fences = []KeyFence{{"k", fence}}
			}
			return op
		}
	}
	for name, op := range map[string]func(fence uint64) Operation{
		"put": one(OpPut, `[2]`, false), "delete": one(OpDelete, ``, false), "update": one(OpUpdate, `[2]`, false), "append": one(OpAppend, `[2]`, false),
		"remove": one(OpRemove, `[1]`, false), "merge patch": one(OpPatch, `{"a":1}`, false), "JSON patch": one(OpPatch, `[{"op":"remove","path":"/0"}]`, true),
		"a patch that changes nothing": one(OpPatch, `[]`, true), "a remove that changes nothing": one(OpRemove, `[7]`, false),
		"add, which is of the wrong type": one(OpAdd, `1`, false),
		"merge":                           several(Operation{Kind: OpMerge, Set: []KeyValue{{"a", []byte("1")}, {"k", []byte("[2]")}, {"z", []byte("1")}}}),
		"merge that deletes":              several(Operation{Kind: OpMerge, Set: []KeyValue{{"a", []byte("1")}}, Delete: []string{"k"}}),
		"replace with another":            several(Operation{Kind: OpReplace, Set: []KeyValue{{"k", []byte("[2]")}}}),
		"replace without":                 several(Operation{Kind: OpReplace, Set: []KeyValue{{"a", []byte("1")}}}),
		"delete by prefix":                several(Operation{Kind: OpDeletePrefix}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ada, bob := w.joined("r"), w.joined("r")
			w.must(single("r", ada, putOp("b", "1")))
			w.must(single("r", ada, putOp("k", "[1]")))
			fence := w.must(acquireCommand("r", ada, 0, 0)).Fence
			before := w.s.rev
			for _, test := range []struct {
				by    Caller
				fence uint64
				want  Code
			}{
				{ada, 0, CodeLocked},
				{bob, 0, CodeLocked},
				{bob, fence, CodeStaleFence},
				{ada, fence - 1, CodeStaleFence},
				{Caller{User: "u", Owner: ada.Peer}, fence, CodeStaleFence},
			} {
				if got := code(w.one(single("r", test.by, op(test.fence)))); got != test.want {
					t.Errorf("by %+v with fence %d: got %q, want %q", test.by, test.fence, got, test.want)
				}
			}
			if s := w.s.Publish().Session("r"); w.s.rev != before || s.Counts().Keys != 2 || s.Entry(DefaultStore, "k").Version != 1 {
				t.Error("a refused write changed something")
			}
			want := Code("")
			if op(0).Kind == OpAdd {
				want = CodeWrongType
			}
			if r := w.one(single("r", ada, op(fence))); code(r) != want {
				t.Errorf("by the owner with the fence: %+v", r.Refusal)
			}
			// A paused holder that comes back when its lock is gone writes nothing.
			w.must(single("r", ada, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
			if got := code(w.one(single("r", ada, op(fence)))); got != CodeStaleFence {
				t.Errorf("after the release: %q", got)
			}
		})
	}
}

// TestG4_WhatATransactionAcquiredNeedsNoFence holds for edits of several keys too.
func TestG4_WhatATransactionAcquiredNeedsNoFence(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	r := w.must(Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{Then: []Operation{
		{Kind: OpAcquire, Store: DefaultStore, Key: "k", Lock: &LockRequest{}},
		{Kind: OpMerge, Store: DefaultStore, Set: []KeyValue{{"k", []byte("1")}}},
		{Kind: OpAdd, Store: DefaultStore, Key: "k", Value: []byte("1")},
	}}})
	if string(r.Ops[2].Value) != "2" || r.Ops[0].Fence != r.Rev {
		t.Errorf("%+v", r)
	}
}

// TestOperation_Check refuses the form of what names several keys.
func TestOperation_Check(t *testing.T) {
	kv := func(keys ...string) (list []KeyValue) {
		for _, key := range keys {
			list = append(list, KeyValue{key, []byte("1")})
		}
		return list
	}
	many := make([]string, MaxKeys+1)
	for i := range many {
		many[i] = fmt.Sprintf("%06d", i)
	}
	for name, test := range map[string]struct {
		op    Operation
		field string
	}{
		"just the keys there may be":  {Operation{Kind: OpMerge, Set: kv(many[:MaxKeys]...)}, ""},
		"too many":                    {Operation{Kind: OpMerge, Set: kv(many...)}, "set"},
		"too many to delete":          {Operation{Kind: OpMerge, Delete: many}, "delete"},
		"not sorted":                  {Operation{Kind: OpMerge, Set: kv("b", "a")}, "set"},
		"double":                      {Operation{Kind: OpReplace, Set: kv("a", "a")}, "set"},
		"deletes not sorted":          {Operation{Kind: OpMerge, Delete: []string{"b", "a"}}, "delete"},
		"set and deleted":             {Operation{Kind: OpMerge, Set: kv("a", "b"), Delete: []string{"b"}}, "delete"},
		"a replace that deletes":      {Operation{Kind: OpReplace, Delete: []string{"a"}}, "delete"},
		"an empty key":                {Operation{Kind: OpMerge, Set: kv("")}, "key"},
		"a long key":                  {Operation{Kind: OpMerge, Delete: []string{strings.Repeat("k", MaxKeyBytes+1)}}, "key"},
		"no value":                    {Operation{Kind: OpMerge, Set: []KeyValue{{Key: "a"}}}, "value"},
		"fences not sorted":           {Operation{Kind: OpDeletePrefix, Fences: []KeyFence{{"b", 1}, {"a", 1}}}, "fences"},
		"fence 0":                     {Operation{Kind: OpDeletePrefix, Fences: []KeyFence{{"a", 0}}}, "fences"},
		"a long prefix":               {Operation{Kind: OpDeletePrefix, Key: strings.Repeat("k", MaxKeyBytes+1)}, "prefix"},
		"no value to compute with":    {Operation{Kind: OpAdd, Key: "k"}, "value"},
		"a TTL before the present":    {Operation{Kind: OpAdd, Key: "k", Value: []byte("1"), TTL: -1}, "ttl_ms"},
		"an operation of later":       {Operation{Kind: OpSend + 1, Key: "k"}, "do"},
		"a computation without a key": {Operation{Kind: OpUpdate, Value: []byte("1")}, "key"},
		"a long name of a store":      {Operation{Kind: OpReplace, Store: strings.Repeat("s", MaxStoreBytes+1)}, "store"},
	} {
		cmd := single("r", Caller{}, test.op)
		no := cmd.Check()
		if test.field == "" && no != nil || test.field != "" && (no == nil || no.Code != CodeBadRequest || no.Details.Field != test.field) {
			t.Errorf("%s: got %+v, want %q", name, no, test.field)
		}
	}
}

// TestOperation_Texts: the bound holds for operations of any form, or an entry that
// was packed by it could be too large for replicas.
func TestOperation_Texts(t *testing.T) {
	const numbers = 96 // what a packer must allow for besides
	rapid.Check(t, func(t *rapid.T) {
		var op Operation
		draw(t, reflect.ValueOf(&op).Elem())
		data, err := encMode.Marshal(&op)
		if err != nil {
			t.Fatal(err)
		}
		if got := op.Texts() + numbers; len(data) > got {
			t.Fatalf("%d bytes encoded, the bound is %d: %+v", len(data), got, op)
		}
	})
}

// draw sets everything in v, numbers to their longest.
func draw(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "there") {
			v.Set(reflect.New(v.Type().Elem()))
			draw(t, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			draw(t, v.Field(i))
		}
	case reflect.Slice:
		n := rapid.SampledFrom([]int{0, 1, 30, 300}).Draw(t, "n")
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			if k := v.Index(i).Kind(); k != reflect.Uint8 {
				draw(t, v.Index(i))
			}
		}
	case reflect.String:
		v.SetString(strings.Repeat("x", rapid.SampledFrom([]int{0, 1, 23, 24, 256}).Draw(t, "length")))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-1 << 62)
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(1<<(v.Type().Bits()-1) + 1)
	}
}
