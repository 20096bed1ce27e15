package client

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// Each verb is sent as the protocol has it, its options with it, and its answer
// comes back.
func TestRoom_writes_that_compute_as_the_protocol_says(t *testing.T) {
	type object = map[string]any
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		ctx := t.Context()
		r, k := s.join(c, JoinOptions{})
		for _, test := range []struct {
			call func() (*Computed, error)
			do   string
			want string
		}{
			{func() (*Computed, error) { return r.Update(ctx, "a", object{"x": 1}) }, "update", `{"do":"update","key":"a","value":{"x":1}}`},
			{func() (*Computed, error) { return r.Update(ctx, "a", nil) }, "update", `{"do":"update","key":"a","value":null}`},
			{func() (*Computed, error) {
				return r.Update(ctx, "a", 1, InStore("s"), IfVersion(3), Fence(7), TTL(time.Second), Bound())
			}, "update", `{"do":"update","store":"s","key":"a","value":1,"if":{"version":3},"fence":7,"ttl_ms":1000,"bind":true}`},
			{func() (*Computed, error) { return r.Update(ctx, "a", 1, BoundTo("p7")) }, "update", `{"do":"update","key":"a","value":1,"bind":"p7"}`},
			{func() (*Computed, error) { return r.Append(ctx, "a", []int{1, 2}) }, "append", `{"do":"append","key":"a","values":[1,2]}`},
			{func() (*Computed, error) { return r.Append(ctx, "a", []int(nil), Unique()) }, "append", `{"do":"append","key":"a","values":[],"unique":true}`},
			{func() (*Computed, error) { return r.Remove(ctx, "a", []string{"x"}) }, "remove", `{"do":"remove","key":"a","values":["x"]}`},
			{func() (*Computed, error) { return r.Remove(ctx, "a", []string(nil)) }, "remove", `{"do":"remove","key":"a","values":[]}`},
			{func() (*Computed, error) { return r.Add(ctx, "a", -2) }, "add", `{"do":"add","key":"a","by":-2}`},
			{func() (*Computed, error) { return r.Add(ctx, "a", json.Number("0.10")) }, "add", `{"do":"add","key":"a","by":0.10}`},
			{func() (*Computed, error) { return r.MergePatch(ctx, "a", object{"x": nil}) }, "patch", `{"do":"patch","key":"a","merge":{"x":null}}`},
			{func() (*Computed, error) { return r.MergePatch(ctx, "a", nil) }, "patch", `{"do":"patch","key":"a","merge":null}`},
			{func() (*Computed, error) {
				return r.JSONPatch(ctx, "a", []object{{"op": "remove", "path": "/x"}}, IfRev(5))
			}, "patch", `{"do":"patch","key":"a","if":{"rev":5},"ops":[{"op":"remove","path":"/x"}]}`},
		} {
			call := async(test.call)
			m := k.next(test.do)
			if m.body != test.want {
				t.Errorf("sent %s\nwant %s", m.body, test.want)
			}
			k.ok(m, `{"value":{"n":1.50},"version":4,"rev":21}`)
			got, err := call.wait()
			if want := (Computed{json.RawMessage(`{"n":1.50}`), Written{Version: 4, Rev: 21}}); err != nil || cmp.Diff(want, *got) != "" {
				t.Errorf("%s answered %+v, %v", test.want, got, err)
			}
		}
		refused := async(func() (*Computed, error) { return r.Add(ctx, "a", 1) })
		k.refuse(k.next("add"), wire.Errorf(wire.WrongType, "no number"))
		if _, err := refused.wait(); !HasCode(err, wire.WrongType) || MayHaveApplied(err) {
			t.Errorf("a refusal came as %v", err)
		}
		k.leave(r)
	})
}

// What cannot be encoded is the caller's to hear of, and nothing is sent.
func TestRoom_sends_nothing_that_cannot_be_encoded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		ctx := t.Context()
		r, k := s.join(c, JoinOptions{})
		bad := math.NaN()
		for name, call := range map[string]func() error{
			"update":     func() error { _, err := r.Update(ctx, "a", bad); return err },
			"append":     func() error { _, err := r.Append(ctx, "a", []any{bad}); return err },
			"remove":     func() error { _, err := r.Remove(ctx, "a", []any{bad}); return err },
			"add":        func() error { _, err := r.Add(ctx, "a", bad); return err },
			"mergepatch": func() error { _, err := r.MergePatch(ctx, "a", bad); return err },
			"jsonpatch":  func() error { _, err := r.JSONPatch(ctx, "a", bad); return err },
			"merge":      func() error { _, err := r.Merge(ctx, map[string]any{"a": bad}, nil); return err },
			"replace":    func() error { _, err := r.Replace(ctx, map[string]any{"a": bad}); return err },
			"send":       func() error { _, err := r.Send(ctx, "a", bad); return err },
			"set_self":   func() error { return r.SetSelf(ctx, Self{Data: bad}) },
		} {
			if call() == nil {
				t.Errorf("%s accepted NaN", name)
			}
		}
		k.leave(r) // fails if anything else was sent before
	})
}

