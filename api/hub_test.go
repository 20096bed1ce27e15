package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"conclave/cluster"
	"conclave/fsm"
)

// rawSocket opens a WebSocket by hand, says hello and reads its answer and its
// snapshot, so that the test's own side of it costs nothing but the connection.
func rawSocket(t testing.TB, s *socketServer, room, hello string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /v1/rooms/%s/socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", room)
	r := bufio.NewReaderSize(conn, 512)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", resp, err)
	}
	var mask [4]byte
	rand.Read(mask[:])
	frame := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(hello)))
	frame = append(frame, mask[:]...)
	for i := range len(hello) {
		frame = append(frame, hello[i]^mask[i%4])
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rawFrame(t, r)
	}
	return conn
}

func rawFrame(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatal(err)
	}
	n := int(head[1])
	if n == 126 {
		var long [2]byte
		if _, err := io.ReadFull(r, long[:]); err != nil {
			t.Fatal(err)
		}
		n = int(binary.BigEndian.Uint16(long[:]))
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

// inUse is the memory that the process has in heap and stacks.
func inUse() uint64 {
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func TestG12_AnIdleWatcherCostsLittle(t *testing.T) {
	const watchers, limit = 1_000, 30 << 10
	s := newSocketServer(t, Config{})
	holder := s.join("idle", "")
	rawSocket(t, s, "idle", `{"id":1,"do":"hello","v":1,"observe":true,"watch":[{}]}`)
	before, goroutines := inUse(), runtime.NumGoroutine()
	for range watchers {
		rawSocket(t, s, "idle", `{"id":1,"do":"hello","v":1,"observe":true,"watch":[{}]}`)
	}
	holder.must(nil, "put", `"key":"k","value":1`) // everybody has been woken once
	waitFor(t, "the writers to rest", func() bool { return runtime.NumGoroutine() <= goroutines+watchers })
	each := int(inUse()-before) / watchers
	t.Logf("%d bytes and %.2f goroutines a watcher, the test's side of the connection included",
		each, float64(runtime.NumGoroutine()-goroutines)/watchers)
	if each > limit {
		t.Errorf("an idle watcher costs %d bytes, more than %d", each, limit)
	}
}

func TestHub_DrainCutsOffWhenItsContextEnds(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.dialWith("stuck", nil, small)
	c.greet(`"watch":[{}]`)
	value := `"` + strings.Repeat("v", 60<<10) + `"`
	for range 300 { // until its writer hangs in the kernel
		s.put("stuck", "k", value)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s.session("stuck").Peer(c.hello.Peer).Attached {
		t.Error("the peer is still attached")
	}
}

func TestHub_WakesTheRoomThatChanged(t *testing.T) {
	s := newSocketServer(t, Config{})
	a, b := &woken{room: "a"}, &woken{room: "b"}
	for _, w := range []*woken{a, b} {
		w.wakes = make(chan []news, 100)
		s.hub.add(w)
		defer s.hub.remove(w)
	}
	s.put("a", "k", "1")
	<-a.wakes
	s.put("a", "k", "2")
	<-a.wakes
	if len(b.wakes) != 0 {
		t.Error("the other room was woken")
	}
	s.hub.observe(&fsm.Published{Restored: true})
	<-b.wakes
}

// What came while the shard was busy wakes each watcher once, with all of its room's.
func TestHub_WakesOnceForWhatHasPiledUp(t *testing.T) {
	a, b := &woken{room: "a", wakes: make(chan []news, 100)}, &woken{room: "b", wakes: make(chan []news, 100)}
	var sh shard
	sh.rooms = map[string]map[watcher]struct{}{"a": {a: {}}, "b": {b: {}}}
	sh.wake([]news{
		{Room: "a", Moved: []string{"p1"}},
		{Room: "none", Ended: true},
		{Room: "b", Moved: []string{"p2"}},
		{Room: "a"},
		{Room: "a", Moved: []string{"p3", "p4"}},
	}, false)
	if len(a.wakes) != 1 || len(b.wakes) != 1 {
		t.Fatalf("%d and %d wakes", len(a.wakes), len(b.wakes))
	}
	forA, forB := <-a.wakes, <-b.wakes
	if len(forA) != 3 || len(forB) != 1 {
		t.Errorf("got %v and %v", forA, forB)
	}
	for peer, want := range map[string]bool{"p1": true, "p2": false, "p3": true, "p4": true, "p5": false} {
		if got := concern(forA, peer); got != want {
			t.Errorf("%s is concerned: %v", peer, got)
		}
	}
	if !concern([]news{{Room: "a"}, {Room: "a", Ended: true}}, "p5") {
		t.Error("the end of a session concerns everybody")
	}
}

// woken is a watcher that keeps what it was woken with.
type woken struct {
	room  string
	wakes chan []news
}

func (w *woken) wake(list []news)               { w.wakes <- slices.Clone(list) }
func (w *woken) tick(moment)                    {}
func (w *woken) drain()                         {}
func (w *woken) kill()                          {}
func (w *woken) watches() string                { return w.room }
func (w *woken) offer(*cluster.Burst, *metrics) {}
