package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// raceElection: candidates on three nodes, of whom each leads until it hands over,
// dies or is out of reach, and is then replaced. Never do two believe to lead, and
// what a former leader does comes to nothing, in the room and outside of it.
func raceElection(t *testing.T, th *theatre) {
	ctx := patience(t)
	const candidates = 4
	observer := th.peers(t, "election", 1)[0]
	prints := make(chan uint64, 100)
	printer, stop, err := serve(ForLeader(observer, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fence, _ := client.FenceOf(r.Context())
		prints <- fence
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	// An observer follows.
	following, enough := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer followers.Wait()
	defer enough()
	var mu sync.Mutex
	var seen []uint64
	followers.Go(func() {
		err := FollowLeader(following, observer, func(leader *wire.Holder) {
			mu.Lock()
			defer mu.Unlock()
			if leader != nil {
				seen = append(seen, leader.Fence)
			}
		})
		if following.Err() == nil {
			t.Errorf("the follower stopped: %v", err)
		}
	})

	leading := map[*client.Lock]bool{}
	var terms []uint64
	var all sync.WaitGroup
	for i := range candidates {
		peer, wires := th.wired(t, "election", i)
		all.Go(func() {
			var mine *client.Lock
			err := Lead(ctx, peer, "candidate", func(lead context.Context, term *client.Lock) error {
				mine = term
				mu.Lock()
				for other := range leading {
					if other.Err() == nil {
						t.Errorf("terms %d and %d at once", other.Fence(), term.Fence())
					}
				}
				leading[term], terms = true, append(terms, term.Fence())
				mu.Unlock()
				err := Decide(lead, peer, term, "plan", i)
				status, failed := Request(lead, term, http.MethodPost, printer)
				if (err != nil || failed != nil || status != http.StatusOK) && term.Err() == nil {
					t.Errorf("a leader's decision: %v; its print: %d, %v", err, status, failed)
				}
				if i%3 == 0 {
					return nil // hands over
				}
				for shown := false; !shown && lead.Err() == nil; time.Sleep(5 * time.Millisecond) {
					mu.Lock()
					shown = slices.Contains(seen, term.Fence())
					mu.Unlock()
				}
				wires.sever()
				<-lead.Done() // by its own clock: nobody can tell it
				return context.Cause(lead)
			})
			if i%3 == 0 {
				if err != nil && !client.IsStaleFence(err) {
					t.Errorf("a leader that handed over: %v", err)
				}
				return
			}
			if !client.IsStaleFence(err) {
				t.Errorf("a leader that was out of reach: %v", err)
			}
			if i%3 == 1 {
				return // dead
			}
			// It comes back, and acts as if its term were not over.
			over(ctx, t, observer, mine)
			wires.mend()
			late := mine.Fence()
			if _, err := peer.Put(ctx, "leader", "late", client.Fence(late)); !client.IsStaleFence(err) {
				t.Errorf("a late write: %v", err)
			}
			if err := Decide(ctx, peer, mine, "plan", "late"); !errors.Is(err, ErrDeposed) {
				t.Errorf("a late decision: %v", err)
			}
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, printer, http.NoBody)
			req.Header.Set(client.FenceHeader, strconv.FormatUint(late, 10))
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusPreconditionFailed {
				t.Errorf("a late print: %v, %v", resp, err)
				return
			}
			resp.Body.Close()
		})
	}
	all.Wait()
	if !slices.IsSorted(terms) || len(slices.Compact(slices.Clone(terms))) != candidates {
		t.Errorf("the terms were %v", terms)
	}
	close(prints)
	var printed []uint64
	for term := range prints {
		printed = append(printed, term)
	}
	if !slices.IsSorted(printed) || slices.ContainsFunc(printed, func(term uint64) bool { return !slices.Contains(terms, term) }) {
		t.Errorf("printed in the terms %v of %v", printed, terms)
	}
	if plan, _, err := client.GetAs[int](ctx, observer, "plan"); err != nil || plan < 0 {
		t.Errorf("the plan is %d, %v: a late leader wrote it", plan, err)
	}
	last, err := Leader(ctx, observer)
	if err != nil {
		t.Fatal(err)
	}
	if last != nil {
		t.Errorf("%v leads, and all have gone", last)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(slices.Compact(slices.Clone(seen))) < 2 || !slices.IsSorted(seen) || !slices.Contains(terms, seen[0]) {
		t.Errorf("the follower saw the terms %v of %v", seen, terms)
	}
}
