package api

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/fsm"
)

// crowdData is what each peer of a full room says of itself.
var crowdData = fmt.Sprintf(`{"hand":false,"text":%q}`, strings.Repeat("x", 200))

// fillRoom joins n peers that watch nothing, a few at a time.
func (s *socketServer) fillRoom(room string, n int) []*wsClient {
	s.t.Helper()
	clients := make([]*wsClient, n)
	slots := make(chan int, n)
	for i := range n {
		slots <- i
	}
	close(slots)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i := range slots {
				if s.t.Failed() {
					return
				}
				ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.http.URL, "http")+"/v1/rooms/"+room+"/socket", nil)
				if err != nil {
					s.t.Errorf("dial peer %d: %v", i, err)
					return
				}
				c := &wsClient{t: s.t, ws: ws}
				clients[i] = c
				if err := ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil,
					`{"id":1,"do":"hello","v":1,"client":%q,"ref":"u%d","data":%s}`, randomName("c"), i, crowdData)); err != nil {
					s.t.Errorf("greet as peer %d: %v", i, err)
					return
				}
				if f, err := c.tryRead(); err != nil || f.Error != nil {
					s.t.Errorf("hello of peer %d: %v, %v", i, f.Error, err)
				}
				c.id = 1
			}
		})
	}
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	return clients
}

// heapAfterGC is what is in use once nothing unreachable is left.
func heapAfterGC() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A room of 2,500 peers: each is told of by one frame for all who watch, the last
// gets all of them in pages, one more is refused; when all have left, nothing of
// them stays in memory.
func TestRoom_full(t *testing.T) {
	const most = 2500
	s := newSocketServer(t, Config{})
	s.join("warm", "").must(nil, "leave", "")
	waitFor(t, "the first room to be empty", func() bool { return s.session("warm") == nil })
	before := heapAfterGC()

	begun := time.Now()
	host := s.join("full", `"data":`+crowdData+`,"watch":[{"types":["peer"]}]`)
	host.snapshot(1)
	seen := make(chan map[string]bool)
	go func() { seen <- host.joinedUntil("last") }()
	clients := s.fillRoom("full", most-2)
	joined := time.Since(begun)
	full := heapAfterGC()

	last := s.join("full", `"ref":"last","data":`+crowdData+`,"watch":[{}]`)
	peers := map[string]bool{}
	pages := 0
	for more := true; more; pages++ {
		f := last.next()
		if more = f.More; f.Snapshot == nil || len(f.raw) > pageBytes {
			t.Fatalf("a page of %d bytes: %.200s", len(f.raw), f.raw)
		}
		for _, p := range f.Snapshot.Peers {
			if peers[p.Peer] || string(p.Data) != crowdData {
				t.Errorf("peer %s is double or has data %s", p.Peer, p.Data)
			}
			peers[p.Peer] = true
		}
	}
	if len(peers) != most || pages < 2 {
		t.Errorf("a snapshot of %d peers in %d pages, want %d", len(peers), pages, most)
	}
	delete(peers, host.hello.Peer)
	if d := cmp.Diff(peers, <-seen); d != "" {
		t.Errorf("who watched saw others join than the snapshot has: %s", d)
	}
	extra := s.dial("full")
	f := extra.do("hello", `"v":1,"client":"one too many","data":{}`)
	if f.Error == nil || f.Error.Code != wire.LimitExceeded || f.Error.Details["limit"] != "peers" ||
		f.Error.Details["max"] != float64(most) || f.Error.Details["actual"] != float64(most+1) {
		t.Errorf("one too many got %s", f.raw)
	}
	if got := s.session("full").Counts().Peers; got != most {
		t.Errorf("%d peers afterwards", got)
	}
	extra.ws.Close()

	begun = time.Now()
	clients = append(clients, host, last)
	for _, c := range clients {
		c.send("leave", "")
	}
	waitUpTo(t, time.Minute, "the room to be empty", func() bool { return s.session("full") == nil })
	left := time.Since(begun)
	s.overHTTP().do("GET", "/v1/rooms/full", "").refused("no_session")
	for _, c := range clients {
		c.ws.Close()
	}
	waitUpTo(t, time.Minute, "the sockets to go", func() bool {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		return s.hub.watchers == 0
	})
	clients, host, last, extra = nil, nil, nil, nil
	var after uint64
	waitUpTo(t, time.Minute, "memory to be back", func() bool {
		after = heapAfterGC()
		return after < before+(full-before)/4
	})
	t.Logf("%d peers joined in %v and left in %v; heap %d KB before, %d KB full (both ends of the sockets), %d KB after",
		most, joined, left, before>>10, full>>10, after>>10)
}