func TestRoom_writes_whole_stores_as_the_protocol_says(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		ctx := t.Context()
		r, k := s.join(c, JoinOptions{})
		for _, test := range []struct {
			call func() (uint64, error)
			do   string
			want string
		}{
			{
				func() (uint64, error) {
					return r.Merge(ctx, map[string]any{"a": 1, "b": nil}, []string{"c"}, InStore("s"))
				},
				"merge", `{"do":"merge","store":"s","set":{"a":1,"b":null},"delete":["c"]}`,
			},
			{
				func() (uint64, error) { return r.Merge(ctx, nil, []string{"c"}, Fences(map[string]uint64{"c": 9})) },
				"merge", `{"do":"merge","set":{},"delete":["c"],"fences":{"c":9}}`,
			},
			{func() (uint64, error) { return r.Replace(ctx, map[string]any{"a": 1}) }, "replace", `{"do":"replace","data":{"a":1}}`},
			{func() (uint64, error) { return r.Replace(ctx, nil) }, "replace", `{"do":"replace","data":{}}`},
			{func() (uint64, error) {
				d, err := r.DeletePrefix(ctx, "poll/")
				return d.Rev, err
			}, "delete", `{"do":"delete","prefix":"poll/"}`},
		} {
			call := async(test.call)
			m := k.next(test.do)
			if m.body != test.want {
				t.Errorf("sent %s\nwant %s", m.body, test.want)
			}
			k.ok(m, `{"existed":true,"rev":22}`)
			if rev, err := call.wait(); err != nil || rev != 22 {
				t.Errorf("%s answered %d, %v", test.want, rev, err)
			}
		}
		k.leave(r)
	})
}

// A write of many keys carries the fences of all locks that it is under, and
// refuses a lock that was lost before anything is sent.
func TestRoom_writes_whole_stores_under_locks(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		ctx := t.Context()
		r, k := s.join(c, JoinOptions{})
		take := func(key string, fence string) *Lock {
			locking := async(func() (*Lock, error) { return r.Lock(ctx, key, TTL(time.Hour)) })
			k.ok(k.next("acquire"), `{"fence":`+fence+`,"expires_in_ms":3600000}`)
			l, err := locking.wait()
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		a, b := take("a", "11"), take("b", "12")
		merging := async(func() (uint64, error) { return r.Merge(ctx, map[string]any{"a": 1, "b": 2}, nil, Under(a), Under(b)) })
		m := k.next("merge")
		if want := `{"do":"merge","set":{"a":1,"b":2},"fences":{"a":11,"b":12}}`; m.body != want {
			t.Errorf("sent %s\nwant %s", m.body, want)
		}
		k.ok(m, `{"rev":20}`)
		merging.wait()
		unlocking := async(func() (bool, error) { return true, a.Unlock(ctx) })
		k.ok(k.next("release"), `{"rev":21}`)
		unlocking.wait()
		if _, err := r.Replace(ctx, nil, Under(a)); err == nil {
			t.Error("a write under a lock that was given back was sent")
		}
		k.leave(r)
	})
}

