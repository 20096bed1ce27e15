package client

import (
	"encoding/json"
	"fmt"
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

// PutOp writes a value. It panics if the value cannot be encoded as JSON: a
// program that may meet such a value encodes it itself and passes a
// json.RawMessage.
func PutOp(key string, value any) wire.Op {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("client: encode value of %q: %v", key, err))
	}
	return wire.Op{Do: "put", Key: key, Value: data}
}

// DeleteOp deletes a key, GetOp reads one.
func DeleteOp(key string) wire.Op { return wire.Op{Do: "delete", Key: key} }

// GetOp reads a key; its result has the entry, or null.
func GetOp(key string) wire.Op { return wire.Op{Do: "get", Key: key} }

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