// joinedUntil reads joins until that of a ref, and returns the peers.
func (c *wsClient) joinedUntil(ref string) map[string]bool {
	seen := map[string]bool{}
	for {
		f, err := c.tryRead()
		if err != nil {
			c.t.Errorf("after %d joins: %v", len(seen), err)
			return seen
		}
		if f.Reset != "" {
			c.t.Errorf("after %d joins: %s", len(seen), f.raw)
			return seen
		}
		for _, e := range f.Events {
			if e.State != "joined" || seen[e.Peer.Peer] {
				c.t.Errorf("got %s", f.raw)
			}
			seen[e.Peer.Peer] = true
			if e.Peer.Ref == ref {
				return seen
			}
		}
	}
}

// kept is a sink that keeps the last frame as it came.
type kept struct{ payload []byte }

func (k *kept) frame(_ uint64, payload []byte) error {
	k.payload = payload
	return nil
}

func TestStream_AJoinIsEncodedOnceForAllWhoWatch(t *testing.T) {
	s := newSocketServer(t, Config{})
	s.join("once", "")
	sinks := make([]kept, 3)
	streams := make([]*stream, len(sinks))
	for i := range sinks {
		streams[i] = s.stream("once", &sinks[i], new(inbox))
		defer streams[i].watch(nil)
		err := streams[i].add(filters{{types: typePeer}}, 1, func(*fsm.View, *fsm.Session) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	s.join("once", `"ref":"next"`)
	for _, st := range streams {
		if _, _, err := st.follow(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sinks {
		if !strings.Contains(string(sinks[i].payload), `"ref":"next"`) || &sinks[i].payload[0] != &sinks[0].payload[0] {
			t.Errorf("watcher %d got bytes of its own: %s", i, sinks[i].payload)
		}
	}
}

// A peer that watches nothing has nothing to do when others join, and still learns
// what becomes of itself.
func TestSocket_AQuietPeerIsLeftAlone(t *testing.T) {
	s := newSocketServer(t, Config{})
	quiet := s.join("quiet", "")
	k := s.hub.find(quiet.hello.Peer)
	waitFor(t, "its writer to rest", func() bool { return !k.isWriting() })
	others := make([]*wsClient, 20)
	for i := range others {
		k.wake([]news{{Room: "quiet", Moved: []string{"another"}}, {Room: "quiet"}})
		if k.isWriting() {
			t.Fatal("it was woken for another's sake")
		}
		others[i] = s.join("quiet", "")
	}
	quiet.must(nil, "watch", `"watch":[{"types":["peer"]}]`)
	quiet.snapshot(2)
	others[0].must(nil, "leave", "")
	if f := quiet.nextEvents(); f.Events[0].State != "left" {
		t.Errorf("got %s, want what it watches now", f.raw)
	}
	quiet.must(nil, "unwatch", `"watch":2`)
	s.overHTTP().do("DELETE", "/v1/rooms/quiet/peers/"+quiet.hello.Peer, "").want(200)
	s.wantClose(quiet, wire.CloseRemoved)
	s.overHTTP().do("DELETE", "/v1/rooms/quiet", "").want(200)
	for _, c := range others[1:] {
		s.wantClose(c, wire.CloseSessionEnded)
	}
}

func (k *socket) isWriting() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writing
}
