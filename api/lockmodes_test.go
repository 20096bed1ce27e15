package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// lockNow is a lock as the server shows it.
func (s *testServer) lockNow(key string) (l wire.Lock) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.do("GET", locks+key, "").want(200).body), &l); err != nil {
		s.t.Fatal(err)
	}
	return l
}

func (s *testServer) acquire(key, owner, members string) uint64 {
	s.t.Helper()
	body := fmt.Sprintf(`{"owner":%q,"ttl_ms":60000%s}`, owner, comma(members))
	return s.do("POST", locks+key, body).want(200).number("fence")
}

func (s *testServer) release(key, owner string, fence uint64) {
	s.t.Helper()
	s.do("DELETE", fmt.Sprintf("%s%s?fence=%d&owner=%s", locks, key, fence, owner), "").want(200)
}

func TestLocks_shared(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	ada, bob := s.acquire("doc", "ada", `"mode":"shared"`), s.acquire("doc", "bob", `"mode":"shared"`)
	if l := s.lockNow("doc"); l.Mode != "shared" || l.Permits != 1 || len(l.Holders) != 2 {
		t.Errorf("got %+v", l)
	}
	if again := s.acquire("doc", "ada", `"mode":"shared"`); again != ada {
		t.Errorf("ada's fence is %d, and then %d", ada, again)
	}
	d := s.do("POST", locks+"doc", `{"owner":"ada","ttl_ms":5000,"wait_ms":60000}`).refused("locked")
	if d["reason"] != "mode" || d["owner"] != "ada" || d["fence"] != float64(ada) {
		t.Errorf("a sharer that wants it alone: %v", d)
	}
	// Each writes by its own grant.
	write := func(owner string, fence uint64) reply {
		return s.do("PUT", fmt.Sprintf("%sdoc?fence=%d&owner=%s", keys, fence, owner), "1")
	}
	write("ada", ada).want(201)
	write("bob", bob).want(200)
	if d := write("ada", bob).refused("stale_fence"); d["fence"] != float64(ada) {
		t.Errorf("ada with bob's fence: %v", d)
	}
	s.do("PUT", keys+"doc", "1").refused("locked")
	// Sharers that wait behind one who wants it alone get it together.
	alone := s.later(context.Background(), "POST", locks+"doc", `{"owner":"eve","ttl_ms":60000,"wait_ms":60000}`)
	waitFor(t, "eve in line", func() bool { return s.queued("doc") == 1 })
	var sharers []<-chan reply
	for i := range 3 {
		body := fmt.Sprintf(`{"owner":"s%d","ttl_ms":60000,"wait_ms":60000,"mode":"shared"}`, i)
		sharers = append(sharers, s.later(context.Background(), "POST", locks+"doc", body))
		waitFor(t, "one more in line", func() bool { return s.queued("doc") == i+2 })
	}
	s.release("doc", "ada", ada)
	s.release("doc", "bob", bob)
	s.release("doc", "eve", (<-alone).want(200).number("fence"))
	fences := map[uint64]bool{}
	for _, got := range sharers {
		fences[(<-got).want(200).number("fence")] = true
	}
	if len(fences) != 3 {
		t.Errorf("three grants have the fences %v", fences)
	}
}

func TestLocks_semaphore(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	a := s.acquire("seats", "a", `"permits":2`)
	s.acquire("seats", "b", `"permits":2`)
	s.do("POST", locks+"seats", `{"owner":"c","ttl_ms":60000,"permits":2}`).refused("locked")
	if l := s.lockNow("seats"); l.Mode != "exclusive" || l.Permits != 2 || len(l.Holders) != 2 {
		t.Errorf("got %+v", l)
	}
	next := s.later(context.Background(), "POST", locks+"seats", `{"owner":"c","ttl_ms":60000,"permits":2,"wait_ms":60000}`)
	waitFor(t, "c in line", func() bool { return s.queued("seats") == 1 })
	s.release("seats", "a", a)
	(<-next).want(200)
}

// A lock's delay is shown, told to who is refused, and ended by a break.
func TestLocks_delay(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	fence := s.do("POST", locks+"gate", `{"owner":"a","ttl_ms":5000,"delay_ms":30000}`).want(200).number("fence")
	if l := s.lockNow("gate"); l.Holders[0].DelayMs != 30_000 || l.DelayEndsInMs != 0 {
		t.Errorf("held: %+v", l)
	}
	s.store.advance(5 * time.Second)
	s.store.advance(time.Second)
	if l := s.lockNow("gate"); len(l.Holders) != 0 || l.DelayEndsInMs != 29_000 {
		t.Errorf("in its delay: %+v", l)
	}
	d := s.do("POST", locks+"gate", `{"owner":"a","ttl_ms":5000}`).refused("locked")
	if d["reason"] != "delay" || d["expires_in_ms"] != float64(29_000) || d["owner"] != nil {
		t.Errorf("refused in the delay: %v", d)
	}
	// Nobody holds it: a write needs no fence, and a late one is refused.
	s.do("PUT", keys+"gate", "1").want(201)
	s.do("PUT", fmt.Sprintf("%sgate?fence=%d&owner=a", keys, fence), "1").refused("stale_fence")
	renewed := s.do("PUT", locks+"gate", fmt.Sprintf(`{"fence":%d,"owner":"a"}`, fence)).refused("not_holder")
	if renewed["reason"] != "expired" {
		t.Errorf("a renewal of the expired lease: %v", renewed)
	}
	next := s.later(context.Background(), "POST", locks+"gate", `{"owner":"b","ttl_ms":5000,"wait_ms":60000}`)
	waitFor(t, "b in line", func() bool { return s.queued("gate") == 1 })
	s.do("DELETE", locks+"gate?break=true", "").want(200)
	(<-next).want(200)
}

