package client

import (
	"context"
	"iter"
	"net/http"

	"conclave/client/wire"
)

// Servers answer lists in pages. The methods called All walk through all of them and
// yield what they find, one page in memory at a time; the last thing they yield is
// an error, if there is one. The pages may be of different revisions: what comes
// or goes during the walk may be missed, what stays is found once.

// PageParams select a page of a list.
type PageParams struct {
	After string // start with the first name greater than this: the Next of the page before
	Limit int    // items at most; 0 leaves it to the server
}

// PeersPage is a page of a room's peers, sorted by id. Next, unless empty, is the
// After of the next page.
type PeersPage struct {
	Peers []wire.Peer `json:"peers"`
	Next  string      `json:"next,omitempty"`
}

// LocksPage is a page of a room's locks, sorted by store and key. Next, unless
// empty, is the After of the next page.
type LocksPage struct {
	Locks []wire.Lock `json:"locks"`
	Next  string      `json:"next,omitempty"`
}

// walk yields the items of all pages.
func walk[T any](page func(after string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for after := ""; ; {
			items, next, err := page(after)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if after = next; after == "" {
				return
			}
		}
	}
}

// collect is all items of a walk, or its error.
func collect[T any](all iter.Seq2[T, error]) ([]T, error) {
	items := []T{} // not nil: JSON says [] of none
	for item, err := range all {
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// PeersPage reads a page of a room's peers.
func (h *HTTP) PeersPage(ctx context.Context, room string, p PageParams) (*PeersPage, error) {
	return getPage[PeersPage](ctx, h, roomPath(room, "peers"), "", p)
}

// AllPeers walks through the peers of a room.
func (h *HTTP) AllPeers(ctx context.Context, room string) iter.Seq2[wire.Peer, error] {
	return walk(func(after string) ([]wire.Peer, string, error) {
		page, err := h.PeersPage(ctx, room, PageParams{After: after})
		if err != nil {
			return nil, "", err
		}
		return page.Peers, page.Next, nil
	})
}

// LocksPage reads a page of a room's locks. A lock's name, of which prefix is the
// beginning, is <store>/<key>: "default/hand/" selects the keys hand/… of the
// default store.
func (h *HTTP) LocksPage(ctx context.Context, room, prefix string, p PageParams) (*LocksPage, error) {
	return getPage[LocksPage](ctx, h, roomPath(room, "locks"), prefix, p)
}

// AllLocks walks through the locks of a room whose names <store>/<key> start with
// prefix.
func (h *HTTP) AllLocks(ctx context.Context, room, prefix string) iter.Seq2[wire.Lock, error] {
	return walk(func(after string) ([]wire.Lock, string, error) {
		page, err := h.LocksPage(ctx, room, prefix, PageParams{After: after})
		if err != nil {
			return nil, "", err
		}
		return page.Locks, page.Next, nil
	})
}

// AllRooms walks through the rooms with a live session whose names start with
// prefix.
func (h *HTTP) AllRooms(ctx context.Context, prefix string) iter.Seq2[RoomSummary, error] {
	return walk(func(after string) ([]RoomSummary, string, error) {
		page, err := h.Rooms(ctx, prefix, after, 0)
		if err != nil {
			return nil, "", err
		}
		return page.Rooms, page.Next, nil
	})
}

// AllEntries walks through the entries that p selects; p.Limit is that of a page.
func (h *HTTP) AllEntries(ctx context.Context, room string, p ListParams) iter.Seq2[wire.Entry, error] {
	return allEntries(p, func(p ListParams) (*Entries, error) { return h.List(ctx, room, p) })
}

func getPage[T any](ctx context.Context, h *HTTP, path, prefix string, p PageParams) (*T, error) {
	c, err := newCall(http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	setString(c.query, "prefix", prefix)
	setString(c.query, "after", p.After)
	setNumber(c.query, "limit", p.Limit)
	return answer[T](ctx, h, c)
}

func allEntries(p ListParams, list func(ListParams) (*Entries, error)) iter.Seq2[wire.Entry, error] {
	from := p.After
	return walk(func(after string) ([]wire.Entry, string, error) {
		if p.After = after; after == "" {
			p.After = from
		}
		page, err := list(p)
		if err != nil {
			return nil, "", err
		}
		return page.Entries, page.Next, nil
	})
}

// paged is the request for a page over a socket.
type paged struct {
	Do     string `json:"do"`
	Prefix string `json:"prefix,omitempty"`
	After  string `json:"after,omitempty"`
	Limit  int    `json:"limit,omitempty"`
}

// PeersPage reads a page of the room's peers.
func (r *Room) PeersPage(ctx context.Context, p PageParams) (*PeersPage, error) {
	page := new(PeersPage)
	if err := r.query(ctx, "peers", paged{Do: "peers", After: p.After, Limit: p.Limit}, page); err != nil {
		return nil, err
	}
	return page, nil
}

// AllPeers walks through the peers of the room.
func (r *Room) AllPeers(ctx context.Context) iter.Seq2[wire.Peer, error] {
	return walk(func(after string) ([]wire.Peer, string, error) {
		page, err := r.PeersPage(ctx, PageParams{After: after})
		if err != nil {
			return nil, "", err
		}
		return page.Peers, page.Next, nil
	})
}

// LocksPage reads a page of the room's locks, as HTTP.LocksPage does.
func (r *Room) LocksPage(ctx context.Context, prefix string, p PageParams) (*LocksPage, error) {
	page := new(LocksPage)
	if err := r.query(ctx, "locks", paged{"locks", prefix, p.After, p.Limit}, page); err != nil {
		return nil, err
	}
	return page, nil
}

// AllLocks walks through the locks of the room whose names <store>/<key> start with
// prefix.
func (r *Room) AllLocks(ctx context.Context, prefix string) iter.Seq2[wire.Lock, error] {
	return walk(func(after string) ([]wire.Lock, string, error) {
		page, err := r.LocksPage(ctx, prefix, PageParams{After: after})
		if err != nil {
			return nil, "", err
		}
		return page.Locks, page.Next, nil
	})
}

// AllEntries walks through the entries that p selects; p.Limit is that of a page.
func (r *Room) AllEntries(ctx context.Context, p ListParams) iter.Seq2[wire.Entry, error] {
	return allEntries(p, func(p ListParams) (*Entries, error) { return r.List(ctx, p) })
}
