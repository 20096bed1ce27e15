package api

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"conclave/client/wire"
)

// written is the answer to any write.
type written struct {
	Value   json.RawMessage
	Version uint64
	Existed bool
	Rev     uint64
}

// wantValue compares what the store has, "" for nothing.
func (s *socketServer) wantValue(room, store, key, want string) {
	s.t.Helper()
	got := ""
	if e := s.session(room).Entry(store, key); e != nil {
		got = string(e.Value)
	}
	if got != want {
		s.t.Errorf("%s/%s is %s, want %s", store, key, got, want)
	}
}

func TestEdits_ComputeAndAnswerTheValue(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", "")
	for _, test := range []struct{ do, members, value string }{
		{"update", `"key":"o","value":{"a":1.50,"b":2}`, `{"a":1.50,"b":2}`},
		{"update", `"key":"o","value":{"b":3,"c":[]}`, `{"a":1.50,"b":3,"c":[]}`},
		{"update", `"key":"l","value":[1]`, `[1]`},
		{"update", `"key":"l","value":[2,[3]]`, `[1,2,[3]]`},
		{"update", `"key":"l","value":"text"`, `"text"`},
		{"append", `"key":"q","values":["a","b"]`, `["a","b"]`},
		{"append", `"key":"q","values":["b","c","c"],"unique":true`, `["a","b","c"]`},
		{"append", `"key":"q","values":["c"]`, `["a","b","c","c"]`},
		{"remove", `"key":"q","values":["c","x"]`, `["a","b"]`},
		{"add", `"key":"n","by":9007199254740991`, `9007199254740991`},
		{"add", `"key":"n","by":-1`, `9007199254740990`},
		{"patch", `"key":"o","merge":{"a":null,"d":{"e":1}}`, `{"b":3,"c":[],"d":{"e":1}}`},
		{"patch", `"key":"o","ops":[{"op":"add","path":"/c/-","value":7},{"op":"move","from":"/b","path":"/f"}]`, `{"c":[7],"d":{"e":1},"f":3}`},
	} {
		var got written
		c.must(&got, test.do, test.members)
		if string(got.Value) != test.value {
			t.Errorf("%s %s: got %s, want %s", test.do, test.members, got.Value, test.value)
		}
		var key struct{ Key string }
		c.decode([]byte("{"+test.members+"}"), &key)
		if e := s.session("r").Entry(defaultStore, key.Key); string(e.Value) != test.value || e.Version != got.Version || e.Rev != got.Rev {
			t.Errorf("%s %s: answered %+v, stored %+v", test.do, test.members, got, e)
		}
	}
	t.Run("what changes nothing answers the entry as it is", func(t *testing.T) {
		before := s.session("r").Entry(defaultStore, "q")
		s.put("r", "other", "1") // the room's revision is not the entry's
		var got written
		c.must(&got, "append", `"key":"q","values":["a"],"unique":true`)
		if string(got.Value) != `["a","b"]` || got.Version != before.Version || got.Rev != before.Rev {
			t.Errorf("got %+v, want %+v", got, before)
		}
		c.must(nil, "put", fmt.Sprintf(`"key":"q","value":1,"if":{"rev":%d}`, got.Rev))
	})
	t.Run("taking out of what is absent makes nothing", func(t *testing.T) {
		var got written
		c.must(&got, "remove", `"key":"absent","values":[1]`)
		if string(got.Value) != `[]` || got.Version != 0 || got.Rev != 0 {
			t.Errorf("got %+v", got)
		}
		s.wantValue("r", defaultStore, "absent", "")
	})
	t.Run("what is of another type stays as it is", func(t *testing.T) {
		for _, test := range [][2]string{
			{"append", `"key":"o","values":[1]`}, {"remove", `"key":"o","values":[1]`}, {"add", `"key":"o","by":1`},
		} {
			if e := c.fails(wire.WrongType, test[0], test[1]); e.Details["key"] != "o" || e.Details["type"] != "object" {
				t.Errorf("%s: %v", test[0], e.Details)
			}
		}
		s.wantValue("r", defaultStore, "o", `{"c":[7],"d":{"e":1},"f":3}`)
	})
	t.Run("conditions and ends of entries apply", func(t *testing.T) {
		c.fails(wire.Conflict, "update", `"key":"o","value":{},"if":{"absent":true}`)
		c.fails(wire.Conflict, "patch", `"key":"o","ops":[{"op":"test","path":"/f","value":4}]`)
		c.must(nil, "append", `"key":"t","values":[1],"ttl_ms":5000,"bind":true`)
		c.must(nil, "append", `"key":"t","values":[2]`) // keeps both
		if e := s.session("r").Entry(defaultStore, "t"); e.ExpiresAt == 0 || e.Bound != c.hello.Peer {
			t.Errorf("entry %+v", e)
		}
		c.must(nil, "acquire", `"key":"n"`)
		b := s.join("r", "")
		b.fails(wire.Locked, "add", `"key":"n","by":1`)
	})
	t.Run("a malformed patch is named", func(t *testing.T) {
		if e := c.fails(wire.BadRequest, "patch", `"key":"o","ops":[{"op":"grow","path":""}]`); e.Details["field"] != "ops" {
			t.Errorf("got %v", e.Details)
		}
	})
}

