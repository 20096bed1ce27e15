package client

import (
	"context"
	"encoding/json"

	"conclave/client/wire"
)

// The writes that compute. The servers make the new value out of the one that is
// there when the write takes effect, so that of two at once neither loses what
// the other does, and no caller has to read, compare and try again. They keep the
// TTL and the binding of the entry unless TTL or Bound say otherwise.

// Computed is the answer to a write that computes: the value as it is now.
type Computed struct {
	Value json.RawMessage `json:"value"`
	Written
}

// Update puts value into what is there: the items of an array at the end of an
// array, the members of an object over those of an object (not those further
// down). Anything else it replaces, and what is absent it creates.
func (r *Room) Update(ctx context.Context, key string, value any, opts ...WriteOption) (*Computed, error) {
	data, err := encode("value of", key, value)
	if err != nil {
		return nil, err
	}
	return r.compute(ctx, &wire.Op{Do: "update", Key: key, Value: data}, opts)
}

// Append puts items, a slice, at the end of an array; with Unique only those that
// it does not have. What is absent counts as empty, what is no array is refused
// with wrong_type.
func (r *Room) Append(ctx context.Context, key string, items any, opts ...WriteOption) (*Computed, error) {
	data, err := encode("items of", key, items)
	if err != nil {
		return nil, err
	}
	return r.compute(ctx, &wire.Op{Do: "append", Key: key, Values: array(data)}, opts)
}

// Remove takes all items out of an array that are equal, as JSON, to one of items,
// a slice.
func (r *Room) Remove(ctx context.Context, key string, items any, opts ...WriteOption) (*Computed, error) {
	data, err := encode("items of", key, items)
	if err != nil {
		return nil, err
	}
	return r.compute(ctx, &wire.Op{Do: "remove", Key: key, Values: array(data)}, opts)
}

// Add adds by, a Go number or a json.Number, to a number; what is absent counts as
// 0. The servers count exactly, in decimals; a program that decodes the sum into
// a float64 sees integers beyond 2^53 rounded.
func (r *Room) Add(ctx context.Context, key string, by any, opts ...WriteOption) (*Computed, error) {
	data, err := encode("number for", key, by)
	if err != nil {
		return nil, err
	}
	return r.compute(ctx, &wire.Op{Do: "add", Key: key, By: data}, opts)
}

// MergePatch applies a JSON merge patch (RFC 7396): members of objects at any depth
// are set, and those that the patch has as null are taken out.
func (r *Room) MergePatch(ctx context.Context, key string, patch any, opts ...WriteOption) (*Computed, error) {
	data, err := encode("patch of", key, patch)
	if err != nil {
		return nil, err
	}
	return r.compute(ctx, &wire.Op{Do: "patch", Key: key, Merge: data}, opts)
}

// JSONPatch applies a JSON patch (RFC 6902), a slice of operations: all of them or,
// with a conflict if a test fails or a place is not there, none.
func (r *Room) JSONPatch(ctx context.Context, key string, ops any, opts ...WriteOption) (*Computed, error) {
	data, err := encode("patch of", key, ops)
	if err != nil {
		return nil, err
	}
	return r.compute(ctx, &wire.Op{Do: "patch", Key: key, Ops: data}, opts)
}

// compute runs a write that computes.
func (r *Room) compute(ctx context.Context, op *wire.Op, opts []WriteOption) (*Computed, error) {
	c := new(Computed)
	if err := r.change(ctx, op, opts, c); err != nil {
		return nil, err
	}
	r.saw(c.Rev)
	return c, nil
}

// change runs a write of one verb with its options.
func (r *Room) change(ctx context.Context, op *wire.Op, opts []WriteOption, out any) error {
	if err := apply(op, opts); err != nil {
		return err
	}
	return r.simple(ctx, op.Do, op, out)
}

// array lets a nil slice be what it is in Go: an empty one.
func array(items json.RawMessage) json.RawMessage {
	if string(items) == "null" {
		return json.RawMessage("[]")
	}
	return items
}
