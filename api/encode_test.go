package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
	"conclave/fsm"
	"conclave/lock"
)

var update = flag.Bool("update", false, "write the samples of testdata/wire: recordings anew, shapes that are not there yet")

// What the samples are made of. Everything that may be absent is there once.
var (
	at         = wallStart.UnixMilli()
	ada        = fsm.By{Kind: fsm.CallerPeer, Peer: "p1", Ref: "u7", User: "ada"}
	fullEntry  = &fsm.Entry{Key: "poll/1", Value: []byte(`{"q":"a<b & \u00e4 ß","n":1.50}`), Version: 3, Rev: 1042, CreatedRev: 1007, By: ada, At: at, Expires: 9, ExpiresAt: at + 30_001, Bound: "p1"}
	plainEntry = &fsm.Entry{Key: "spot\"light", Value: []byte(`null`), Version: 1, Rev: 1043, CreatedRev: 1043, At: at}
	fullPeer   = &fsm.Peer{ID: "p1", Key: "secret", User: "ada", Ref: "u7", Role: "host", Name: "Ada L. \u2028", Data: []byte(`{"hand":true}`), Attached: true, JoinedAt: at, JoinedRev: 1001}
	gonePeer   = &fsm.Peer{ID: "p2", Key: "secret", JoinedAt: at, JoinedRev: 1002}
	aLock      = &lock.Lock{
		Permits: 1,
		Holders: []lock.Holder{{Owner: lock.Owner{Peer: "p1"}, Fence: 977, Since: at, TTL: 5000, Data: []byte(`{"why":"talk"}`)}},
		Queue:   []lock.Waiter{{ID: 978, Owner: lock.Owner{Name: "cron"}, Since: at + 1}},
	}
)

func leftForTest(lock.Holder) (int64, bool) { return 4200, true }

// samples are the wire's shapes by the name of their file.
var samples = map[string]struct {
	got  func() []byte
	into func() any // the shape in client/wire
}{
	"entry":       {func() []byte { return appendEntry(nil, fullEntry) }, func() any { return new(wire.Entry) }},
	"entry_plain": {func() []byte { return appendEntry(nil, plainEntry) }, func() any { return new(wire.Entry) }},
	"peer":        {func() []byte { return appendPeer(nil, fullPeer) }, func() any { return new(wire.Peer) }},
	"peer_gone":   {func() []byte { return appendPeer(nil, gonePeer) }, func() any { return new(wire.Peer) }},
	"lock":        {func() []byte { return appendLock(nil, "default", "stage", aLock, leftForTest) }, func() any { return new(wire.Lock) }},
	"lock_queue":  {func() []byte { return appendLock(nil, "s", "k", &lock.Lock{Shared: true, Permits: 3}, nil) }, func() any { return new(wire.Lock) }},
	"event_put":   event(&fsm.Event{Type: fsm.EventPut, Rev: 1042, At: at, By: ada, Store: "default", Key: "poll/1", Entry: fullEntry}),
	"event_delete": event(&fsm.Event{
		Type: fsm.EventDelete, Rev: 1044, At: at, By: fsm.By{Kind: fsm.CallerSystem}, Store: "votes", Key: "a", Reason: "expired",
	}),
	"event_lock":          event(&fsm.Event{Type: fsm.EventLock, Rev: 1045, At: at, Store: "default", Key: "stage", State: "acquired", Owner: lock.Owner{Peer: "p1"}, Fence: 1045, Waiting: 2}),
	"event_lock_released": event(&fsm.Event{Type: fsm.EventLock, Rev: 1046, At: at, Store: "default", Key: "stage", State: "released", Owner: lock.Owner{Subject: "svc", Name: "cron"}, Fence: 1045}),
	"event_peer":          event(&fsm.Event{Type: fsm.EventPeer, Rev: 1001, At: at, State: "joined", Peer: fullPeer}),
	"event_peer_left":     event(&fsm.Event{Type: fsm.EventPeer, Rev: 1047, At: at, State: "left", Peer: gonePeer, Reason: "grace"}),
	"event_message":       event(&fsm.Event{Type: fsm.EventMessage, Rev: 1048, At: at, By: ada, Topic: "chat", Data: []byte(`"hi"`)}),
	"event_session":       event(&fsm.Event{Type: fsm.EventSession, Rev: 1049, At: at, State: "ended", Session: "srs", Reason: "ended"}),
	"frame": {func() []byte {
		return encodeFrame(&fsm.Frame{Rev: 1044, Events: []*fsm.Event{
			{Type: fsm.EventPut, Rev: 1044, At: at, Store: "default", Key: plainEntry.Key, Entry: plainEntry},
			{Type: fsm.EventDelete, Rev: 1044, At: at, Store: "default", Key: "b", Reason: "deleted"},
		}})
	}, func() any {
		return new(struct {
			Events []wire.Event `json:"events"`
			Rev    uint64       `json:"rev"`
		})
	}},
	"txn": {func() []byte {
		txn := &fsm.Txn{Then: []fsm.Operation{{Kind: fsm.OpPut}, {Kind: fsm.OpDelete}, {Kind: fsm.OpAcquire}, {Kind: fsm.OpRelease}, {Kind: fsm.OpGet}, {Kind: fsm.OpGet}}}
		return appendTxnResult(nil, txn, &fsm.Result{Applied: true, Rev: 1060, Ops: []fsm.OpResult{{Version: 4, Rev: 1060}, {Existed: true}, {Fence: 1060}, {}, {Entry: plainEntry}, {}}})
	}, func() any { return new(wire.TxnResult) }},
	"txn_computed": {func() []byte {
		txn := &fsm.Txn{Then: []fsm.Operation{{Kind: fsm.OpUpdate}, {Kind: fsm.OpRemove}, {Kind: fsm.OpAdd}, {Kind: fsm.OpMerge}, {Kind: fsm.OpReplace}, {Kind: fsm.OpDeletePrefix}}}
		return appendTxnResult(nil, txn, &fsm.Result{Applied: true, Rev: 1061, Ops: []fsm.OpResult{
			{Value: []byte(`{"a":[1.50,"<"]}`), Version: 5, Rev: 1061}, {Value: []byte(`[]`)}, {Value: []byte(`-3`), Version: 1, Rev: 1061}, {}, {}, {Existed: true},
		}})
	}, func() any { return new(wire.TxnResult) }},
	"error": {func() []byte {
		return marshal(refusal(&fsm.Refusal{Code: fsm.CodeConflict, Message: "the entry is another", Details: fsm.Details{
			Store: "default", Key: "poll", Exists: ptr(true), Version: 3, Rev: 1042, Value: []byte(`{"q":"<"}`), Index: ptr(1),
		}}))
	}, func() any { return new(wire.Error) }},
}

