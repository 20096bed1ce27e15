package api

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"conclave/client/wire"
	"conclave/fsm"
)

// parseFilters reads the items of a watch.
func parseFilters(t testing.TB, items string) (filters, *wire.Error) {
	t.Helper()
	o, err := parseObject([]byte(`{"watch":`+items+`}`), "message")
	if err != nil {
		t.Fatal(err)
	}
	fs := o.filters(1, false)
	return fs, o.done()
}

func TestFilters_Passes(t *testing.T) {
	events := map[string]*fsm.Event{
		"put a":       {Type: fsm.EventPut, Store: "default", Key: "a"},
		"put p/1":     {Type: fsm.EventPut, Store: "default", Key: "p/1"},
		"delete a":    {Type: fsm.EventDelete, Store: "default", Key: "a"},
		"lock a":      {Type: fsm.EventLock, Store: "default", Key: "a"},
		"put notes a": {Type: fsm.EventPut, Store: "notes", Key: "a"},
		"peer":        {Type: fsm.EventPeer, Peer: &fsm.Peer{ID: "p1"}},
		"chat":        {Type: fsm.EventMessage, Topic: "chat"},
		"news":        {Type: fsm.EventMessage, Topic: "news/1"},
		"session":     {Type: fsm.EventSession, State: "ended"},
	}
	for _, test := range []struct{ items, want string }{
		{`[]`, ""},
		{`[{}]`, "put a,put p/1,delete a,lock a,put notes a,peer,chat,news,session"},
		{`[{"keys":["a"]}]`, "put a,delete a,lock a,session"},
		{`[{"keys":["p/*"]}]`, "put p/1,session"},
		{`[{"keys":["*"]}]`, "put a,put p/1,delete a,lock a,session"},
		{`[{"store":"notes"}]`, "put notes a,session"},
		{`[{"store":"notes","keys":["b"]}]`, "session"},
		{`[{"types":["put"]}]`, "put a,put p/1,put notes a,session"},
		{`[{"types":["put"],"keys":["a"]}]`, "put a,session"},
		{`[{"types":["put"],"store":"notes"}]`, "put notes a,session"},
		{`[{"types":["peer","lock"]}]`, "lock a,peer,session"},
		{`[{"types":["message"],"topics":["chat"]}]`, "chat,session"},
		{`[{"topics":["news/*"]}]`, "news,session"},
		{`[{"topics":["chat"],"keys":["a"],"types":["put","message"]}]`, "put a,chat,session"},
		{`[{"keys":["a"]},{"types":["peer"]}]`, "put a,delete a,lock a,peer,session"},
		{`[{"types":["session"]}]`, "session"},
	} {
		fs, err := parseFilters(t, test.items)
		if err != nil {
			t.Errorf("%s: %v", test.items, err)
			continue
		}
		for name, e := range events {
			want := strings.Contains(","+test.want+",", ","+name+",")
			if got := fs.passes(e); got != want {
				t.Errorf("%s: %s passes: %v, want %v", test.items, name, got, want)
			}
		}
	}
}

func TestFilters_Refused(t *testing.T) {
	many := `[` + strings.Repeat(`{},`, maxFilters) + `{}]`
	patterns := `[{"keys":["a` + strings.Repeat(`","a`, maxPatterns/2) + `"]},{"keys":["a` + strings.Repeat(`","a`, maxPatterns/2) + `"]}]`
	for _, items := range []string{
		`{}`, `[1]`, `[{"keys":"a"}]`, `[{"keys":[1]}]`, `[{"keys":[""]}]`, `[{"keys":["a*b"]}]`, `[{"keys":["**"]}]`, `[{"keys":[".."]}]`,
		`[{"keys":["` + strings.Repeat("k", 257) + `"]}]`, `[{"store":""}]`, `[{"types":["rain"]}]`, `[{"types":[{}]}]`,
		`[{"snapshot":"yes"}]`, `[{"colour":1}]`, `[{"keys":[]}]`, `[{"store":"notes","keys":[]}]`, `[{"types":[]}]`, `[{"topics":[]}]`,
	} {
		if _, err := parseFilters(t, items); err == nil || err.Code != wire.BadRequest {
			t.Errorf("%.80s: got %v, want bad_request", items, err)
		}
	}
	alone := `[{"keys":["a` + strings.Repeat(`","a`, maxPatterns) + `"]}]`
	for items, limit := range map[string]string{many: "filters", alone: "filter_patterns"} {
		if _, err := parseFilters(t, items); err == nil || err.Code != wire.LimitExceeded || err.Details["limit"] != limit {
			t.Errorf("%.80s: got %v, want limit_exceeded of %s", items, err, limit)
		}
	}
	fs, err := parseFilters(t, patterns)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.fits(); err == nil || err.Code != wire.LimitExceeded {
		t.Errorf("got %v, want limit_exceeded", err)
	}
}

// A set of filters lets through what any of them alone lets through, and a
// snapshot has an entry exactly when a put of it passes.
func TestFilters_AddUp(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "ab", "b", "ba"})
	pattern := rapid.SampledFrom([]string{"a", "a*", "b*", "*", "ba"})
	one := rapid.Custom(func(t *rapid.T) filter {
		f := filter{types: typeSet(rapid.IntRange(0, int(typesAll)).Draw(t, "types"))}
		f.keys = rapid.SliceOfN(pattern, 0, 2).Draw(t, "keys")
		if len(f.keys) == 0 {
			f.keys = nil
		}
		if rapid.Bool().Draw(t, "in a store") {
			f.store = name.Draw(t, "store")
		}
		f.complete()
		return f
	})
	rapid.Check(t, func(t *rapid.T) {
		fs := filters(rapid.SliceOfN(one, 0, 4).Draw(t, "filters"))
		e := &fsm.Event{
			Type:  rapid.SampledFrom([]fsm.EventType{fsm.EventPut, fsm.EventDelete, fsm.EventLock, fsm.EventPeer}).Draw(t, "type"),
			Store: name.Draw(t, "store"), Key: name.Draw(t, "key"),
		}
		want := false
		for _, f := range fs {
			want = want || filters{f}.passes(e)
		}
		if got := fs.passes(e); got != want {
			t.Fatalf("%+v: passes %v, want %v", e, got, want)
		}
		if e.Type == fsm.EventPut && want && !fs.passesStore(typePut, e.Store) {
			t.Fatalf("the store %s is left out of snapshots", e.Store)
		}
		if e.Type == fsm.EventPut && fs.passesKey(typePut, e.Store, e.Key) != want {
			t.Fatalf("snapshot and stream differ about %+v", e)
		}
	})
}
