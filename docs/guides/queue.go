package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

const (
	// claimTTL is how long the job of a worker that has died waits for another.
	claimTTL = 2 * time.Second
	// maxAttempts is how often a job is tried before it is set aside.
	maxAttempts = 3
)

// Job is what stands in line under job/<id>.
type Job struct {
	Task     string `json:"task"`
	Attempts int    `json:"attempts"` // begun, this one included
}

// Claimed is a job that this worker has, for as long as it holds the lock on it.
type Claimed struct {
	Job
	ID   string
	Lock *client.Lock
}

// Enqueue puts a job at the end of the line, unless one with that id was ever there:
// so it may be repeated until it succeeds.
func Enqueue(ctx context.Context, room *client.Room, id, task string) error {
	_, err := room.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.Absent("job/" + id), client.Absent("result/" + id), client.Absent("failed/" + id)},
		Then: []wire.Op{client.PutOp("job/"+id, Job{Task: task})},
	})
	return err
}

// Claim takes the first job in line that no other worker has, nil if there is none.
// rev is the revision as of which it has looked.
func Claim(ctx context.Context, room *client.Room) (job *Claimed, rev uint64, err error) {
	page, err := room.List(ctx, client.ListParams{Prefix: "job/"})
	if err != nil {
		return nil, 0, err
	}
	slices.SortFunc(page.Entries, func(a, b wire.Entry) int { return cmp.Compare(a.CreatedRev, b.CreatedRev) })
	for _, entry := range page.Entries {
		lock, err := room.TryLock(ctx, entry.Key, client.TTL(claimTTL))
		if client.IsLocked(err) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		// The attempt counts before it begins, so that a job that kills its workers
		// does not kill them for ever.
		job := &Claimed{*decode[Job](entry.Value), strings.TrimPrefix(entry.Key, "job/"), lock}
		job.Attempts++
		_, err = room.Update(ctx, entry.Key, map[string]int{"attempts": job.Attempts}, client.Under(lock), client.IfRev(entry.Rev))
		if err == nil {
			return job, page.Rev, nil
		}
		_ = lock.Unlock(ctx)
		if !client.IsConflict(err) && !client.IsStaleFence(err) { // else it was done, or tried, since it was listed
			return nil, 0, err
		}
	}
	return nil, page.Rev, nil
}

// Finish puts the result in place of the job: both or neither, and only if the claim
// still stands (else the error is a stale fence). prefix is result/ or failed/.
func (job *Claimed) Finish(ctx context.Context, room *client.Room, prefix string, result any) error {
	gone, fence := client.DeleteOp("job/"+job.ID), job.Lock.Fence()
	gone.Fence = &fence
	_, err := room.Txn(ctx, wire.Txn{Then: []wire.Op{gone, client.PutOp(prefix+job.ID, result)}})
	return err
}

// Try does a claimed job and lets go of it. The context of do ends when the claim is
// lost. What fails goes back to its place in line, until it has failed too often.
func (job *Claimed) Try(ctx context.Context, room *client.Room, do func(ctx context.Context, job *Claimed) (result any, err error)) error {
	mine, cancel := job.Lock.Context(ctx)
	defer cancel()
	var err error
	if job.Attempts > maxAttempts {
		err = job.Finish(mine, room, "failed/", "its workers have died")
	} else if result, failed := do(mine, job); failed == nil {
		err = job.Finish(mine, room, "result/", result)
	} else if job.Attempts == maxAttempts {
		err = job.Finish(mine, room, "failed/", failed.Error())
	}
	lost := job.Lock.Unlock(ctx)
	if client.IsStaleFence(err) || client.IsStaleFence(lost) {
		return nil // it is another worker's job by now
	}
	return cmp.Or(err, lost)
}

// Work does one job after the other until ctx ends or the room is over.
func Work(ctx context.Context, room *client.Room, do func(ctx context.Context, job *Claimed) (result any, err error)) error {
	watch, err := room.Watch(ctx, client.Keys("job/*"))
	if err != nil {
		return err
	}
	defer watch.Close()
	for {
		job, rev, err := Claim(ctx, room)
		if err != nil {
			return err
		}
		if job != nil {
			if err := job.Try(ctx, room, do); err != nil {
				return err
			}
			continue
		}
		// Until there is something new: a job, or a claim that has ended.
		for seen := uint64(0); seen <= rev; {
			update, err := watch.Next(ctx)
			if err != nil {
				return err
			}
			seen = update.Rev
		}
	}
}

func playQueue(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	ada := peers[0]
	for _, task := range []string{"fold", "fail", "iron"} {
		if err := Enqueue(ctx, ada, task, task+" the shirts"); err != nil {
			return err
		}
	}
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	for i, worker := range peers[1:] {
		workers.Go(func() {
			err := Work(working, worker, func(_ context.Context, job *Claimed) (any, error) {
				say("worker %d: %s, attempt %d", i+1, job.Task, job.Attempts)
				if job.ID == "fail" {
					return nil, errors.New("it is torn")
				}
				return "done by worker " + fmt.Sprint(i+1), nil
			})
			if working.Err() == nil {
				say("worker %d: %v", i+1, err)
			}
		})
	}
	watch, err := ada.Watch(ctx, client.Keys("result/*", "failed/*"))
	if err != nil {
		return err
	}
	defer watch.Close()
	for results := 0; results < 3; {
		update, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		if update.Snapshot != nil {
			results = len(update.Snapshot.Stores["default"])
		}
		results += len(update.Events)
	}
	say("all is done, or set aside")
	return nil
}
