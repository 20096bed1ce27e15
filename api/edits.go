package api

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"conclave/fsm"
)

// The members of the verbs that compute a value from the one that is there, and of
// those that change several keys of a store. Only their form is decided here: what
// comes of them depends on the state, so the state machine computes it.

// computation takes what update, append, remove, add and patch compute with.
func (o *object) computation(do string, op *fsm.Operation) {
	switch do {
	case "update":
		op.Kind, op.Value = fsm.OpUpdate, o.required("value")
	case "append":
		op.Kind, op.Value, op.Unique = fsm.OpAppend, o.items("values"), o.flag("unique")
	case "remove":
		op.Kind, op.Value = fsm.OpRemove, o.items("values")
	case "add":
		op.Kind, op.Value = fsm.OpAdd, o.numeral("by")
	case "patch":
		op.Kind = fsm.OpPatch
		if o.has("merge") == o.has("ops") {
			o.refuse("merge", "or ops must be there, and not both")
		}
		if op.Steps = o.has("ops"); op.Steps {
			op.Value = o.items("ops")
		} else {
			op.Value = o.raw("merge")
		}
	}
}

// keyPatch takes the body that has one computation, named by its verb.
func (o *object) keyPatch(op *fsm.Operation) {
	switch {
	case o.has("update"):
		op.Kind, op.Value = fsm.OpUpdate, o.raw("update")
	case o.has("append"):
		op.Kind, op.Value, op.Unique = fsm.OpAppend, o.items("append"), o.flag("unique")
	case o.has("remove"):
		op.Kind, op.Value = fsm.OpRemove, o.items("remove")
	case o.has("add"):
		op.Kind, op.Value = fsm.OpAdd, o.numeral("add")
	default:
		o.refuse("body", "must have one of update, append, remove, add")
	}
}

// items takes an array that must be there, as it is.
func (o *object) items(name string) []byte {
	raw := o.required(name)
	if raw != nil && raw[0] != '[' {
		o.refuse(name, "must be an array")
	}
	return raw
}

// numeral takes a number that must be there, digit by digit.
func (o *object) numeral(name string) []byte {
	raw := o.required(name)
	if raw != nil && raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		o.refuse(name, "must be a number")
	}
	return raw
}

// storeEdit takes what merge and replace make of a store.
func (o *object) storeEdit(do string, op *fsm.Operation) {
	op.Fences = o.fences()
	if do == "replace" {
		op.Kind, op.Set = fsm.OpReplace, o.entries("data")
		if !o.has("data") {
			o.refuse("data", "is missing")
		}
		return
	}
	op.Kind, op.Set, op.Delete = fsm.OpMerge, o.entries("set"), o.keys("delete")
	if !o.has("set") && !o.has("delete") {
		o.refuse("set", "or delete must be there")
	}
	for _, key := range op.Delete {
		of := func(kv fsm.KeyValue, key string) int { return cmp.Compare(kv.Key, key) }
		if _, both := slices.BinarySearchFunc(op.Set, key, of); both {
			o.refuse("delete", "%q is set as well", key)
		}
	}
}

// deletePrefix takes what a delete of all keys that begin alike has instead of a
// key; the empty prefix is that of all.
func (o *object) deletePrefix(op *fsm.Operation) {
	op.Kind, op.Fences = fsm.OpDeletePrefix, o.fences()
	op.Key, _ = o.str("prefix")
	if len(op.Key) > maxKeyBytes || strings.ContainsFunc(op.Key, func(r rune) bool { return r == '*' || unicode.IsControl(r) }) {
		o.refuse("prefix", "must be what keys may begin with")
	}
}

// entries takes an object of keys and their values.
func (o *object) entries(name string) []fsm.KeyValue {
	if keys := o.object(name); keys != nil {
		return keys.asEntries()
	}
	return nil
}

// asEntries takes all members as keys and their values, sorted as the state machine
// wants them.
func (o *object) asEntries() (set []fsm.KeyValue) {
	for _, m := range o.asKeys() {
		set = append(set, fsm.KeyValue{Key: string(m.name), Value: m.raw})
	}
	return set
}

// fences takes the fences of locked keys: {key: fence}.
func (o *object) fences() []fsm.KeyFence {
	if keys := o.object("fences"); keys != nil {
		return keys.asFences()
	}
	return nil
}

func (o *object) asFences() (fences []fsm.KeyFence) {
	for _, m := range o.asKeys() {
		n, err := strconv.ParseUint(string(m.raw), 10, 64)
		if err != nil || n == 0 || n >= maxNumber {
			o.refuse(string(m.name), "must be an integer from 1 to %d", maxNumber-1)
		}
		fences = append(fences, fsm.KeyFence{Key: string(m.name), Fence: n})
	}
	return fences
}

// asKeys takes all members of an object whose members are keys, and sorts them.
func (o *object) asKeys() []member {
	for i := range o.members {
		m := &o.members[i]
		m.taken = true
		if wrong := badKey(string(m.name)); wrong != "" {
			o.refuse(string(m.name), "a key %s", wrong)
		}
	}
	if len(o.members) > fsm.MaxKeys {
		o.refuse(string(o.members[0].name), "and the others are more than %d keys", fsm.MaxKeys)
	}
	slices.SortFunc(o.members, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	return o.members
}

// keys takes an array of keys, sorts them and drops those that stand there twice.
func (o *object) keys(name string) (keys []string) {
	for _, raw := range o.array(name, fsm.MaxKeys) {
		key, _ := text(raw)
		if wrong := badKey(key); wrong != "" {
			o.refuse(name, "a key %s", wrong)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
