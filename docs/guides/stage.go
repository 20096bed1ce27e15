package main

import (
	"context"
	"fmt"
	"sync"

	"conclave/client"
)

// OnStage waits for its turn on the stage, shows it to everybody, and runs act. The
// context of act ends when the stage is lost: by a moderator, or with the connection.
func OnStage(ctx context.Context, room *client.Room, act func(ctx context.Context, stage *client.Lock) error) error {
	stage, err := room.Lock(ctx, "stage", client.ReleaseOnDetach())
	if err != nil {
		return err
	}
	mine, cancel := stage.Context(ctx)
	defer cancel()
	if _, err = stage.Put(mine, room.Peer(), client.Bound()); err == nil {
		err = act(mine, stage)
	}
	if _, deleted := room.Delete(mine, "stage", client.Under(stage)); err == nil {
		err = deleted
	}
	if unlocked := stage.Unlock(ctx); err == nil {
		err = unlocked
	}
	return err
}

func playStage(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	ada, bob, whole := peers[0], peers[1], ctx
	var all sync.WaitGroup
	defer all.Wait()
	var fence uint64
	err := OnStage(ctx, ada, func(ctx context.Context, stage *client.Lock) error {
		fence = stage.Fence()
		say("Ada is on stage")
		if _, err := bob.Put(ctx, "stage", "me"); !client.IsLocked(err) {
			return fmt.Errorf("a write of Bob past the lock: %v", err)
		}
		say("Bob may not write, and gets into line")
		all.Go(func() {
			err := OnStage(whole, bob, func(context.Context, *client.Lock) error {
				say("Bob is on stage")
				return nil
			})
			if err != nil {
				say("Bob never was: %v", err)
			}
		})
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := ada.Put(ctx, "stage", "encore", client.Fence(fence)); !client.IsStaleFence(err) {
		return fmt.Errorf("a write of Ada after her time: %v", err)
	}
	say("Ada's time is over")
	return nil
}
