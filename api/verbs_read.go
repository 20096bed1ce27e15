package api

import (
	"slices"
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// read is a request that waits for the results of the writes sent before it, and
// then reads. It holds back nothing that was sent after it.
type read struct {
	r     *request
	after uint64 // writes sent before it
	stale bool
	min   uint64 // revision that the view must have

	// One of: run answers from a view; local needs none and takes no time; apart
	// needs none and takes its time.
	run   func(*fsm.View)
	local func()
	apart func()
}

// read checks a request's form and puts it in line.
func (k *socket) read(r *request, rd read) {
	if bad := r.o.done(); bad != nil {
		k.refuse(r, bad)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	rd.r, rd.after = r, k.sent
	k.reads = append(k.reads, rd)
	k.startReads()
}

// startReads sees to the reads whose turn has come. Callers hold mu.
func (k *socket) startReads() {
	if !k.reading && k.eligible() > 0 {
		k.reading = true
		k.spawn(k.runReads)
	}
}

// eligible is how many of the reads in line may begin. Callers hold mu.
func (k *socket) eligible() int {
	n := slices.IndexFunc(k.reads, func(rd read) bool { return rd.after > k.done })
	if n < 0 {
		n = len(k.reads)
	}
	return n
}

// runReads runs reads in the order sent. All that are eligible when a round
// begins share one linearizable view; those that come later wait for the next.
func (k *socket) runReads() {
	for {
		k.mu.Lock()
		n := k.eligible()
		if n == 0 || k.closed {
			k.reading = false
			k.mu.Unlock()
			return
		}
		batch := k.reads[:n:n]
		if k.reads = k.reads[n:]; len(k.reads) == 0 {
			k.reads = nil
		}
		k.mu.Unlock()
		// One round of the read index serves all of them: it begins after each was
		// received and after the writes before each had their results.
		var v *fsm.View
		var err error
		if slices.ContainsFunc(batch, func(rd read) bool { return rd.run != nil && !rd.stale }) {
			v, err = k.server.node.Read(k.hub.ctx)
		}
		for _, rd := range batch {
			k.runRead(rd, v, err)
		}
	}
}

// runRead runs one read, given the linearizable view of its round.
func (k *socket) runRead(rd read, v *fsm.View, err error) {
	switch {
	case rd.local != nil:
		rd.local()
		return
	case rd.apart != nil:
		k.start(rd.apart)
		return
	case rd.stale:
		v, err = k.server.node.Stale()
	}
	// Waiting is done apart, or it would hold up the reads behind this one.
	if err == nil && v.Rev() < rd.min {
		k.start(func() {
			v, err := k.server.node.WaitRev(k.hub.ctx, rd.min)
			k.answerRead(rd, v, err)
		})
		return
	}
	k.answerRead(rd, v, err)
}

func (k *socket) answerRead(rd read, v *fsm.View, err error) {
	if err != nil {
		k.refuse(rd.r, k.explain(rd.r, err))
		return
	}
	rd.run(v)
}

// readSession is a read of the live session, which must be the socket's own. The
// members that say how current it must be are taken here.
func (k *socket) readSession(r *request, run func(*fsm.View, *fsm.Session)) {
	var rd read
	if s, ok := r.o.str("consistency"); ok {
		if rd.stale = s == "stale"; !rd.stale && s != "linearizable" {
			r.o.refuse("consistency", "must be linearizable or stale")
		}
	}
	if n := r.o.counter("min_rev", 0); n != nil {
		rd.min = *n
	}
	rd.run = func(v *fsm.View) {
		session, err := liveSession(v, k.room, k.session)
		if err != nil {
			k.refuse(r, k.explain(r, err))
			return
		}
		run(v, session)
	}
	k.read(r, rd)
}

func (k *socket) get(r *request) {
	op := r.o.operation(r.do, k.caller)
	k.readSession(r, func(v *fsm.View, session *fsm.Session) {
		e := session.Entry(op.Store, op.Key)
		k.ok(r, func(b []byte) []byte {
			b = append(b, `{"entry":`...)
			if e == nil {
				b = append(b, "null"...)
			} else {
				b = appendEntry(b, e)
			}
			return append(appendNumber(b, "rev", v.Rev()), '}')
		})
	})
}

func (k *socket) list(r *request) {
	store, p := r.o.store(), r.o.page(true)
	k.readSession(r, func(v *fsm.View, session *fsm.Session) {
		k.ok(r, func(b []byte) []byte {
			b, _ = appendEntries(append(b, `{"entries":`...), session, store, p)
			return append(appendNumber(b, "rev", v.Rev()), '}')
		})
	})
}

func (k *socket) peers(r *request) {
	p := r.o.page(false)
	k.readSession(r, func(v *fsm.View, session *fsm.Session) {
		k.ok(r, func(b []byte) []byte {
			return pagePeers(append(b, `{"peers":`...), session, p).endAt(v.Rev())
		})
	})
}

// locks lists a page of locks, of all stores or of one, or the one named. The time
// left of leases comes from the leader, so this takes a moment.
func (k *socket) locks(r *request) {
	if r.o.has("key") {
		k.oneLock(r)
		return
	}
	p := r.o.page(true)
	if r.o.has("store") {
		if r.o.has("prefix") {
			r.o.refuse("prefix", "begins with the store; leave that out")
		}
		p.prefix = r.o.store() + "/"
	}
	k.readSession(r, func(v *fsm.View, session *fsm.Session) {
		k.start(func() {
			found := k.server.readLocks(k.hub.ctx, session, p)
			k.ok(r, func(b []byte) []byte { return found.appendTo(append(b, `{"locks":`...)).endAt(v.Rev()) })
		})
	})
}

// oneLock answers with the lock that is named, if somebody holds or wants it.
func (k *socket) oneLock(r *request) {
	store, key := r.o.store(), r.o.key()
	k.readSession(r, func(v *fsm.View, session *fsm.Session) {
		l := session.Lock(store, key)
		if l == nil {
			k.ok(r, func(b []byte) []byte { return append(appendNumber(append(b, `{"locks":[]`...), "rev", v.Rev()), '}') })
			return
		}
		k.start(func() {
			left := k.server.timeLeft(k.hub.ctx, leaseRefs(nil, session, store, key, l))
			k.ok(r, func(b []byte) []byte {
				b = appendLock(append(b, `{"locks":[`...), store, key, l, leftOf(left, session, store, key))
				return append(appendNumber(append(b, ']'), "rev", v.Rev()), '}')
			})
		})
	})
}

func (k *socket) validate(r *request) {
	store, key, fence := r.o.store(), r.o.key(), r.o.fence()
	if !r.o.has("fence") {
		r.o.refuse("fence", "is missing")
	}
	k.readSession(r, func(v *fsm.View, session *fsm.Session) {
		valid, reason := holds(session.Lock(store, key), fence, ""), ""
		if !valid {
			reason = k.server.endOf(k.room, store, key, fence)
		}
		k.ok(r, func(b []byte) []byte {
			return append(appendNumber(appendValid(b, valid, reason), "rev", v.Rev()), '}')
		})
	})
}

// watch lets more through. The answer, the snapshot and the events around them
// are the stream's business, hence the writer's.
func (k *socket) watch(r *request) {
	fs := r.o.filters(r.id, false)
	if len(fs) == 0 {
		r.o.refuse("watch", "needs at least one filter")
	}
	k.read(r, read{run: func(*fsm.View) {
		k.push(item{answer: true, weight: r.weight, send: func() error { return k.addFilters(r, fs) }})
	}})
}

// addFilters runs on the writer's goroutine.
func (k *socket) addFilters(r *request, fs filters) error {
	if bad := slices.Concat(k.stream.filters, fs).fits(); bad != nil {
		return k.sendError(r, bad)
	}
	return k.stream.add(fs, r.id, func(v *fsm.View, _ *fsm.Session) error {
		return k.sendOK(r, revision(v.Rev()))
	})
}

// unwatch takes back the filters of an earlier watch, or of hello.
func (k *socket) unwatch(r *request) {
	id := r.o.counter("watch", 1)
	if id == nil {
		r.o.refuse("watch", "is missing")
	}
	k.read(r, read{local: func() {
		k.push(item{answer: true, weight: r.weight, send: func() error { return k.removeFilters(r, *id) }})
	}})
}

// removeFilters runs on the writer's goroutine.
func (k *socket) removeFilters(r *request, watch uint64) error {
	left := k.stream.filters.without(watch)
	if len(left) == len(k.stream.filters) {
		return k.sendError(r, wire.Errorf(wire.NotFound, "request %d watches nothing", watch).With("watch", watch))
	}
	k.stream.watch(left)
	return k.sendOK(r, nothing)
}

// wallNow is the wall clock, for display only.
func wallNow() int64 { return time.Now().UnixMilli() }
