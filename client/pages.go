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

// PeersPage is a page of a room's peers, sorted by id, LocksPage one of its locks,
// sorted by store and key. Next, unless empty, is the After of the next page.
type (
	PeersPage = wire.Peers
	LocksPage = wire.Locks
)

// The items of a page, and where the next one starts.
func peersOf(p *PeersPage) ([]wire.Peer, string)   { return p.Peers, p.Next }
func locksOf(p *LocksPage) ([]wire.Lock, string)   { return p.Locks, p.Next }
func roomsOf(p *RoomsPage) ([]RoomSummary, string) { return p.Rooms, p.Next }
func entriesOf(p *Entries) ([]wire.Entry, string)  { return p.Entries, p.Next }

// walk yields the items of all pages, from the first name greater than after.
func walk[P, T any](after string, page func(after string) (*P, error), of func(*P) (items []T, next string)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for after := after; ; {
			p, err := page(after)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			items, next := of(p)
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
	return walk("", func(after string) (*PeersPage, error) {
		return h.PeersPage(ctx, room, PageParams{After: after})
	}, peersOf)
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
	return walk("", func(after string) (*LocksPage, error) {
		return h.LocksPage(ctx, room, prefix, PageParams{After: after})
	}, locksOf)
}

// AllRooms walks through the rooms with a live session whose names start with
// prefix.
func (h *HTTP) AllRooms(ctx context.Context, prefix string) iter.Seq2[RoomSummary, error] {
	return walk("", func(after string) (*RoomsPage, error) {
		return h.Rooms(ctx, prefix, after, 0)
	}, roomsOf)
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
	return walk(p.After, func(after string) (*Entries, error) {
		p := p
		p.After = after
		return list(p)
	}, entriesOf)
}

// PeersPage reads a page of the room's peers.
func (r *Room) PeersPage(ctx context.Context, p PageParams) (*PeersPage, error) {
	page := new(PeersPage)
	if err := r.query(ctx, "peers", read{Do: "peers", After: p.After, Limit: p.Limit}, page); err != nil {
		return nil, err
	}
	return page, nil
}

// AllPeers walks through the peers of the room.
func (r *Room) AllPeers(ctx context.Context) iter.Seq2[wire.Peer, error] {
	return walk("", func(after string) (*PeersPage, error) {
		return r.PeersPage(ctx, PageParams{After: after})
	}, peersOf)
}

// LocksPage reads a page of the room's locks, as HTTP.LocksPage does.
func (r *Room) LocksPage(ctx context.Context, prefix string, p PageParams) (*LocksPage, error) {
	page := new(LocksPage)
	if err := r.query(ctx, "locks", read{Do: "locks", Prefix: prefix, After: p.After, Limit: p.Limit}, page); err != nil {
		return nil, err
	}
	return page, nil
}

// AllLocks walks through the locks of the room whose names <store>/<key> start with
// prefix.
func (r *Room) AllLocks(ctx context.Context, prefix string) iter.Seq2[wire.Lock, error] {
	return walk("", func(after string) (*LocksPage, error) {
		return r.LocksPage(ctx, prefix, PageParams{After: after})
	}, locksOf)
}

// AllEntries walks through the entries that p selects; p.Limit is that of a page.
func (r *Room) AllEntries(ctx context.Context, p ListParams) iter.Seq2[wire.Entry, error] {
	return allEntries(p, func(p ListParams) (*Entries, error) { return r.List(ctx, p) })
}
