package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// ErrDeposed is the refusal of what somebody does as the leader who is not.
var ErrDeposed = errors.New("another leads by now, or nobody")

// leaderTTL is how long a leader that has died without a word is waited for.
const leaderTTL = 3 * time.Second

// Lead stands for election, waits in line, and leads: runs work, whose context ends
// when leadership is lost. When work returns, the next in line leads, at once. Of the
// lock it gets, the fence is the number of the term: terms only grow.
func Lead(ctx context.Context, room *client.Room, name string, work func(ctx context.Context, term *client.Lock) error) error {
	return room.WithLock(ctx, "leader", work, client.TTL(leaderTTL), client.LockData(name))
}

// Decide writes a key as the leader: it is written if the term still lasts when the
// write takes effect, whatever the leader believes.
func Decide(ctx context.Context, room *client.Room, term *client.Lock, key string, value any) error {
	result, err := room.Txn(ctx, wire.Txn{
		If:   []wire.Cond{term.Cond()},
		Then: []wire.Op{client.PutOp(key, value)},
	})
	if err == nil && !result.Applied {
		err = ErrDeposed
	}
	return err
}

// Leader is who leads now: its peer, its term, the name it stands for. nil: nobody.
func Leader(ctx context.Context, room *client.Room) (*wire.Holder, error) {
	for lock, err := range room.AllLocks(ctx, "default/leader") {
		if err != nil {
			return nil, err
		}
		if lock.Key == "leader" && len(lock.Holders) > 0 {
			return &lock.Holders[0], nil
		}
	}
	return nil, nil
}

// FollowLeader calls show with who leads, nil for nobody, now and after every change,
// until ctx ends. Of changes that follow one another at once it may show the last only.
func FollowLeader(ctx context.Context, room *client.Room, show func(leader *wire.Holder)) error {
	watch, err := room.Watch(ctx, client.Filter{Keys: []string{"leader"}, Types: []string{"lock"}})
	if err != nil {
		return err
	}
	defer watch.Close()
	for _, err := range watch.All(ctx) {
		if err != nil {
			return err
		}
		leader, err := Leader(ctx, room)
		if err != nil {
			return err
		}
		show(leader)
	}
	return ctx.Err()
}

// ForLeader lets only the leader through to something outside of Conclave, by the
// term in its requests: those of a leader that was paused are refused, and end if
// they are under way when a newer one comes.
func ForLeader(room *client.Room, resource http.Handler) http.Handler {
	return client.Fencing{
		Resource: func(*http.Request) string { return "leader" },
		Validate: func(ctx context.Context, key string, fence uint64) (bool, error) {
			return room.Validate(ctx, key, fence)
		},
		Always: true, // also a leader that was late, but has no successor yet
	}.Handler(resource)
}

// Request calls such a resource as the leader.
func Request(ctx context.Context, term *client.Lock, method, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := term.Transport(nil).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func playElection(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	ada, bob, eve := peers[0], peers[1], peers[2]
	printer, stop, err := serve(ForLeader(eve, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	if err != nil {
		return err
	}
	defer stop()

	// Ada leads, and hands over to Bob, who waits in line.
	var bobs sync.WaitGroup
	defer bobs.Wait()
	var first uint64
	err = Lead(ctx, ada, "Ada", func(mine context.Context, term *client.Lock) error {
		leader, err := Leader(mine, eve)
		if err != nil {
			return err
		}
		first = term.Fence()
		say("Eve sees that %s leads, in term %d", leader.Data, leader.Fence)
		bobs.Go(func() {
			err := Lead(ctx, bob, "Bob", func(ctx context.Context, term *client.Lock) error {
				say("Bob leads, in a later term: %v", term.Fence() > first)
				return Decide(ctx, bob, term, "plan", "Bob's")
			})
			if err != nil {
				say("Bob never led: %v", err)
			}
		})
		status, err := Request(mine, term, http.MethodPost, printer)
		say("the printer answers Ada %d", status)
		return errors.Join(err, Decide(mine, ada, term, "plan", "Ada's"))
	})
	if err != nil {
		return err
	}
	bobs.Wait()

	// A leader that is paused does not renew, and knows of nothing: here one that
	// took the lock by itself.
	taken, err := ada.Txn(ctx, wire.Txn{Then: []wire.Op{client.AcquireOp("leader", time.Second)}})
	if err != nil {
		return err
	}
	say("Ada leads again, and is paused")
	return Lead(ctx, bob, "Bob", func(ctx context.Context, term *client.Lock) error {
		say("Bob leads")
		if _, err := Request(ctx, term, http.MethodPost, printer); err != nil {
			return err
		}
		if _, err := ada.Put(ctx, "leader", "Ada", client.Fence(taken.Results[0].Fence)); !client.IsStaleFence(err) {
			return fmt.Errorf("a write of Ada after her term: %v", err)
		}
		say("Ada wakes, and her late write is refused: her fence is stale")
		return nil
	})
}

// serve serves a handler on this machine.
func serve(h http.Handler) (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { server.Close(); <-done }, nil
}
