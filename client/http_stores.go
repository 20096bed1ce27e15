package client

import (
	"context"
	"fmt"
	"net/http"

	"conclave/client/wire"
)

// StoreParams are the circumstances of a write of many keys of a store. Where such
// a write touches locked keys, Txn can name their fences (MergeOp, ReplaceOp,
// DeletePrefixOp, with Fences set).
type StoreParams struct {
	RequestParams
	Store string
}

// Merge writes the keys of set and deletes those of remove, as Room.Merge does.
func (h *HTTP) Merge(ctx context.Context, room string, set map[string]any, remove []string, p StoreParams) (rev uint64, err error) {
	return h.rewrite(ctx, http.MethodPatch, room, struct {
		Set    map[string]any `json:"set"`
		Delete []string       `json:"delete,omitempty"`
	}{members(set), remove}, p)
}

// Replace lets a store hold exactly data, as Room.Replace does.
func (h *HTTP) Replace(ctx context.Context, room string, data map[string]any, p StoreParams) (rev uint64, err error) {
	return h.rewrite(ctx, http.MethodPut, room, members(data), p)
}

// DeletePrefix deletes all keys that start with prefix.
func (h *HTTP) DeletePrefix(ctx context.Context, room, prefix string, p StoreParams) (*Deleted, error) {
	op := DeletePrefixOp(prefix)
	op.Store = p.Store
	done, err := h.Txn(ctx, room, wire.Txn{Then: []wire.Op{op}}, "", p.RequestParams)
	if err != nil {
		return nil, err
	}
	if len(done.Results) != 1 || done.Results[0].Existed == nil {
		return nil, fmt.Errorf("answer to delete: %d results", len(done.Results))
	}
	return &Deleted{Existed: *done.Results[0].Existed, Rev: done.Rev}, nil
}

// rewrite runs a write of a whole store.
func (h *HTTP) rewrite(ctx context.Context, method, room string, body any, p StoreParams) (uint64, error) {
	c, err := newCall(method, roomPath(room, "stores", storeName(p.Store)), body)
	if err != nil {
		return 0, err
	}
	p.set(c)
	return revision(ctx, h, c)
}

// revision runs a call whose answer is its revision.
func revision(ctx context.Context, h *HTTP, c *call) (uint64, error) {
	ok, err := answer[wire.Done](ctx, h, c)
	if err != nil {
		return 0, err
	}
	return ok.Rev, nil
}