func TestEdits_WholeStores(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", `"watch":[{"store":"v"}]`)
	c.snapshot(1)
	var got written
	c.must(&got, "merge", `"store":"v","set":{"b/2":2,"a":1,"b/1":{}},"delete":["zzz"]`)
	f := c.nextEvents()
	if len(f.Events) != 3 || f.Rev != got.Rev {
		t.Fatalf("got %s for revision %d", f.raw, got.Rev)
	}
	c.must(nil, "merge", `"store":"v","set":{"c":3},"delete":["a"]`)
	s.wantValue("r", "v", "a", "")
	s.wantValue("r", "v", "c", "3")

	// Members that are equal already are left alone, whatever their order.
	c.must(nil, "put", `"store":"v","key":"o","value":{"x":1,"y":[2]}`)
	kept := s.session("r").Entry("v", "o").Rev
	c.must(nil, "replace", `"store":"v","data":{"o":{"y":[2.0],"x":1},"b/1":1,"b/2":2,"b":0}`)
	if rev := s.session("r").Entry("v", "o").Rev; rev != kept {
		t.Errorf("an equal member went from %d to %d", kept, rev)
	}
	s.wantValue("r", "v", "b/1", "1")
	s.wantValue("r", "v", "c", "")

	c.must(&got, "delete", `"store":"v","prefix":"b/"`)
	if !got.Existed || s.session("r").Entry("v", "b/1") != nil || s.session("r").Entry("v", "b") == nil {
		t.Errorf("got %+v", got)
	}
	got.Existed = true
	c.must(&got, "delete", `"store":"v","prefix":"b/"`)
	if got.Existed {
		t.Error("there was nothing left to delete")
	}
	c.must(nil, "delete", `"store":"v","prefix":""`)
	s.wantValue("r", "v", "o", "")
}

// A key that is locked is not written in passing.
func TestG4_WholeStoresNeedTheFencesOfLockedKeys(t *testing.T) {
	s := newSocketServer(t, Config{})
	c, other := s.join("r", ""), s.join("r", "")
	c.must(nil, "put", `"key":"stage","value":1`)
	var grant struct{ Fence uint64 }
	c.must(&grant, "acquire", `"key":"stage"`)
	for _, test := range [][2]string{
		{"merge", `"set":{"stage":2,"a":1}`}, {"merge", `"delete":["stage"]`}, {"replace", `"data":{"a":1}`}, {"delete", `"prefix":"sta"`},
	} {
		if e := c.fails(wire.Locked, test[0], test[1]); e.Details["key"] != "stage" {
			t.Errorf("%v: %v", test, e.Details)
		}
		fenced := fmt.Sprintf(`%s,"fences":{"stage":%d}`, test[1], grant.Fence)
		other.fails(wire.StaleFence, test[0], fenced)
		c.fails(wire.StaleFence, test[0], fmt.Sprintf(`%s,"fences":{"stage":%d}`, test[1], grant.Fence+1))
		s.wantValue("r", defaultStore, "stage", "1")
		s.wantValue("r", defaultStore, "a", "")
	}
	c.must(nil, "merge", fmt.Sprintf(`"set":{"stage":2,"a":1},"fences":{"stage":%d}`, grant.Fence))
	s.wantValue("r", defaultStore, "stage", "2")
	c.must(nil, "replace", fmt.Sprintf(`"data":{"stage":3},"fences":{"stage":%d}`, grant.Fence))
	s.wantValue("r", defaultStore, "stage", "3")
	c.must(nil, "delete", fmt.Sprintf(`"prefix":"","fences":{"stage":%d}`, grant.Fence))
	s.wantValue("r", defaultStore, "stage", "")
}

