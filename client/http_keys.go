package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"conclave/client/wire"
)

// RequestParams identify a write to a room and the session that it is meant for.
type RequestParams struct {
	Session string // refused with session_ended when that session is over; "" accepts the live one
	// IdempotencyKey makes repeating a write harmless: the servers apply it once
	// and remember the answer. "" draws one, which covers the retries of one call.
	IdempotencyKey string
}

// ReadParams say where and how fresh to read. The zero value is a linearizable
// read of the store "default".
type ReadParams struct {
	Store  string
	Stale  bool   // read the server's own copy, which may lag
	MinRev uint64 // wait until the server has applied this revision
}

// ListParams select a part of a store.
type ListParams struct {
	ReadParams
	Prefix string
	After  string // start with the first key greater than this
	Limit  int    // entries at most; 0 leaves it to the server
}

// WriteParams are the conditions and circumstances of a write. Set at most one
// of IfRev, IfVersion, IfAbsent and IfExists.
type WriteParams struct {
	RequestParams
	Store     string
	IfRev     *uint64 // the key's rev must be this one; 0 says absent
	IfVersion *uint64 // the key's version must be this one; 0 says absent
	IfAbsent  bool
	IfExists  bool
	Fence     uint64        // of the lock on the key, with
	Owner     string        // the name of its owner
	TTL       time.Duration // of the entry; 0 for none
	Bind      string        // the peer with which the entry goes
	// Open opens a session with that idle timeout if the room has none.
	Open time.Duration
}

// What is answered over HTTP and to a Room alike, as package wire has it.
type (
	Entries = wire.Entries // a page of a store
	Written = wire.Written // by a write of one key
	Deleted = wire.Deleted
)

// Get reads an entry; the error is not_found when the key is absent.
func (h *HTTP) Get(ctx context.Context, room, key string, p ReadParams) (*wire.Entry, error) {
	c, err := newCall(http.MethodGet, roomPath(room, "stores", storeName(p.Store), "keys", key), nil)
	if err != nil {
		return nil, err
	}
	p.set(c.query)
	return answer[wire.Entry](ctx, h, c)
}

// List reads a page of a store.
func (h *HTTP) List(ctx context.Context, room string, p ListParams) (*Entries, error) {
	c, err := newCall(http.MethodGet, roomPath(room, "stores", storeName(p.Store)), nil)
	if err != nil {
		return nil, err
	}
	p.set(c.query)
	setString(c.query, "prefix", p.Prefix)
	setString(c.query, "after", p.After)
	setNumber(c.query, "limit", p.Limit)
	return answer[Entries](ctx, h, c)
}

// Put writes a value, which is encoded as JSON (a json.RawMessage as it is).
func (h *HTTP) Put(ctx context.Context, room, key string, value any, p WriteParams) (*Written, error) {
	data, err := marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode value of %q: %w", key, err)
	}
	c, err := newCall(http.MethodPut, roomPath(room, "stores", storeName(p.Store), "keys", key), json.RawMessage(data))
	if err != nil {
		return nil, err
	}
	p.set(c)
	return answer[Written](ctx, h, c)
}

// Delete deletes a key; deleting an absent one is no error.
func (h *HTTP) Delete(ctx context.Context, room, key string, p WriteParams) (*Deleted, error) {
	c, err := newCall(http.MethodDelete, roomPath(room, "stores", storeName(p.Store), "keys", key), nil)
	if err != nil {
		return nil, err
	}
	p.set(c)
	return answer[Deleted](ctx, h, c)
}

// Txn runs a transaction. owner is in whose name its acquires and fences count.
func (h *HTTP) Txn(ctx context.Context, room string, t wire.Txn, owner string, p RequestParams) (*wire.TxnResult, error) {
	c, err := newCall(http.MethodPost, roomPath(room, "txn"), t)
	if err != nil {
		return nil, err
	}
	setString(c.query, "owner", owner)
	p.set(c)
	return answer[wire.TxnResult](ctx, h, c)
}

// set makes c a write to that session.
func (r RequestParams) set(c *call) {
	if r.Session != "" {
		c.header.Set("Conclave-Session", r.Session)
	}
	c.write(r.IdempotencyKey)
}

func (p ReadParams) set(q url.Values) {
	if p.Stale {
		q.Set("consistency", "stale")
	}
	setNumber(q, "min_rev", p.MinRev)
}

func (p WriteParams) set(c *call) {
	p.RequestParams.set(c)
	switch {
	case p.IfAbsent:
		c.header.Set("If-None-Match", "*")
	case p.IfExists:
		c.header.Set("If-Match", "*")
	case p.IfRev != nil && *p.IfRev == 0: // an entity tag names something that is there
		c.header.Set("If-None-Match", "*")
	case p.IfRev != nil:
		c.header.Set("If-Match", strconv.Quote(strconv.FormatUint(*p.IfRev, 10)))
	case p.IfVersion != nil:
		c.query.Set("if_version", strconv.FormatUint(*p.IfVersion, 10))
	}
	setNumber(c.query, "fence", p.Fence)
	setString(c.query, "owner", p.Owner)
	setMillis(c.query, "ttl_ms", p.TTL)
	setString(c.query, "bind", p.Bind)
	setMillis(c.query, "open_ms", p.Open)
}

// take adds what the options of a write ask for, as far as HTTP can say it.
func (p *WriteParams) take(op *wire.Op) error {
	if c := op.If; c != nil {
		if c.Value != nil {
			return wire.Errorf(wire.BadRequest, "a condition on the value needs a socket")
		}
		p.IfRev, p.IfVersion, p.IfAbsent, p.IfExists = c.Rev, c.Version, c.Absent, c.Exists
	}
	if op.Bind != nil {
		return wire.Errorf(wire.BadRequest, "only a peer can bind an entry to itself")
	}
	if op.Unique || op.Fences != nil {
		return wire.Errorf(wire.BadRequest, "%s takes neither Unique nor Fences", op.Do)
	}
	if op.TTLMs != nil {
		p.TTL = time.Duration(*op.TTLMs) * time.Millisecond
	}
	return nil
}

// storeName gives the store that an empty name means.
func storeName(store string) string {
	if store == "" {
		return "default"
	}
	return store
}
