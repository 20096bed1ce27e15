package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"conclave/client"
)

// raceQueue: workers on three nodes do jobs while others put them in line, and some
// of the workers die in the middle of one, or are out of reach for too long and
// finish late. Every job is done exactly once, or set aside after its last attempt.
func raceQueue(t *testing.T, th *theatre) {
	ctx := patience(t)
	const jobs, workers, deaths, sleeps = 30, 6, 2, 2
	bosses := th.peers(t, "queue", 3)
	working, enough := context.WithCancel(ctx)
	defer enough()

	var all sync.WaitGroup
	defer all.Wait()
	defer enough()
	var died, slept, late, killed atomic.Int32
	worker := func(i int) {
		peer, wires := th.wired(t, "queue", i)
		all.Go(func() {
			err := Work(working, peer, func(mine context.Context, job *Claimed) (any, error) {
				switch {
				case job.ID == "poison":
					return nil, errors.New("it never works")
				case job.ID == "killer" && job.Attempts <= maxAttempts:
					killed.Add(1)
					wires.sever() // and whoever takes it over is cut off, too
					<-mine.Done()
					wires.mend()
					return nil, context.Cause(mine)
				case died.Add(1) <= deaths:
					wires.sever()
					<-working.Done() // it is never heard of again
					return nil, working.Err()
				case slept.Add(1) <= sleeps:
					wires.sever()
					<-mine.Done()
					// It has slept through its claim, and does not look at the clock.
					over(ctx, t, bosses[0], job.Lock)
					wires.mend()
					if err := job.Finish(ctx, peer, "result/", "late"); !client.IsStaleFence(err) {
						t.Errorf("%s was finished late: %v", job.ID, err)
					}
					late.Add(1)
					return nil, context.Cause(mine)
				}
				return i, nil
			})
			if working.Err() == nil {
				t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	for i := range workers {
		worker(i)
	}
	ids := []string{"poison", "killer"}
	for i := range jobs {
		ids = append(ids, fmt.Sprint(i))
	}
	race(bosses, func(_ int, boss *client.Room) { // each puts all in line: twice is once
		for _, id := range ids {
			if err := Enqueue(ctx, boss, id, "do "+id); err != nil {
				t.Error(err)
			}
		}
	})

	watch, err := bosses[0].Watch(ctx, client.Keys("result/*", "failed/*"))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	results := map[string]uint64{} // versions, by key
	for len(results) < len(ids) {
		update, err := watch.Next(ctx)
		if err != nil {
			t.Fatalf("%v; done are %v", err, results)
		}
		if update.Snapshot != nil {
			for _, e := range update.Snapshot.Stores["default"] {
				results[e.Key] = e.Version
			}
		}
		for _, e := range update.Events {
			results[e.Key] = e.Version
		}
	}
	for _, id := range ids {
		key := "result/" + id
		if id == "poison" || id == "killer" {
			key = "failed/" + id
		}
		if results[key] != 1 {
			t.Errorf("%s was written %d times", key, results[key])
		}
	}
	if left, err := bosses[1].List(ctx, client.ListParams{Prefix: "job/"}); err != nil || len(left.Entries) != 0 {
		t.Errorf("left in line: %v, %v", left, err)
	}
	// A job that was done is not put in line again.
	if err := Enqueue(ctx, bosses[2], "1", "do it again"); err != nil {
		t.Error(err)
	}
	if job, _, err := Claim(ctx, bosses[2]); err != nil || job != nil {
		t.Errorf("done already, and in line: %+v, %v", job, err)
	}
	enough()
	all.Wait() // for who finishes late, too
	if died.Load() < deaths || late.Load() == 0 || killed.Load() == 0 || killed.Load() > maxAttempts {
		t.Errorf("%d died, %d finished late, the killer was tried %d times", died.Load(), late.Load(), killed.Load())
	}
}

// In line, who came first is first, and stays so when an attempt fails.
func TestQueue_is_in_order(t *testing.T) {
	ctx := patience(t)
	boss := newTheatre(t).peers(t, "order", 1)[0]
	for _, id := range []string{"c", "a", "b"} { // not the order of their names
		if err := Enqueue(ctx, boss, id, ""); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"c", "c", "c", "a", "b"} {
		job, _, err := Claim(ctx, boss)
		if err != nil || job == nil || job.ID != want {
			t.Fatalf("claim %d: %+v, %v; want %s", i, job, err, want)
		}
		err = job.Try(ctx, boss, func(context.Context, *Claimed) (any, error) {
			if want == "c" {
				return nil, errors.New("again")
			}
			return nil, nil
		})
		if err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := boss.Get(ctx, "failed/c"); err != nil {
		t.Errorf("after %d attempts: %v", maxAttempts, err)
	}
}

// A job that was done since a worker listed it is not there any more: claiming it
// must not make it anew.
func TestQueue_claims_nothing_that_is_done(t *testing.T) {
	ctx := patience(t)
	th := newTheatre(t)
	const workers, jobs = 6, 20
	peers := th.peers(t, "claims", workers)
	for i := range jobs {
		if err := Enqueue(ctx, peers[i%workers], fmt.Sprint(i), ""); err != nil {
			t.Fatal(err)
		}
	}
	var done atomic.Int32
	race(peers, func(i int, peer *client.Room) {
		for left := true; left; {
			job, _, err := Claim(ctx, peer)
			if err == nil && job != nil {
				err = job.Try(ctx, peer, func(context.Context, *Claimed) (any, error) {
					done.Add(1)
					return i, nil
				})
			}
			if err != nil {
				t.Error(err)
				return
			}
			page, err := peer.List(ctx, client.ListParams{Prefix: "job/"})
			left = err == nil && len(page.Entries) > 0
		}
	})
	results, err := peers[0].List(ctx, client.ListParams{Prefix: "result/"})
	if err != nil || len(results.Entries) != jobs {
		t.Fatalf("%d results, %v", len(results.Entries), err)
	}
	for _, e := range results.Entries {
		if e.Version != 1 {
			t.Errorf("%s was written %d times", e.Key, e.Version)
		}
	}
	t.Logf("%d jobs were done %d times", jobs, done.Load())
}
