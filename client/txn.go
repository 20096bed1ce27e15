package client

import (
	"encoding/json"
	"time"

	"conclave/client/wire"
)

// Conditions and operations of a transaction, in the store "default"; set Store
// on what they return for another. Lock.Cond is the condition that a lock is held.

// RevIs holds if the key's rev is this one; an absent key has rev 0.
func RevIs(key string, rev uint64) wire.Cond {
	return wire.Cond{Key: key, If: wire.If{Rev: &rev}}
}

// VersionIs holds if the key's version is this one; an absent key has version 0.
func VersionIs(key string, version uint64) wire.Cond {
	return wire.Cond{Key: key, If: wire.If{Version: &version}}
}

// Absent holds if the key is absent, Exists if it is there.
func Absent(key string) wire.Cond { return wire.Cond{Key: key, If: wire.If{Absent: true}} }

// Exists holds if the key is there.
func Exists(key string) wire.Cond { return wire.Cond{Key: key, If: wire.If{Exists: true}} }

// SessionIs holds if this is the room's session.
func SessionIs(session string) wire.Cond { return wire.Cond{Session: session} }

// PutOp writes a value. Like all operations it panics if what it is given cannot
// be encoded as JSON: a program that may meet such a value encodes it itself and
// passes a json.RawMessage.
func PutOp(key string, value any) wire.Op {
	return wire.Op{Do: "put", Key: key, Value: must("value of", key, value)}
}

// DeleteOp deletes a key, GetOp reads one.
func DeleteOp(key string) wire.Op { return wire.Op{Do: "delete", Key: key} }

// GetOp reads a key; its result has the entry, or null.
func GetOp(key string) wire.Op { return wire.Op{Do: "get", Key: key} }

// UpdateOp adds to a value, as Room.Update does.
func UpdateOp(key string, value any) wire.Op {
	return wire.Op{Do: "update", Key: key, Value: must("value of", key, value)}
}

// AppendOp adds items to an array, as Room.Append does; set Unique on it to add
// only new ones.
func AppendOp(key string, items any) wire.Op {
	return wire.Op{Do: "append", Key: key, Values: array(must("items of", key, items))}
}

// RemoveOp takes items out of an array, as Room.Remove does.
func RemoveOp(key string, items any) wire.Op {
	return wire.Op{Do: "remove", Key: key, Values: array(must("items of", key, items))}
}

// AddOp adds to a number, as Room.Add does.
func AddOp(key string, by any) wire.Op {
	return wire.Op{Do: "add", Key: key, By: must("number for", key, by)}
}

// MergePatchOp patches a value by RFC 7396, as Room.MergePatch does.
func MergePatchOp(key string, patch any) wire.Op {
	return wire.Op{Do: "patch", Key: key, Merge: must("patch of", key, patch)}
}

// JSONPatchOp patches a value by RFC 6902, as Room.JSONPatch does.
func JSONPatchOp(key string, ops any) wire.Op {
	return wire.Op{Do: "patch", Key: key, Ops: must("patch of", key, ops)}
}

// MergeOp writes some keys and deletes others, as Room.Merge does.
func MergeOp(set map[string]any, remove ...string) wire.Op {
	return wire.Op{Do: "merge", Set: must("values of", "merge", members(set)), Delete: remove}
}

// ReplaceOp gives a store new content, as Room.Replace does.
func ReplaceOp(data map[string]any) wire.Op {
	return wire.Op{Do: "replace", Data: must("values of", "replace", members(data))}
}

// DeletePrefixOp deletes all keys that start with prefix.
func DeletePrefixOp(prefix string) wire.Op { return wire.Op{Do: "delete", Prefix: &prefix} }

// SendOp sends a message to everybody, as Room.Send does; set To and Echo on it
// for others.
func SendOp(topic string, data any) wire.Op {
	return wire.Op{Do: "send", Topic: topic, Data: must("message on", topic, data)}
}

// AcquireOp takes a lock without waiting; its result has the fence. The caller
// renews it. A ttl of 0 binds the lock to the peer.
func AcquireOp(key string, ttl time.Duration) wire.Op {
	op := wire.Op{Do: "acquire", Key: key}
	if ms := ttl.Milliseconds(); ms != 0 {
		op.TTLMs = &ms
	}
	return op
}

// ReleaseOp gives a lock back that was taken with a fence.
func ReleaseOp(key string, fence uint64) wire.Op {
	return wire.Op{Do: "release", Key: key, Fence: &fence}
}

// must is encode for what a program knows to be encodable.
func must(what, name string, v any) json.RawMessage {
	data, err := encode(what, name, v)
	if err != nil {
		panic("client: " + err.Error())
	}
	return data
}
