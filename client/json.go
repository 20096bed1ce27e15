package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
)

// GetAs reads an entry's value into a T. rev is the entry's; an absent key gives
// the zero T and rev 0, which IfRev takes for "absent".
func GetAs[T any](ctx context.Context, r *Room, key string, opts ...ReadOption) (value T, rev uint64, err error) {
	entry, err := r.Get(ctx, key, opts...)
	if IsNotFound(err) {
		return value, 0, nil
	}
	if err != nil {
		return value, 0, err
	}
	if err := json.Unmarshal(entry.Value, &value); err != nil {
		return value, 0, fmt.Errorf("value of %q: %w", key, err)
	}
	return value, entry.Rev, nil
}

// Modify changes a value by compare-and-set: it reads it, has change make the new
// one, and writes that if nobody was faster; else from the start. change gets the
// zero T for an absent key, may be called several times, and ends the loop with
// an error. ctx bounds the attempts.
//
// The write is sent with the options, to which Modify adds the condition; an
// InStore among them holds for the read, too.
func Modify[T any](ctx context.Context, r *Room, key string, change func(T) (T, error), opts ...WriteOption) (T, error) {
	for {
		value, rev, err := GetAs[T](ctx, r, key, storeOf(opts)...)
		if err != nil {
			return value, err
		}
		if value, err = change(value); err != nil {
			return value, err
		}
		_, err = r.Put(ctx, key, value, append(opts[:len(opts):len(opts)], IfRev(rev))...)
		if err == nil || !IsConflict(err) {
			return value, err
		}
	}
}

// storeOf are the options of a write that say something to a read as well.
func storeOf(opts []WriteOption) (reads []ReadOption) {
	for _, o := range opts {
		if both, ok := o.(ReadOption); ok {
			reads = append(reads, both)
		}
	}
	return reads
}

// marshal encodes as encoding/json does, but leaves <, > and & as they are: the
// store keeps the bytes that it is sent.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
