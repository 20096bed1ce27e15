package sim

import (
	"context"
	"time"

	"conclave/fsm"
)

// Watches follows a room as a watcher's connection does: a snapshot, then every
// frame; on another node from where it was when its node dies or is left, and
// with a new snapshot when a ring no longer holds what is missing, when its
// session is over, and now and then because it wants one. Until stop; then it
// records what it was given.
func (k *Client) Watches(room string, stop <-chan struct{}) {
	w := &Watch{Name: k.Name, Room: room}
	defer k.h.addWatch(w)
	var at position
	for !stopped(stop) {
		_, p := k.any()
		if k.rng.IntN(3) == 0 {
			at.session = "" // forgets where it was: a snapshot, amid the changes
		}
		k.follow(w, p, &at, stop)
	}
}

// position is where a watcher is: it has seen everything of a session up to rev.
type position struct {
	session string
	rev     uint64
}

// follow watches on one node until it dies or the watcher moves on.
func (k *Client) follow(w *Watch, p *process, at *position, stop <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	_, err := p.node.WaitRev(ctx, at.rev)
	cancel()
	if err != nil {
		time.Sleep(50 * time.Millisecond)
		return
	}
	wake := make(chan struct{}, 1)
	remove := p.node.Observe(func(*fsm.Published) {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	defer remove()
	leave := time.After(time.Duration(k.rng.Int64N(int64(6 * time.Second))))
	page := 64 << 10
	slow := k.rng.IntN(4) == 0 // reads late, and one frame at a time
	if slow {
		page = 1
	}
	ring := p.node.Ring(w.Room)
	for {
		if ring == nil || ring.Session() != at.session {
			*at = snapshotItem(w, p)
			ring = p.node.Ring(w.Room)
			if ring != nil && ring.Session() != at.session {
				continue // a session began in between
			}
		}
		if ring != nil {
			frames, more, ok := ring.After(at.rev, p.node.View().Rev(), page)
			if !ok {
				at.session = ""
				continue
			}
			for _, f := range frames {
				w.Items = append(w.Items, WatchItem{Frame: f, Rev: f.Rev})
				at.rev = f.Rev
			}
			if closed, _ := ring.Closed(); closed && !more {
				ring = nil
				continue
			}
			if more {
				continue
			}
		}
		select {
		case <-wake:
			if slow {
				time.Sleep(time.Duration(k.rng.Int64N(int64(10 * k.think))))
			}
			if ring == nil {
				ring = p.node.Ring(w.Room)
			}
		case <-leave:
			return
		case <-p.killed:
			return
		case <-stop:
			return
		}
	}
}

// snapshotItem gives the watcher the room as the node shows it.
func snapshotItem(w *Watch, p *process) position {
	view := p.node.View()
	item := WatchItem{Rev: view.Rev(), Entries: map[string]*fsm.Entry{}}
	if s := view.Session(w.Room); s != nil {
		item.Session = s.ID
		s.Entries(store, "", "", func(e *fsm.Entry) bool {
			item.Entries[e.Key] = e
			return true
		})
	}
	w.Items = append(w.Items, item)
	return position{item.Session, item.Rev}
}