// Who is refused learns how long the holder has left, in every kind of request.
func TestLocks_timeLeftInRefusals(t *testing.T) {
	s := newSocketServer(t, Config{})
	a, b := s.join("left", ""), s.join("left", "")
	a.must(nil, "acquire", `"key":"pen","ttl_ms":9000`)
	a.must(nil, "acquire", `"key":"bound"`)
	s.store.advance(2 * time.Second)
	for name, refused := range map[string]*wire.Error{
		"acquire": b.fails(wire.Locked, "acquire", `"key":"pen"`),
		"put":     b.fails(wire.Locked, "put", `"key":"pen","value":1`),
		"txn":     b.fails(wire.Locked, "txn", `"then":[{"do":"get","key":"x"},{"do":"delete","key":"pen"}]`),
		"merge":   b.fails(wire.Locked, "merge", `"set":{"a":1,"pen":2}`),
	} {
		if got := fmt.Sprint(refused.Details["expires_in_ms"]); got != "7000" {
			t.Errorf("%s is told %s ms", name, got)
		}
	}
	if d := b.fails(wire.Locked, "acquire", `"key":"bound"`).Details; d["expires_in_ms"] != nil {
		t.Errorf("a lock without an end has %v", d)
	}
}

// How a grant ended is told to who asks for it.
func TestLocks_howAGrantEnded(t *testing.T) {
	s := newSocketServer(t, Config{})
	a := s.join("ends", "")
	grant := func(key string) (fence uint64, members string) {
		var g struct{ Fence uint64 }
		a.must(&g, "acquire", fmt.Sprintf(`"key":%q,"ttl_ms":5000`, key))
		return g.Fence, fmt.Sprintf(`"key":%q,"fence":%d`, key, g.Fence)
	}
	ends := map[string]func(key, fence string){
		"released": func(_, fence string) { a.must(nil, "release", fence) },
		"broken": func(key, _ string) {
			by := fsm.Operation{Kind: fsm.OpRelease, Store: defaultStore, Key: key, Break: true}
			r, err := s.store.Do(s.t.Context(), &fsm.Command{Kind: fsm.CommandTxn, Room: "ends", Txn: single(by)})
			if err := outcome(r, err); err != nil {
				t.Fatal(err)
			}
		},
		"expired": func(_, _ string) { s.store.advance(5 * time.Second) },
	}
	for want, end := range ends {
		_, fence := grant(want)
		end(want, fence)
		for _, do := range []string{"renew", "release"} {
			if d := a.fails(wire.NotHolder, do, fence).Details; d["reason"] != want {
				t.Errorf("%s after it was %s: %v", do, want, d)
			}
		}
		var valid struct {
			Valid  bool
			Reason string
		}
		if a.must(&valid, "validate", fence); valid.Valid || valid.Reason != want {
			t.Errorf("validate after it was %s: %+v", want, valid)
		}
	}
	if d := a.fails(wire.NotHolder, "renew", `"key":"none","fence":9007199254740991`).Details; d["reason"] != nil {
		t.Errorf("a fence that never was: %v", d)
	}
}

// A transaction takes and gives back several locks, all or none, and mixes them with
// reads and messages; what it took it writes without a fence.
func TestTxn_locks(t *testing.T) {
	s := newSocketServer(t, Config{})
	a, b := s.join("many", ""), s.join("many", "")
	var r wire.TxnResult
	a.must(&r, "txn", `"then":[{"do":"acquire","key":"left","ttl_ms":9000},{"do":"acquire","key":"right","mode":"shared","delay_ms":1000},`+
		`{"do":"put","key":"left","value":1},{"do":"get","key":"left"},{"do":"send","topic":"chat","data":1}]`)
	if len(r.Results) != 5 || r.Results[0].Fence != r.Rev || r.Results[1].Fence != r.Rev || !strings.Contains(string(r.Results[3].Entry), `"value":1`) {
		t.Fatalf("got %+v", r)
	}
	b.must(nil, "acquire", `"key":"free"`)
	refused := b.fails(wire.Locked, "txn", `"then":[{"do":"acquire","key":"other"},{"do":"acquire","key":"right"}]`)
	if fmt.Sprint(refused.Details["index"]) != "1" {
		t.Errorf("refused %v", refused.Details)
	}
	if l := s.session("many").Lock(defaultStore, "other"); l != nil {
		t.Errorf("a refused transaction left %+v", l)
	}
	a.must(&r, "txn", fmt.Sprintf(`"if":[{"key":"left","fence":%d}],"then":[{"do":"put","key":"left","value":2,"fence":%d},`+
		`{"do":"release","key":"left","fence":%d},{"do":"release","key":"right","fence":%d}]`, r.Rev, r.Rev, r.Rev, r.Rev))
	if s.session("many").Lock(defaultStore, "left") != nil || s.session("many").Lock(defaultStore, "right") != nil {
		t.Error("they are still locked")
	}
	a.fails(wire.BadRequest, "txn", `"then":[{"do":"acquire","key":"x","wait_ms":5}]`)
}
