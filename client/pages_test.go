package client

import (
	"errors"
	"slices"
	"testing"

	"conclave/client/wire"
)

func TestWalk_goes_through_all_pages_and_stops_when_told(t *testing.T) {
	var asked []string
	type page struct {
		items []int
		next  string
	}
	of := func(p *page) ([]int, string) { return p.items, p.next }
	list := func(after string) (*page, error) {
		asked = append(asked, after)
		switch after {
		case "":
			return &page{[]int{1, 2}, "b"}, nil
		case "b":
			return &page{nil, "c"}, nil // a page may turn out empty
		case "c":
			return &page{[]int{3}, ""}, nil
		}
		return nil, errors.New("no such page")
	}
	if got, err := collect(walk("", list, of)); err != nil || !slices.Equal(got, []int{1, 2, 3}) || !slices.Equal(asked, []string{"", "b", "c"}) {
		t.Errorf("got %v, %v after asking for %q", got, err, asked)
	}
	asked = nil
	for n := range walk("", list, of) {
		if n == 1 {
			break
		}
	}
	if len(asked) != 1 {
		t.Errorf("asked for %q", asked)
	}
	broken := errors.New("broken")
	got, err := collect(walk("", func(after string) (*page, error) {
		if after == "" {
			return &page{[]int{1}, "b"}, nil
		}
		return nil, broken
	}, of))
	if got != nil || !errors.Is(err, broken) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestRoom_asks_for_pages(t *testing.T) {
	inBubble(t, func(t *testing.T, s *scripted, c *Client) {
		r, k := s.join(c, JoinOptions{})
		peers := async(func() ([]wire.Peer, error) { return r.Peers(t.Context()) })
		for _, page := range []struct{ asked, answer string }{
			{`{"do":"peers"}`, `{"peers":[{"peer":"p1"}],"next":"p1","rev":5}`},
			{`{"do":"peers","after":"p1"}`, `{"peers":[{"peer":"p2"}],"rev":6}`},
		} {
			m := k.next("peers")
			if m.body != page.asked {
				t.Errorf("sent %s, want %s", m.body, page.asked)
			}
			k.ok(m, page.answer)
		}
		if got, err := peers.wait(); err != nil || len(got) != 2 || got[1].Peer != "p2" {
			t.Errorf("got %+v, %v", got, err)
		}
		locks := async(func() (*LocksPage, error) {
			return r.LocksPage(t.Context(), "default/hand/", PageParams{After: "default/hand/1", Limit: 2})
		})
		m := k.next("locks")
		if want := `{"do":"locks","prefix":"default/hand/","after":"default/hand/1","limit":2}`; m.body != want {
			t.Errorf("sent %s, want %s", m.body, want)
		}
		k.ok(m, `{"locks":[],"rev":6}`)
		if got, err := locks.wait(); err != nil || got.Next != "" {
			t.Errorf("got %+v, %v", got, err)
		}
		entries := async(func() ([]wire.Entry, error) {
			return collect(r.AllEntries(t.Context(), ListParams{After: "a", Limit: 1}))
		})
		for _, page := range []struct{ asked, answer string }{
			{`{"do":"list","after":"a","limit":1}`, `{"entries":[{"key":"b"}],"next":"b","rev":7}`},
			{`{"do":"list","after":"b","limit":1}`, `{"entries":[{"key":"c"}],"rev":7}`},
		} {
			m := k.next("list")
			if m.body != page.asked {
				t.Errorf("sent %s, want %s", m.body, page.asked)
			}
			k.ok(m, page.answer)
		}
		if got, err := entries.wait(); err != nil || len(got) != 2 {
			t.Errorf("got %+v, %v", got, err)
		}
		k.leave(r)
	})
}