// The operations of a transaction are the verbs.
func TestOp_constructors_say_what_the_verbs_do(t *testing.T) {
	for _, test := range []struct {
		op   wire.Op
		want string
	}{
		{UpdateOp("a", []int{1}), `{"do":"update","key":"a","value":[1]}`},
		{AppendOp("a", []int(nil)), `{"do":"append","key":"a","values":[]}`},
		{RemoveOp("a", []int{1}), `{"do":"remove","key":"a","values":[1]}`},
		{AddOp("a", 2), `{"do":"add","key":"a","by":2}`},
		{MergePatchOp("a", map[string]any{"x": nil}), `{"do":"patch","key":"a","merge":{"x":null}}`},
		{JSONPatchOp("a", []any{}), `{"do":"patch","key":"a","ops":[]}`},
		{MergeOp(map[string]any{"a": 1}, "b", "c"), `{"do":"merge","set":{"a":1},"delete":["b","c"]}`},
		{ReplaceOp(nil), `{"do":"replace","data":{}}`},
		{DeletePrefixOp(""), `{"do":"delete","prefix":""}`},
		{SendOp("chat", "hi"), `{"do":"send","data":"hi","topic":"chat"}`},
	} {
		if got, _ := json.Marshal(test.op); string(got) != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestHTTP_writes_that_compute_as_the_protocol_says(t *testing.T) {
	type object = map[string]any
	ctx := context.Background() // each test has a bubble of its own
	const key, store = "/v1/rooms/room/stores/s/keys/a", "/v1/rooms/room/stores/s"
	computed := func(call func(h *HTTP) (*Computed, error)) func(*HTTP) (uint64, error) {
		return func(h *HTTP) (uint64, error) {
			c, err := call(h)
			if err != nil {
				return 0, err
			}
			if string(c.Value) != "[1]" || c.Version != 2 {
				t.Errorf("answered %+v", c)
			}
			return c.Rev, nil
		}
	}
	p := WriteParams{Store: "s"}
	for _, test := range []struct {
		call func(h *HTTP) (uint64, error)
		kind string // Content-Type
		want heard
	}{
		{
			computed(func(h *HTTP) (*Computed, error) { return h.Update(ctx, "room", "a", nil, p) }),
			"application/json",
			heard{Method: "PATCH", URI: key, Body: `{"update":null}`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.Append(ctx, "room", "a", []int{1}, true, p) }),
			"application/json",
			heard{Method: "PATCH", URI: key, Body: `{"append":[1],"unique":true}`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.Append(ctx, "room", "a", []int(nil), false, p) }),
			"application/json",
			heard{Method: "PATCH", URI: key, Body: `{"append":[]}`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.Remove(ctx, "room", "a", []int{1}, p) }),
			"application/json",
			heard{Method: "PATCH", URI: key, Body: `{"remove":[1]}`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.Add(ctx, "room", "a", 0.5, p) }),
			"application/json",
			heard{Method: "PATCH", URI: key, Body: `{"add":0.5}`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.MergePatch(ctx, "room", "a", object{"x": nil}, p) }),
			"application/merge-patch+json",
			heard{Method: "PATCH", URI: key, Body: `{"x":null}`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.MergePatch(ctx, "room", "a", nil, p) }),
			"application/merge-patch+json",
			heard{Method: "PATCH", URI: key, Body: `null`},
		},
		{
			computed(func(h *HTTP) (*Computed, error) { return h.JSONPatch(ctx, "room", "a", []object{}, p) }),
			"application/json-patch+json",
			heard{Method: "PATCH", URI: key, Body: `[]`},
		},
		{func(h *HTTP) (uint64, error) {
			return h.Merge(ctx, "room", object{"a": 1}, []string{"b"}, StoreParams{Store: "s"})
		}, "application/json", heard{Method: "PATCH", URI: store, Body: `{"set":{"a":1},"delete":["b"]}`}},
		{
			func(h *HTTP) (uint64, error) { return h.Replace(ctx, "room", nil, StoreParams{Store: "s"}) },
			"application/json",
			heard{Method: "PUT", URI: store, Body: `{}`},
		},
		{func(h *HTTP) (uint64, error) {
			return h.Send(ctx, "room", "chat", "hi", RequestParams{}, ToPeers("p1"), ToRefs("r"), ToRoles("host", "guest"))
		}, "application/json", heard{
			Method: "POST", URI: "/v1/rooms/room/messages",
			Body: `{"topic":"chat","data":"hi","to":{"peers":["p1"],"refs":["r"],"roles":["host","guest"]}}`,
		}},
		{func(h *HTTP) (uint64, error) {
			return 9, h.SetPeer(ctx, "room", "p1", PeerParams{Self: Self{Name: new("Ada"), Data: object{"x": 1}}, Role: new("host")})
		}, "application/json", heard{Method: "PATCH", URI: "/v1/rooms/room/peers/p1", Body: `{"name":"Ada","role":"host","data":{"x":1}}`}},
	} {
		kind := ""
		httpBubble(t, []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			kind = r.Header.Get("Content-Type")
			says(`{"value":[1],"version":2,"rev":9}`)(w, r)
		}}, func(t *testing.T, h *HTTP, asked *[]heard) {
			rev, err := test.call(h)
			if err != nil || rev != 9 {
				t.Errorf("%s answered %d, %v", test.want.Body, rev, err)
			}
			if len(*asked) != 1 || (*asked)[0].Key == "" || kind != test.kind {
				t.Fatalf("asked %+v as %s, want one write with a key of its own as %s", *asked, kind, test.kind)
			}
			got := (*asked)[0]
			got.Server, got.Key = "", ""
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

// HTTP has no route for it, so it goes as a transaction.
func TestHTTP_DeletePrefix_is_a_transaction(t *testing.T) {
	httpBubble(t, []http.HandlerFunc{says(`{"applied":true,"rev":9,"results":[{"existed":true}]}`)}, func(t *testing.T, h *HTTP, asked *[]heard) {
		d, err := h.DeletePrefix(t.Context(), "room", "poll/", StoreParams{Store: "s"})
		if err != nil || *d != (Deleted{Existed: true, Rev: 9}) {
			t.Errorf("answered %+v, %v", d, err)
		}
		if got := (*asked)[0]; got.URI != "/v1/rooms/room/txn" || got.Body != `{"then":[{"do":"delete","store":"s","prefix":"poll/"}]}` {
			t.Errorf("asked %+v", got)
		}
	})
}
