package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"conclave/client/wire"
)

// pages walks a list over HTTP and returns the names of its items; names reads those
// of one page.
func (s *testServer) pages(path string, limit int, names func(body string) (page []string, next string)) (all []string) {
	s.t.Helper()
	for after := ""; ; {
		q := url.Values{"limit": {fmt.Sprint(limit)}}
		if after != "" {
			q.Set("after", after)
		}
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		page, next := names(s.do("GET", path+sep+q.Encode(), "").want(200).body)
		if len(page) == 0 || len(page) > limit || next != "" && next != page[len(page)-1] {
			s.t.Fatalf("a page of %v, then %q", page, next)
		}
		all = append(all, page...)
		if after = next; after == "" {
			return all
		}
	}
}

func TestPages_peers(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	var want []string
	for range 25 {
		want = append(want, s.do("POST", peers, `{"ttl_ms":1000000}`).want(201).text("peer"))
	}
	slices.Sort(want)
	names := func(body string) (page []string, next string) {
		var got struct {
			Peers []wire.Peer
			Next  string
		}
		decodeInto(t, body, &got)
		for _, p := range got.Peers {
			page = append(page, p.Peer)
		}
		return page, got.Next
	}
	for _, limit := range []int{1, 7, 24, 25, 1000} {
		if got := s.pages(peers, limit, names); !slices.Equal(got, want) {
			t.Errorf("by %d: got %v, want %v", limit, got, want)
		}
	}
	if got := s.do("GET", peers+"?after=zzz", "").want(200); got.body != `{"peers":[]}` {
		t.Errorf("after the last: %s", got.body)
	}
	for query, field := range map[string]string{"limit=0": "limit", "limit=1001": "limit", "prefix=p": "prefix", "page=2": "page"} {
		if d := s.do("GET", peers+"?"+query, "").refused("bad_request"); d["field"] != field {
			t.Errorf("%s: %v", query, d)
		}
	}
}

func TestPages_locks(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	var want []string
	for _, name := range []string{"a/x", "a/x/y", "ab/k", "default/a b", "default/hand/1", "default/hand/2", "default/pen"} {
		store, key, _ := strings.Cut(name, "/")
		s.do("POST", "/v1/rooms/r/locks/"+store+"/"+url.PathEscape(key), `{"ttl_ms":1000000,"owner":"o"}`).want(200)
		want = append(want, name)
	}
	names := func(body string) (page []string, next string) {
		var got struct {
			Locks []wire.Lock
			Next  string
		}
		decodeInto(t, body, &got)
		for _, l := range got.Locks {
			page = append(page, l.Store+"/"+l.Key)
			if len(l.Holders) != 1 || l.Holders[0].ExpiresInMs == nil {
				t.Errorf("no time left: %s", body)
			}
		}
		return page, got.Next
	}
	for _, limit := range []int{1, 2, 6, 7, 1000} {
		if got := s.pages("/v1/rooms/r/locks", limit, names); !slices.Equal(got, want) {
			t.Errorf("by %d: got %v, want %v", limit, got, want)
		}
	}
	for prefix, part := range map[string][]string{"a/": want[:2], "a": want[:3], "default/hand/": want[4:6], "default/": want[3:]} {
		if got := s.pages("/v1/rooms/r/locks?prefix="+prefix, 2, names); !slices.Equal(got, part) {
			t.Errorf("prefix %s: got %v, want %v", prefix, got, part)
		}
	}
	s.do("GET", "/v1/rooms/r/locks?limit=x", "").refused("bad_request")
	s.do("GET", "/v1/rooms/r/locks?store=a", "").refused("bad_request")
}

func TestPages_rooms(t *testing.T) {
	s := newTestServer(t, Config{})
	want := []string{"r-a", "r-b", "r-b1", "s"}
	for _, room := range want {
		s.open(room)
	}
	names := func(body string) (page []string, next string) {
		var got struct {
			Rooms []struct{ Room string }
			Next  string
		}
		decodeInto(t, body, &got)
		for _, r := range got.Rooms {
			page = append(page, r.Room)
		}
		return page, got.Next
	}
	for _, limit := range []int{1, 3, 4, 5} {
		if got := s.pages("/v1/rooms", limit, names); !slices.Equal(got, want) {
			t.Errorf("by %d: got %v", limit, got)
		}
	}
	if got := s.pages("/v1/rooms?prefix=r-", 2, names); !slices.Equal(got, want[:3]) {
		t.Errorf("got %v", got)
	}
}

// A page ends after a megabyte, however many items it may have.
func TestPages_endByBytes(t *testing.T) {
	g := page{limit: 10}.begin(nil)
	big := strings.Repeat("x", maxPageBytes)
	item := func(b []byte) []byte { return appendString(b, big) }
	if !g.add("a", item) || g.add("b", item) || g.items != 1 {
		t.Errorf("%d items", g.items)
	}
	if got := string(g.end()); !strings.HasSuffix(got, `"],"next":"a"`) {
		t.Errorf("ends in %s", got[len(got)-20:])
	}
}

func TestPages_overSockets(t *testing.T) {
	s := newSocketServer(t, Config{})
	c := s.join("pages", "")
	want := []string{c.hello.Peer}
	for range 4 {
		want = append(want, s.join("pages", "").hello.Peer)
	}
	slices.Sort(want)
	for _, key := range []string{"a", "b/1", "b/2"} {
		c.must(nil, "acquire", fmt.Sprintf(`"key":%q,"ttl_ms":60000`, key))
	}
	var got []string
	after := ""
	for range want {
		var page struct {
			Peers []wire.Peer
			Next  string
			Rev   uint64
		}
		c.must(&page, "peers", fmt.Sprintf(`"limit":2,"after":%q`, after))
		for _, p := range page.Peers {
			got = append(got, p.Peer)
		}
		if len(page.Peers) > 2 || page.Rev == 0 {
			t.Errorf("got %+v", page)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var page struct {
		Locks []wire.Lock
		Next  string
	}
	c.must(&page, "locks", `"limit":1,"prefix":"default/b/"`)
	if len(page.Locks) != 1 || page.Locks[0].Key != "b/1" || page.Next != "default/b/1" {
		t.Errorf("got %+v", page)
	}
	page.Next = ""
	c.must(&page, "locks", `"limit":1,"prefix":"default/b/","after":"default/b/1"`)
	if len(page.Locks) != 1 || page.Locks[0].Key != "b/2" || page.Next != "" {
		t.Errorf("got %+v", page)
	}
	for do, members := range map[string]string{"peers": `"limit":0`, "locks": `"limit":1001`} {
		if e := c.fails(wire.BadRequest, do, members); e.Details["field"] != "limit" {
			t.Errorf("%s: %v", do, e.Details)
		}
	}
	c.fails(wire.BadRequest, "peers", `"prefix":"p"`)
	c.fails(wire.BadRequest, "locks", `"key":"a","limit":1`)
}
