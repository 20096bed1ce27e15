package client

import (
	"context"
	"net/http"
)

// The media types of a Patch (RFC 7396 and 6902).
const (
	mergePatch = "application/merge-patch+json"
	jsonPatch  = "application/json-patch+json"
)

// Update puts a value into what is there, as Room.Update does.
func (h *HTTP) Update(ctx context.Context, room, key string, value any, p WriteParams) (*Computed, error) {
	return h.Patch(ctx, room, key, "application/json", map[string]any{"update": value}, p)
}

// Append puts items, a slice, at the end of an array, as Room.Append does; with
// unique only those that it does not have.
func (h *HTTP) Append(ctx context.Context, room, key string, items any, unique bool, p WriteParams) (*Computed, error) {
	body, err := itemsOf("append", key, items)
	if err != nil {
		return nil, err
	}
	if unique {
		body["unique"] = true
	}
	return h.Patch(ctx, room, key, "application/json", body, p)
}

// Remove takes items out of an array, as Room.Remove does.
func (h *HTTP) Remove(ctx context.Context, room, key string, items any, p WriteParams) (*Computed, error) {
	body, err := itemsOf("remove", key, items)
	if err != nil {
		return nil, err
	}
	return h.Patch(ctx, room, key, "application/json", body, p)
}

func itemsOf(do, key string, items any) (map[string]any, error) {
	data, err := encode("items of", key, items)
	if err != nil {
		return nil, err
	}
	return map[string]any{do: array(data)}, nil
}

// Add adds to a number, as Room.Add does.
func (h *HTTP) Add(ctx context.Context, room, key string, by any, p WriteParams) (*Computed, error) {
	return h.Patch(ctx, room, key, "application/json", map[string]any{"add": by}, p)
}

// MergePatch applies an RFC 7396 patch, as Room.MergePatch does.
func (h *HTTP) MergePatch(ctx context.Context, room, key string, patch any, p WriteParams) (*Computed, error) {
	return h.Patch(ctx, room, key, mergePatch, patch, p)
}

// JSONPatch applies an RFC 6902 patch, a slice of operations, as Room.JSONPatch
// does.
func (h *HTTP) JSONPatch(ctx context.Context, room, key string, ops any, p WriteParams) (*Computed, error) {
	return h.Patch(ctx, room, key, jsonPatch, ops, p)
}

// Patch is what the methods above come to: a patch of one of the protocol's media
// types.
func (h *HTTP) Patch(ctx context.Context, room, key, contentType string, patch any, p WriteParams) (*Computed, error) {
	data, err := encode("patch of", key, patch)
	if err != nil {
		return nil, err
	}
	c, err := newCall(http.MethodPatch, roomPath(room, "stores", storeName(p.Store), "keys", key), data)
	if err != nil {
		return nil, err
	}
	c.header.Set("Content-Type", contentType)
	p.set(c)
	return answer[Computed](ctx, h, c)
}