func TestEdits_InTransactions(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("r", "")
	var got wire.TxnResult
	c.must(&got, "txn", `"then":[{"do":"add","key":"n","by":2},{"do":"add","key":"n","by":3},{"do":"append","key":"l","values":[1]},
		{"do":"merge","set":{"a":1}},{"do":"replace","store":"s","data":{"x":1}},{"do":"delete","prefix":"a"},{"do":"patch","key":"m","merge":{"k":1}}]`)
	if len(got.Results) != 7 || string(got.Results[1].Value) != "5" || *got.Results[1].Version != 2 || !*got.Results[5].Existed || got.Results[3].Version != nil {
		t.Errorf("got %+v", got)
	}
	s.wantValue("r", defaultStore, "m", `{"k":1}`)
	s.wantValue("r", defaultStore, "a", "")
	e := c.fails(wire.WrongType, "txn", `"then":[{"do":"add","key":"n","by":1},{"do":"add","key":"l","by":1}]`)
	if e.Details["index"] != 1.0 || e.Details["type"] != "array" {
		t.Errorf("got %v", e.Details)
	}
	s.wantValue("r", defaultStore, "n", "5")
}

// Updates are computed where they are applied, so racing ones lose nothing.
func TestG2_RacingUpdatesLoseNothing(t *testing.T) {
	s := newSocketServer(t, Config{})
	const clients, each = 8, 50
	var all sync.WaitGroup
	for i := range clients {
		c := s.join("r", "")
		all.Go(func() {
			for n := range each {
				c.send("add", `"key":"count","by":1`)
				c.send("update", fmt.Sprintf(`"key":"list","value":[%d]`, i*each+n))
				if f := c.answer(c.send("append", fmt.Sprintf(`"key":"set","values":[%d],"unique":true`, n))); f.Error != nil {
					t.Errorf("append: %v", f.Error)
					return
				}
			}
		})
	}
	all.Wait()
	s.wantValue("r", defaultStore, "count", fmt.Sprint(clients*each))
	var list, set []int
	for key, into := range map[string]*[]int{"list": &list, "set": &set} {
		if err := json.Unmarshal(s.session("r").Entry(defaultStore, key).Value, into); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[int]bool{}
	for _, n := range list {
		seen[n] = true
	}
	if len(list) != clients*each || len(seen) != clients*each || len(set) != each {
		t.Errorf("%d items, %d different ones, a set of %d", len(list), len(seen), len(set))
	}
}

func TestSocket_RemovePeer(t *testing.T) {
	s := newSocketServer(t, Config{})
	host, guest := s.join("r", `"watch":[{"types":["peer"]}]`), s.join("r", "")
	host.snapshot(1)
	host.nextEvents() // joined
	var got written
	host.must(&got, "remove_peer", fmt.Sprintf(`"peer":%q`, guest.hello.Peer))
	f := host.nextEvents()
	if e := f.Events[0]; e.State != "left" || e.Reason != "removed" || e.Peer.Peer != guest.hello.Peer || e.Rev != got.Rev {
		t.Errorf("got %s", f.raw)
	}
	s.wantClose(guest, wire.CloseRemoved)
	host.fails(wire.NotFound, "remove_peer", fmt.Sprintf(`"peer":%q`, guest.hello.Peer))
}
