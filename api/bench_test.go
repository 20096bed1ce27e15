package api

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// nowhere is a connection that takes everything.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error)      { return len(p), nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkStream_FanOut sends one transaction of four puts to all watchers of a room,
// down to the bytes that go to their sockets. Equal watchers see all of it and share
// its encoding, different ones see one of the four keys each. One iteration is one
// transaction.
func BenchmarkStream_FanOut(b *testing.B) {
	everything := func(int) filter { return filter{types: typesAll} }
	one := func(i int) filter {
		return filter{types: typesOfKeys, keys: []string{fmt.Sprintf("key-%d*", i%4)}}
	}
	for _, c := range []struct {
		name     string
		watchers int
		filter   func(i int) filter
	}{
		{"watchers=1/filters=equal", 1, everything},
		{"watchers=1000/filters=equal", 1000, everything},
		{"watchers=1000/filters=different", 1000, one},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := newSocketServer(b, Config{})
			streams, outs := make([]*stream, c.watchers), make([]*outbox, c.watchers)
			for i := range streams {
				outs[i] = &outbox{conn: nowhere{}, stall: time.Minute, stop: func() bool { return false }, moves: func() {}}
				streams[i] = s.stream("room", outs[i], new(inbox))
				streams[i].watch(filters{c.filter(i)})
				defer streams[i].watch(nil)
			}
			entry := &fsm.Entry{Value: []byte(`"` + strings.Repeat("x", 254) + `"`), Version: 3, Rev: 1042, CreatedRev: 1007, By: ada, At: at}
			b.ReportAllocs()
			for b.Loop() {
				frame := &fsm.Frame{Rev: 1042}
				for i := range 4 {
					put := *entry
					put.Key = fmt.Sprintf("key-%d", i)
					frame.Events = append(frame.Events, &fsm.Event{
						Type: fsm.EventPut, Rev: 1042, At: at, By: ada, Store: defaultStore, Key: put.Key, Entry: &put,
					})
				}
				for i, st := range streams {
					if err := st.send(frame); err != nil {
						b.Fatal(err)
					}
					if err := outs[i].flush(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// resting is a watcher that does nothing.
type resting struct{ room string }

func (w *resting) wake([]news)                    {}
func (w *resting) tick(moment)                    {}
func (w *resting) drain()                         {}
func (w *resting) kill()                          {}
func (w *resting) watches() string                { return w.room }
func (w *resting) offer(*cluster.Burst, *metrics) {}

// BenchmarkHub_Wake finds and wakes the watchers of a room that has changed, of a hub
// with 10,000 watchers in all. One iteration is one change.
func BenchmarkHub_Wake(b *testing.B) {
	for _, each := range []int{1, 1000} {
		b.Run(fmt.Sprintf("watchers=%d", each), func(b *testing.B) {
			s := newSocketServer(b, Config{MaxSockets: 20_000})
			rooms := 10_000 / each
			for i := range 10_000 {
				w := &resting{room: fmt.Sprint("room-", i%rooms)}
				s.hub.add(w)
				defer s.hub.remove(w)
			}
			list := []news{{Room: "room-0"}}
			shard := s.hub.shard("room-0")
			b.ReportAllocs()
			for b.Loop() {
				shard.wake(list, false)
			}
		})
	}
}

// BenchmarkDecode_verbs reads a request of a socket down to the state machine's
// operation: what happens to each before it is handed to the log.
func BenchmarkDecode_verbs(b *testing.B) {
	value := `{"question":"` + strings.Repeat("x", 200) + `","options":[1,2,3]}`
	by := fsm.Caller{Kind: fsm.CallerPeer, Peer: "p1", Gen: 1}
	for _, c := range []struct{ verb, members string }{
		{"get", `"key":"poll/7"`},
		{"put", `"key":"poll/7","value":` + value},
		{"put-if", `"key":"poll/7","value":` + value + `,"if":{"rev":1042},"fence":977`},
		{"add", `"key":"votes","by":1`},
		{"append", `"key":"hands","values":["p1"],"unique":true`},
		{"txn", `"if":[{"key":"host","rev":1004}],"then":[{"do":"put","key":"poll/7","value":` + value + `},{"do":"put","key":"host","value":"p1"}]`},
	} {
		do, _, _ := strings.Cut(c.verb, "-")
		frame := []byte(`{"id":12,"do":"` + do + `",` + c.members + `}`)
		b.Run(c.verb, func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				o, err := parseObject(frame, "message")
				if err != nil {
					b.Fatal(err)
				}
				o.counter("id", 1)
				do, _ := o.str("do")
				if do == "txn" {
					o.transaction(by)
				} else {
					o.operation(do, by)
				}
				if err := o.done(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