func event(e *fsm.Event) struct {
	got  func() []byte
	into func() any
} {
	return struct {
		got  func() []byte
		into func() any
	}{func() []byte { return encodeEvent(e) }, func() any { return new(wire.Event) }}
}

// The samples are the contract: clients in other languages are tested against
// them. A sample is never changed, only added.
func TestSamples(t *testing.T) {
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			got := sample.got()
			path := filepath.Join("testdata", "wire", name+".json")
			want, err := os.ReadFile(path)
			if os.IsNotExist(err) && *update {
				if err := os.WriteFile(path, append(bytes.Clone(got), '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSuffix(string(want), "\n"), string(got)); diff != "" {
				t.Error(diff)
			}
			if _, err := compactJSON(got, "sample"); err != nil {
				t.Error(err)
			}
			// client/wire knows every member, and gives the same back.
			shape := sample.into()
			dec := json.NewDecoder(bytes.NewReader(got))
			dec.DisallowUnknownFields()
			if err := dec.Decode(shape); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(generic(t, got), generic(t, marshal(shape))); diff != "" {
				t.Errorf("client/wire says otherwise (-sent +understood):\n%s", diff)
			}
		})
	}
	t.Run("show no resume key", func(t *testing.T) {
		for name, sample := range samples {
			if bytes.Contains(sample.got(), []byte("secret")) {
				t.Errorf("%s does", name)
			}
		}
	})
}

func generic(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func FuzzAppendString(f *testing.F) {
	for _, seed := range []string{"", "a", `"\`, "\x00\x1f\x7f", "ß😀", "\xff\xfea", "\u2028<>&"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); got != want && strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func BenchmarkEncodeEvent(b *testing.B) {
	e := &fsm.Event{Type: fsm.EventPut, Rev: 1042, At: at, By: ada, Store: "default", Key: "poll/1", Entry: fullEntry}
	b.ReportAllocs()
	for b.Loop() {
		encodeEvent(e)
	}
}
