package api

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/cluster/sim"
)

// socketServers are servers of the nodes of one real cluster, in real time.
func socketServers(t *testing.T) (*sim.Cluster, []*socketServer) {
	t.Helper()
	c := sim.NewCluster(t, 3)
	var servers []*socketServer
	for i := range 3 {
		s := New(unhurried(), Of(c.Node(i)))
		h := httptest.NewServer(s.Handler())
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = s.Close(ctx) // a killed node cannot say goodbye
			h.Close()
		})
		servers = append(servers, &socketServer{Server: s, t: t, http: h})
	}
	return c, servers
}

func TestG7_ResumeOnAnotherNodeMissesNothing(t *testing.T) {
	c, servers := socketServers(t)
	writer := servers[c.Leader()].join("move", "")
	done := make(chan struct{})
	const writes = 400
	go func() {
		defer close(done)
		for i := range writes {
			writer.must(nil, "put", fmt.Sprintf(`"key":"k","value":%d`, i))
		}
	}()
	watcher := servers[0].join("move", `"watch":[{"keys":["k"]}]`)
	m := &mirror{t: t}
	m.start(watcher.snapshot(1))
	for move := 1; string(m.entries["k"].Value) != fmt.Sprint(writes-1); move++ {
		for range 25 {
			if string(m.entries["k"].Value) != fmt.Sprint(writes-1) {
				m.apply(watcher.nextEvents())
			}
		}
		watcher.ws.NetConn().Close()
		next := servers[move%3].dial("move")
		next.greet(fmt.Sprintf(`"watch":[{"keys":["k"]}],"resume":{"session":%q,"peer":%q,"key":%q,"rev":%d}`,
			watcher.hello.Session, watcher.hello.Peer, watcher.hello.ResumeKey, m.rev))
		if !next.hello.PeerResumed || !next.hello.StreamResumed {
			t.Fatalf("hello %+v", next.hello)
		}
		watcher = next
	}
	<-done
	if e := m.entries["k"]; e.Version != writes {
		t.Errorf("version %d, want %d", e.Version, writes)
	}
}

func TestG11_OwnWritesOnEveryNode(t *testing.T) {
	_, servers := socketServers(t)
	for i, s := range servers {
		c := s.join("own", `"watch":[{"keys":["*"]}]`)
		c.snapshot(1)
		for n := range 20 {
			key := fmt.Sprintf("n%d", i)
			id := c.send("put", fmt.Sprintf(`"key":%q,"value":%d`, key, n))
			get := c.send("get", fmt.Sprintf(`"key":%q`, key))
			var put struct{ Rev uint64 }
			c.decode(c.answer(id).OK, &put)
			if len(c.other) == 0 || c.other[len(c.other)-1].Rev < put.Rev {
				t.Fatalf("node %d answers %d before its event", i, put.Rev)
			}
			var got struct{ Entry wire.Entry }
			c.decode(c.answer(get).OK, &got)
			if got.Entry.Rev != put.Rev {
				t.Fatalf("node %d reads revision %d after writing %d", i, got.Entry.Rev, put.Rev)
			}
		}
	}
}

func TestSocket_PeersOfSeveralNodes(t *testing.T) {
	_, servers := socketServers(t)
	a, b := servers[0].join("nodes", ""), servers[1].join("nodes", "")
	t.Run("a lock goes from node to node", func(t *testing.T) {
		var grant struct{ Fence uint64 }
		a.must(&grant, "acquire", `"key":"pen"`)
		id := b.send("acquire", `"key":"pen","wait_ms":60000`)
		b.answer(id)
		a.must(nil, "release", fmt.Sprintf(`"key":"pen","fence":%d`, grant.Fence))
		var next struct{ Fence uint64 }
		if b.decode(b.answer(id).OK, &next); next.Fence <= grant.Fence {
			t.Errorf("fence %d after %d", next.Fence, grant.Fence)
		}
	})
	t.Run("a connection to another node replaces the older", func(t *testing.T) {
		newer := servers[2].join("nodes", a.resuming())
		if !newer.hello.PeerResumed {
			t.Errorf("hello %+v", newer.hello)
		}
		servers[0].wantClose(a, wire.CloseReplaced)
		newer.must(nil, "put", `"key":"k","value":1`)
	})
}

// The leader dies under a connection's writes: they take effect once, in the
// order sent, and their events come before their answers.
func TestSocket_OutlivesTheLeader(t *testing.T) {
	c, servers := socketServers(t)
	leader := c.Leader()
	k := servers[(leader+1)%3].join("kill", `"watch":[{"keys":["k"]}]`)
	m := &mirror{t: t}
	m.start(k.snapshot(1))
	const writes = 1_000
	go func() {
		for i := range writes {
			if k.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"id":%d,"do":"put","key":"k","value":%d}`, i+2, i)) != nil {
				return
			}
		}
	}()
	for answered := 0; answered < writes; {
		f := k.read()
		switch {
		case f.Events != nil:
			m.apply(f)
		case f.ID != 0:
			var put struct{ Version, Rev uint64 }
			k.decode(f.OK, &put)
			if f.Error != nil || f.ID != uint64(answered)+2 || put.Version != uint64(answered)+1 || put.Rev > m.rev {
				t.Fatalf("got %s after %d answers, with events up to %d", f.raw, answered, m.rev)
			}
			if answered++; answered == writes/3 {
				c.Kill(leader)
			}
		}
	}
	if e := m.entries["k"]; e.Version != writes || string(e.Value) != fmt.Sprint(writes-1) {
		t.Errorf("the last event is %+v", e)
	}
}
