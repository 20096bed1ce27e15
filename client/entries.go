package client

import (
	"context"

	"conclave/client/wire"
)

// read is the body of the verbs that read.
type read struct {
	Do          string `json:"do"`
	Store       string `json:"store,omitempty"`
	Key         string `json:"key,omitempty"`
	Prefix      string `json:"prefix,omitempty"`
	After       string `json:"after,omitempty"`
	Limit       int    `json:"limit,omitempty"`
	Consistency string `json:"consistency,omitempty"`
	MinRev      uint64 `json:"min_rev,omitempty"`
}

// fresh says how fresh a read must be. A stale one never goes behind what the
// room has seen, in answers and in its stream, though it may be on another node
// by now, which lags (G11).
func (r *Room) fresh(q *read, stale bool, minRev uint64) {
	q.MinRev = minRev
	if !stale {
		return
	}
	q.Consistency = "stale"
	r.mu.Lock()
	q.MinRev = max(minRev, r.seen, r.stream.rev)
	r.mu.Unlock()
}

// saw notes a revision that an answer has shown.
func (r *Room) saw(rev uint64) {
	r.mu.Lock()
	r.seen = max(r.seen, rev)
	r.mu.Unlock()
}

// Get reads an entry. The error is not_found (IsNotFound) when the key is absent.
func (r *Room) Get(ctx context.Context, key string, opts ...ReadOption) (*wire.Entry, error) {
	var o readOptions
	for _, opt := range opts {
		opt.read(&o)
	}
	q := read{Do: "get", Store: o.store, Key: key}
	r.fresh(&q, o.stale, o.minRev)
	var ok wire.Got
	if err := r.query(ctx, "get", q, &ok); err != nil {
		return nil, err
	}
	r.saw(ok.Rev)
	if ok.Entry == nil {
		return nil, wire.Errorf(wire.NotFound, "no key %q in store %q", key, storeName(o.store))
	}
	return ok.Entry, nil
}

// List reads a page of a store, sorted by key.
func (r *Room) List(ctx context.Context, p ListParams) (*Entries, error) {
	q := read{Do: "list", Store: p.Store, Prefix: p.Prefix, After: p.After, Limit: p.Limit}
	r.fresh(&q, p.Stale, p.MinRev)
	page := new(Entries)
	if err := r.query(ctx, "list", q, page); err != nil {
		return nil, err
	}
	r.saw(page.Rev)
	return page, nil
}

// Put writes a value, which is encoded as JSON (a json.RawMessage as it is; nil
// is the value null). Without TTL and Bound it clears those of the entry.
func (r *Room) Put(ctx context.Context, key string, value any, opts ...WriteOption) (*Written, error) {
	op, err := newWrite("put", key, value, opts)
	if err != nil {
		return nil, err
	}
	w := new(Written)
	if err := r.simple(ctx, "put", op, w); err != nil {
		return nil, err
	}
	r.saw(w.Rev)
	return w, nil
}

// Delete deletes a key; deleting an absent one is no error.
func (r *Room) Delete(ctx context.Context, key string, opts ...WriteOption) (*Deleted, error) {
	op, err := newWrite("delete", key, nil, opts)
	if err != nil {
		return nil, err
	}
	d := new(Deleted)
	if err := r.simple(ctx, "delete", op, d); err != nil {
		return nil, err
	}
	r.saw(d.Rev)
	return d, nil
}

// Txn runs a transaction: all operations of one branch or none, at one revision.
// The constructors of conditions (RevIs, Absent, …) and operations (PutOp, …)
// help to write it.
func (r *Room) Txn(ctx context.Context, t wire.Txn) (*wire.TxnResult, error) {
	result := new(wire.TxnResult)
	err := r.simple(ctx, "txn", struct {
		Do string `json:"do"`
		wire.Txn
	}{"txn", t}, result)
	if err != nil {
		return nil, err
	}
	r.saw(result.Rev)
	return result, nil
}
