package client

import (
	"context"

	"conclave/client/wire"
)

// The writes of many keys of one store, each all or nothing and at one revision.
// They take InStore, and Fences or Under for the locked keys that they touch: a
// single one of those without its fence, and the whole is refused.

// Merge writes the keys of set and deletes those of remove, which need not be
// there. A key must not be in both.
func (r *Room) Merge(ctx context.Context, set map[string]any, remove []string, opts ...WriteOption) (rev uint64, err error) {
	data, err := encode("values of", "merge", members(set))
	if err != nil {
		return 0, err
	}
	return r.rewrite(ctx, &wire.Op{Do: "merge", Set: data, Delete: remove}, opts)
}

// Replace lets a store hold exactly data. Keys whose values are equal already are
// left alone, with their versions; a nil map empties the store.
func (r *Room) Replace(ctx context.Context, data map[string]any, opts ...WriteOption) (rev uint64, err error) {
	whole, err := encode("values of", "replace", members(data))
	if err != nil {
		return 0, err
	}
	return r.rewrite(ctx, &wire.Op{Do: "replace", Data: whole}, opts)
}

// DeletePrefix deletes all keys that start with prefix; that there are none is no
// error.
func (r *Room) DeletePrefix(ctx context.Context, prefix string, opts ...WriteOption) (*Deleted, error) {
	d := new(Deleted)
	if err := r.change(ctx, &wire.Op{Do: "delete", Prefix: &prefix}, opts, d); err != nil {
		return nil, err
	}
	r.saw(d.Rev)
	return d, nil
}

// rewrite runs a write of many keys whose answer is its revision.
func (r *Room) rewrite(ctx context.Context, op *wire.Op, opts []WriteOption) (uint64, error) {
	var ok wire.Done
	if err := r.change(ctx, op, opts, &ok); err != nil {
		return 0, err
	}
	r.saw(ok.Rev)
	return ok.Rev, nil
}

// members lets a nil map be what it is in Go: an empty one.
func members(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}
