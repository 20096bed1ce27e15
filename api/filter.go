package api

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"conclave/client/wire"
	"conclave/fsm"
)

// Bounds of what one connection may watch. They keep the work per event and the
// memory per watcher small: an event is compared with at most maxPatterns
// patterns.
const (
	maxFilters  = 64
	maxPatterns = 1024
)

// typeSet is a set of event types.
type typeSet uint8

const (
	typePut typeSet = 1 << iota
	typeDelete
	typeLock
	typePeer
	typeMessage
	typeSession

	typesOfKeys = typePut | typeDelete | typeLock // the types that have a store and a key
	typesAll    = typesOfKeys | typePeer | typeMessage | typeSession
)

// typeOf is the set that holds one event type; empty if there is no such type.
func typeOf(t fsm.EventType) typeSet {
	switch t {
	case fsm.EventPut:
		return typePut
	case fsm.EventDelete:
		return typeDelete
	case fsm.EventLock:
		return typeLock
	case fsm.EventPeer:
		return typePeer
	case fsm.EventMessage:
		return typeMessage
	case fsm.EventSession:
		return typeSession
	}
	return 0
}

// filter is one item of a watch. An event passes it if its type is among types
// and, where the type has such a thing, its store, key or topic fits.
type filter struct {
	watch    uint64 // id of the hello or watch request that brought it
	types    typeSet
	store    string   // "" lets every store through
	keys     []string // patterns; nil lets every key through
	topics   []string // patterns; nil lets every topic through
	snapshot bool     // its snapshot is wanted even if the stream resumes
}

// filters is what a watcher wants to see: what any of them lets through.
type filters []filter

// passes decides about an event. Whoever watches anything hears of the session's
// start and end: everything else depends on it.
func (fs filters) passes(e *fsm.Event) bool {
	t := typeOf(e.Type)
	switch t {
	case typeSession:
		return len(fs) > 0
	case typeMessage:
		return slices.ContainsFunc(fs, func(f filter) bool {
			return f.types&typeMessage != 0 && (f.topics == nil || matchesAny(f.topics, e.Topic))
		})
	case typePut, typeDelete, typeLock:
		return fs.passesKey(t, e.Store, e.Key)
	}
	return fs.passesType(t)
}

// passesType decides about what has no store, key or topic.
func (fs filters) passesType(t typeSet) bool {
	return slices.ContainsFunc(fs, func(f filter) bool { return f.types&t != 0 })
}

// passesStore reports whether anything of type t in a store could pass.
func (fs filters) passesStore(t typeSet, store string) bool {
	return slices.ContainsFunc(fs, func(f filter) bool {
		return f.types&t != 0 && (f.store == "" || f.store == store)
	})
}

// passesKey decides about a put, a delete or a lock, or the entry or lock that a
// snapshot has for it.
func (fs filters) passesKey(t typeSet, store, key string) bool {
	return slices.ContainsFunc(fs, func(f filter) bool {
		return f.types&t != 0 && (f.store == "" || f.store == store) &&
			(f.keys == nil || matchesAny(f.keys, key))
	})
}

// without are the filters that other requests brought. The receiver stays as it
// is: a snapshot may still be reading it.
func (fs filters) without(watch uint64) filters {
	return slices.DeleteFunc(slices.Clone(fs), func(f filter) bool { return f.watch == watch })
}

// ofMessages are the filters that let messages through, cut down to those.
func (fs filters) ofMessages() (only filters) {
	for _, f := range fs {
		if f.types &= typeMessage; f.types != 0 {
			only = append(only, f)
		}
	}
	return only
}

// fits refuses more filters than a connection may have.
func (fs filters) fits() *wire.Error {
	if len(fs) > maxFilters {
		return overLimit("filters", maxFilters, int64(len(fs)))
	}
	patterns := 0
	for _, f := range fs {
		patterns += len(f.keys) + len(f.topics)
	}
	if patterns > maxPatterns {
		return overLimit("filter_patterns", maxPatterns, int64(patterns))
	}
	return nil
}

// filters takes the items of a watch. What an item leaves out lets
// everything through, with two exceptions: keys without a store mean the store
// "default", and an item without types means those that its other members are
// about: put, delete and lock for a store or keys, message for topics. Faults
// are left in the object; lenient lets unknown members pass (hello's).
func (o *object) filters(watch uint64, lenient bool) filters {
	if n := len(o.array("watch", maxBodyBytes)); n > maxFilters && o.fault.err == nil {
		o.fault.err = overLimit("filters", maxFilters, int64(n))
	}
	items := o.objects("watch", maxFilters)
	fs := make(filters, 0, len(items))
	for _, item := range items {
		fs = append(fs, item.filter(watch))
		if !lenient {
			item.done()
		}
	}
	return fs
}

// filter takes the members of one item.
func (o *object) filter(watch uint64) filter {
	f := filter{watch: watch, snapshot: o.flag("snapshot")}
	if store, ok := o.str("store"); ok {
		if wrong := badStore(store); wrong != "" {
			o.refuse("store", "%s", wrong)
		}
		f.store = store
	}
	f.keys = o.patterns("keys")
	f.topics = o.patterns("topics")
	for _, raw := range o.choices("types") {
		name, _ := text(raw)
		t := typeOf(fsm.EventType(name))
		if t == 0 {
			o.refuse("types", "there is no event type %s", raw)
		}
		f.types |= t
	}
	f.complete()
	return f
}

// complete adds what an item means without saying it.
func (f *filter) complete() {
	if f.types == 0 {
		if f.store != "" || f.keys != nil {
			f.types |= typesOfKeys
		}
		if f.topics != nil {
			f.types |= typeMessage
		}
		if f.types == 0 {
			f.types = typesAll
		}
	}
	if f.store == "" && f.keys != nil {
		f.store = defaultStore
	}
}

// choices takes an array of what to let through. An empty one is refused: as a
// list that turned out empty it would let nothing through, and as a member that is
// not there, everything.
func (o *object) choices(name string) [][]byte {
	items := o.array(name, maxBodyBytes)
	switch n := len(items); {
	case n == 0 && o.has(name):
		o.refuse(name, "must name at least one; leave it out for all")
	case n > maxPatterns && o.fault.err == nil:
		o.fault.err = overLimit("filter_patterns", maxPatterns, int64(n))
	}
	return items
}

// patterns takes an array of patterns, nil when absent.
func (o *object) patterns(name string) (patterns []string) {
	for _, raw := range o.choices(name) {
		p, ok := text(raw)
		if !ok || !validPattern(p) {
			o.refuse(name, "%s is neither a name nor a prefix followed by *", raw)
			return nil
		}
		patterns = append(patterns, p)
	}
	return patterns
}

// validPattern accepts a key, or what a key may begin with followed by *.
func validPattern(p string) bool {
	prefix, wildcard := strings.CutSuffix(p, "*")
	if !wildcard {
		return badKey(p) == ""
	}
	return len(prefix) <= maxKeyBytes && utf8.ValidString(prefix) &&
		!strings.ContainsFunc(prefix, func(r rune) bool { return r == '*' || unicode.IsControl(r) })
}

// matches decides about one pattern: an exact name, or a prefix followed by *.
func matches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}
