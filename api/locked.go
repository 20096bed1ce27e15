package api

import (
	"context"
	"time"

	"conclave/fsm"
	"conclave/lock"
)

// What a refusal over a lock says besides what the log answered: how much time the
// holder has left, which only the leader knows, and how a grant ended, which only
// recent events tell. Both are courtesies, and left out when nobody knows.

// refusalOf is the error of a refused command in a room. It may ask the leader.
func (s *Server) refusalOf(ctx context.Context, room string, err error) error {
	no, ok := err.(*fsm.Refusal)
	if !ok {
		return err
	}
	if no.Code != fsm.CodeLocked {
		return no
	}
	e := refusal(no)
	if left, known := s.leftOfHolder(ctx, room, &no.Details); known {
		e.With("expires_in_ms", max(left.Milliseconds(), 0))
	}
	return e
}

// leftOfHolder is the time left of the lease, or of the delay, that a refusal with
// locked speaks of.
func (s *Server) leftOfHolder(ctx context.Context, room string, d *fsm.Details) (time.Duration, bool) {
	sess := s.node.View().Session(room)
	if sess == nil {
		return 0, false
	}
	ref, ok := holderRef(sess, d)
	if !ok {
		return 0, false
	}
	left, ok := s.node.TimeLeft(ctx, []fsm.LeaseRef{ref})[ref]
	return left, ok
}

func holderRef(sess *fsm.Session, d *fsm.Details) (fsm.LeaseRef, bool) {
	l := sess.Lock(d.Store, d.Key)
	switch {
	case l == nil:
		return fsm.LeaseRef{}, false
	case d.Fence == 0:
		return leaseRef(sess, d.Store, d.Key, lock.Holder{}), l.NotBefore != 0
	}
	for _, h := range l.Holders {
		if h.Fence == d.Fence {
			return leaseRef(sess, d.Store, d.Key, h), h.TTL > 0
		}
	}
	return fsm.LeaseRef{}, false
}

// endOf tells how a grant ended, as its event says: released, expired or broken;
// "" when it has not ended, or longer ago than this node remembers.
func (s *Server) endOf(room, store, key string, fence uint64) string {
	ring := s.node.Ring(room)
	if ring == nil {
		return ""
	}
	// A grant ends after its fence, and nothing before that is of interest.
	from := max(fence, ring.Floor())
	for {
		frames, more, ok := ring.After(from, s.node.View().Rev(), 1<<20)
		if !ok {
			return "" // forgotten meanwhile
		}
		for _, f := range frames {
			for _, e := range f.Events {
				if e.Type == fsm.EventLock && e.Fence == fence && e.State != "acquired" && e.Key == key && e.Store == store {
					return e.State
				}
			}
			from = f.Rev
		}
		if !more {
			return ""
		}
	}
}

// notHolder adds to a refusal of a renewal or a release how the grant ended.
func (s *Server) notHolder(room, store, key string, fence uint64, err error) error {
	no, ok := err.(*fsm.Refusal)
	if !ok || no.Code != fsm.CodeNotHolder {
		return err
	}
	e := refusal(no).With("store", store).With("key", key)
	if state := s.endOf(room, store, key, fence); state != "" {
		e.With("reason", state)
	}
	return e
}
