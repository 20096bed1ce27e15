package api

import (
	"context"
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"conclave/cluster/sim"
)

// httpServers are servers of the nodes of one real cluster, in real time.
func httpServers(t *testing.T) (*sim.Cluster, []*testServer) {
	t.Helper()
	c := sim.NewCluster(t, 3)
	var servers []*testServer
	for i := range 3 {
		s := &testServer{Server: New(Config{Version: "test"}, Of(c.Node(i))), t: t}
		s.http = httptest.NewServer(s.Handler())
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = s.Close(ctx) // a killed node cannot say goodbye
			s.http.Close()
		})
		servers = append(servers, s)
	}
	return c, servers
}

// line is how many wait for a lock, as this node has it.
func (s *testServer) line(key string) int {
	if sess := s.node.View().Session("r"); sess != nil {
		return sess.Lock("default", key).Waiting()
	}
	return 0
}

func TestHTTP_onThreeNodes(t *testing.T) {
	c, servers := httpServers(t)
	a, b, d := servers[0], servers[1], servers[2]
	a.open("r")

	t.Run("one request id, three nodes, one change", func(t *testing.T) {
		first := a.do("PUT", keys+"once", "1", "Idempotency-Key", "x").want(201)
		for _, s := range servers {
			if again := s.do("PUT", keys+"once", "1", "Idempotency-Key", "x").want(201); again.body != first.body {
				t.Errorf("got %s, first %s", again.body, first.body)
			}
		}
		if v := b.do("GET", keys+"once", "").want(200).number("version"); v != 1 {
			t.Errorf("applied %d times", v)
		}
	})
	t.Run("racing compare-and-set loses nothing", func(t *testing.T) {
		const each = 40
		a.do("PUT", keys+"count", "0").want(201)
		var all sync.WaitGroup
		for _, s := range servers {
			all.Go(func() {
				for done := 0; done < each; {
					got := s.do("GET", keys+"count", "")
					var n int
					if _, err := fmt.Sscan(fmt.Sprint(got.members()["value"]), &n); err != nil {
						t.Errorf("%s: %v", got.body, err)
						return
					}
					switch r := s.do("PUT", keys+"count", fmt.Sprint(n+1), "If-Match", got.header.Get("ETag")); r.status {
					case 200:
						done++
					case 412:
					default:
						t.Errorf("got %d %s", r.status, r.body)
						return
					}
				}
			})
		}
		all.Wait()
		if got := d.do("GET", keys+"count", "").want(200); got.number("value") != 3*each || got.number("version") != 3*each+1 {
			t.Errorf("got %s", got.body)
		}
	})
	t.Run("a write is read on any node with its revision", func(t *testing.T) {
		for n := range 20 {
			rev := servers[n%3].do("PUT", keys+"own", fmt.Sprint(n), "Idempotency-Key", fmt.Sprint("own", n)).number("rev")
			other := servers[(n+1)%3].do("GET", fmt.Sprintf("%sown?consistency=stale&min_rev=%d&raw", keys, rev), "").want(200)
			if other.body != fmt.Sprint(n) {
				t.Errorf("got %s, want %d", other.body, n)
			}
		}
	})
	t.Run("a lock is handed from node to node", func(t *testing.T) {
		fence := a.do("POST", locks+"pen", `{"owner":"a","ttl_ms":60000}`).want(200).number("fence")
		wait := b.later(context.Background(), "POST", locks+"pen", `{"owner":"b","ttl_ms":60000,"wait_ms":60000}`)
		waitFor(t, "the place in line", func() bool { return d.line("pen") == 1 })
		d.do("DELETE", fmt.Sprintf("%spen?fence=%d&owner=a", locks, fence), "").want(200)
		got := (<-wait).want(200)
		if got.number("fence") <= fence || got.number("expires_in_ms") > 60000 {
			t.Errorf("got %s after fence %d", got.body, fence)
		}
		if left := d.do("PUT", locks+"pen", fmt.Sprintf(`{"fence":%d,"owner":"b"}`, got.number("fence"))).want(200).number("expires_in_ms"); left > 60000 || left == 0 {
			t.Errorf("%d ms are left", left)
		}
	})
	t.Run("who waits at a node that dies is skipped", func(t *testing.T) {
		leader := c.Leader()
		dies, lives, asks := servers[(leader+1)%3], servers[(leader+2)%3], servers[leader]
		fence := asks.do("POST", locks+"mic", `{"owner":"a","ttl_ms":600000}`).want(200).number("fence")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		dies.later(ctx, "POST", locks+"mic", `{"owner":"dead","ttl_ms":600000,"wait_ms":600000}`)
		waitFor(t, "the first place in line", func() bool { return asks.line("mic") == 1 })
		wait := lives.later(context.Background(), "POST", locks+"mic", `{"owner":"alive","ttl_ms":600000,"wait_ms":600000}`)
		waitFor(t, "the second place in line", func() bool { return asks.line("mic") == 2 })
		c.Kill((leader + 1) % 3)
		waitFor(t, "the node to be given up", func() bool { return asks.line("mic") == 1 })
		asks.do("DELETE", fmt.Sprintf("%smic?fence=%d&owner=a", locks, fence), "").want(200)
		if got := (<-wait).want(200); got.text("owner") != "alive" {
			t.Errorf("got %s", got.body)
		}
	})
	t.Run("a node without a majority says so", func(t *testing.T) {
		leader := c.Leader()
		last := (leader + 1) % 3
		if c.Node(last) == nil {
			last = (leader + 2) % 3
		}
		c.Kill(leader)
		s := servers[last]
		for _, req := range [][]string{{"GET", keys + "once", ""}, {"PUT", keys + "once", "2"}, {"POST", locks + "pen", `{"ttl_ms":1000}`}} {
			r := s.do(req[0], req[1], req[2])
			if r.status != 503 && r.status != 504 {
				t.Errorf("%v: got %d %s", req, r.status, r.body)
			}
			if req[0] == "GET" {
				r.refused("unavailable")
			}
		}
		if got := s.do("GET", keys+"once?consistency=stale&raw", "").want(200); got.body != "1" {
			t.Errorf("got %s", got.body)
		}
		s.do("GET", "/v1/cluster", "").want(200)
		s.do("GET", "/readyz", "").want(503)
		s.do("GET", "/livez", "").want(200)
	})
}
