package main

import (
	"context"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// StartTimer starts the room's timer, or joins the one that runs: of all who start
// it at once, one does, and all get the same. Its entry goes when it is over.
func StartTimer(ctx context.Context, room *client.Room, length time.Duration) (*wire.Entry, error) {
	for {
		_, err := room.Put(ctx, "timer", length.Milliseconds(), client.IfAbsent(), client.TTL(length))
		if err != nil && !client.IsConflict(err) {
			return nil, err
		}
		timer, err := room.Get(ctx, "timer")
		if !client.IsNotFound(err) {
			return timer, err
		}
		// It was over before it could be read: start another.
	}
}

// TimeLeft is what to show, by the servers' clock: this machine's may be wrong.
func TimeLeft(ctx context.Context, room *client.Room, timer *wire.Entry) (time.Duration, error) {
	ends, err := time.Parse(time.RFC3339, timer.ExpiresAt)
	if err != nil {
		return 0, err
	}
	now, err := room.Time(ctx)
	return max(ends.Sub(now), 0), err
}

// AwaitTimer returns when the timer is over: when the servers say so, for all at the
// same revision, whatever anybody's clock shows.
func AwaitTimer(ctx context.Context, room *client.Room) error {
	watch, err := room.Watch(ctx, client.Keys("timer"))
	if err != nil {
		return err
	}
	defer watch.Close()
	for update, err := range watch.All(ctx) {
		if err != nil {
			return err
		}
		if update.Snapshot != nil && len(update.Snapshot.Stores["default"]) == 0 {
			return nil // it was over already
		}
		for _, event := range update.Events {
			if event.Type == "delete" {
				return nil
			}
		}
	}
	return ctx.Err()
}

func playTimer(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	var timer *wire.Entry
	for i, peer := range peers {
		var err error
		if timer, err = StartTimer(ctx, peer, time.Duration(i+1)*time.Second); err != nil {
			return err
		}
		say("peer %d has a timer of %s ms, version %d", i+1, timer.Value, timer.Version)
	}
	left, err := TimeLeft(ctx, peers[2], timer)
	if err != nil {
		return err
	}
	say("%v are left", left)
	if err := AwaitTimer(ctx, peers[2]); err != nil {
		return err
	}
	say("time is up")
	return nil
}
