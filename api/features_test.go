package api

import (
	"bytes"
	"slices"
	"testing"

	"conclave/client/wire"
	"conclave/fsm"
)

// nulls is a feature for the tests: the value null, and locks with data.
var nulls = feature{"nulls", func(c *fsm.Command) string {
	if c.Txn != nil {
		for _, op := range c.Txn.Then {
			if bytes.Equal(op.Value, []byte("null")) {
				return "value"
			}
		}
	}
	if c.Acquire != nil && c.Acquire.Lock.Data != nil || c.Join != nil && c.Join.Data != nil {
		return "data"
	}
	return ""
}}

func (s *testStore) upgrade(features ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features = features
}

// A verb or member that needs a feature is refused, by name and on every way to the
// log, until all voters have it.
func TestFeatures_gateWhatVotersLack(t *testing.T) {
	s := newTestServer(t, Config{features: []feature{nulls}})
	s.open("r")
	writes := map[string]func() reply{
		"put":     func() reply { return s.do("PUT", keys+"k", "null") },
		"txn":     func() reply { return s.do("POST", "/v1/rooms/r/txn", `{"then":[{"do":"put","key":"a","value":null}]}`) },
		"acquire": func() reply { return s.do("POST", locks+"pen", `{"ttl_ms":1000,"data":1}`) },
		"join":    func() reply { return s.do("POST", peers, `{"ttl_ms":1000,"data":1}`) },
	}
	rev := s.store.View().Rev()
	for name, write := range writes {
		d := write().refused("bad_request")
		if d["feature"] != "nulls" || d["field"] != "value" && d["field"] != "data" {
			t.Errorf("%s: %v", name, d)
		}
	}
	if got := s.store.View().Rev(); got != rev {
		t.Errorf("something was changed: the revision is %d, was %d", got, rev)
	}
	s.do("PUT", keys+"plain", "1").want(201)
	if got := s.do("GET", "/v1", "").want(200); got.body != `{"v":1,"version":"test","node":"n1","features":[]}` {
		t.Errorf("got %s", got.body)
	}
	s.store.upgrade("nulls", "unheard-of")
	// What the program itself does not know it does not offer.
	if got := s.do("GET", "/v1", "").want(200); got.body != `{"v":1,"version":"test","node":"n1","features":["nulls"]}` {
		t.Errorf("got %s", got.body)
	}
	for name, write := range writes {
		if r := write(); r.status > 201 {
			t.Errorf("%s: got %d %s", name, r.status, r.body)
		}
	}
}

func TestFeatures_overSockets(t *testing.T) {
	s := newSocketServer(t, Config{features: []feature{nulls}})
	c := s.join("features", "")
	if len(c.hello.Features) != 0 {
		t.Errorf("hello shows %q", c.hello.Features)
	}
	for do, members := range map[string]string{"put": `"key":"k","value":null`, "acquire": `"key":"l","data":1`} {
		if e := c.fails(wire.BadRequest, do, members); e.Details["feature"] != "nulls" {
			t.Errorf("%s: %v", do, e.Details)
		}
	}
	d := s.dial("features")
	if e := d.fails(wire.BadRequest, "hello", `"v":1,"data":{}`); e.Details["feature"] != "nulls" {
		t.Errorf("hello: %v", e.Details)
	}
	s.store.upgrade("nulls")
	d.greet(`"data":{}`)
	if !slices.Equal(d.hello.Features, []string{"nulls"}) {
		t.Errorf("hello shows %q", d.hello.Features)
	}
	c.must(nil, "put", `"key":"k","value":null`)
	c.must(nil, "acquire", `"key":"l","data":1`)
}
