package client

import (
	"context"
	"net/http"
	"time"

	"conclave/client/wire"
)

// What the servers answer, as package wire has it.
type (
	ServerInfo  = wire.ServerInfo
	RoomInfo    = wire.Room        // the live session of a room
	RoomSummary = wire.RoomSummary // as the list of rooms shows it
	RoomsPage   = wire.Rooms
	StoreInfo   = wire.StoreInfo
)

// OpenParams are the numbers and the first content of a session, with a resolution
// of 1 ms. What is zero or nil is as the profile and the server say; a Grace or a
// Linger of 0 means none at all.
type OpenParams struct {
	Profile string
	Linger  *time.Duration
	Grace   *time.Duration
	Idle    time.Duration
	Stores  map[string]map[string]any // store, key, value
}

// Info asks a server who it is.
func (h *HTTP) Info(ctx context.Context) (*ServerInfo, error) {
	return get[ServerInfo](ctx, h, "/v1")
}

// Rooms lists rooms with a live session whose names start with prefix, sorted,
// from the first name greater than after. limit 0 leaves the page size to the
// server.
func (h *HTTP) Rooms(ctx context.Context, prefix, after string, limit int) (*RoomsPage, error) {
	return getPage[RoomsPage](ctx, h, "/v1/rooms", prefix, PageParams{After: after, Limit: limit})
}

// Room describes a room's live session; the error is no_session when it has none.
func (h *HTTP) Room(ctx context.Context, room string) (*RoomInfo, error) {
	return get[RoomInfo](ctx, h, roomPath(room))
}

// OpenRoom opens a session before any peer joins, with its first content, all at
// once. A session that is open already stays as it is.
func (h *HTTP) OpenRoom(ctx context.Context, room string, p OpenParams) (*RoomInfo, error) {
	body := struct {
		Profile string                    `json:"profile,omitempty"`
		Linger  *int64                    `json:"linger_ms,omitempty"`
		Grace   *int64                    `json:"grace_ms,omitempty"`
		Idle    int64                     `json:"idle_timeout_ms,omitempty"`
		Stores  map[string]map[string]any `json:"stores,omitempty"`
	}{p.Profile, milliseconds(p.Linger), milliseconds(p.Grace), p.Idle.Milliseconds(), p.Stores}
	c, err := newCall(http.MethodPut, roomPath(room), body)
	if err != nil {
		return nil, err
	}
	return answer[RoomInfo](ctx, h, c.write(""))
}

// milliseconds is a duration as the protocol has it, nil for one that is not given.
func milliseconds(d *time.Duration) *int64 {
	if d == nil {
		return nil
	}
	ms := d.Milliseconds()
	return &ms
}

// EndRoom ends a room's session now. session, unless empty, names the one that
// is meant; another one is left alone with session_ended.
func (h *HTTP) EndRoom(ctx context.Context, room, session string) error {
	c, err := newCall(http.MethodDelete, roomPath(room), nil)
	if err != nil {
		return err
	}
	if session != "" {
		c.header.Set("Conclave-Session", session)
	}
	return h.do(ctx, c.write(""), nil)
}

// Stores lists the stores of a room.
func (h *HTTP) Stores(ctx context.Context, room string) ([]StoreInfo, error) {
	page, err := get[wire.Stores](ctx, h, roomPath(room, "stores"))
	if err != nil {
		return nil, err
	}
	return page.Stores, nil
}

// get answers a plain GET.
func get[T any](ctx context.Context, h *HTTP, path string) (*T, error) {
	c, err := newCall(http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return answer[T](ctx, h, c)
}

// answer runs a call and decodes its answer.
func answer[T any](ctx context.Context, h *HTTP, c *call) (*T, error) {
	out := new(T)
	if err := h.do(ctx, c, out); err != nil {
		return nil, err
	}
	return out, nil
}
