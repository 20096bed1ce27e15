package main

import (
	"context"
	"errors"
	"fmt"

	"conclave/client"
	"conclave/client/wire"
)

// ErrOtherPlan says that the plan is not the one that was seen.
var ErrOtherPlan = errors.New("another host has changed the plan")

// Rooms are the peers of each breakout room.
type Rooms map[string][]string

// PlanBreakout replaces the whole plan by another, unless a host has changed it
// since the caller saw it (at rev seen, 0 for none). Everybody sees the old rooms
// or the new ones, never some of both.
func PlanBreakout(ctx context.Context, room *client.Room, rooms Rooms, seen uint64) (rev uint64, err error) {
	members := map[string]any{}
	for name, peers := range rooms {
		members["breakout/room/"+name] = peers
	}
	result, err := room.Txn(ctx, wire.Txn{
		If: []wire.Cond{client.RevIs("breakout/plan", seen)},
		Then: []wire.Op{
			client.DeletePrefixOp("breakout/room/"),
			client.MergeOp(members),
			client.PutOp("breakout/plan", len(rooms)),
		},
	})
	switch {
	case err != nil:
		return 0, err
	case !result.Applied:
		return 0, ErrOtherPlan
	}
	return result.Rev, nil
}

// MovePeer changes two rooms and nothing else, if both are as they were seen.
func MovePeer(ctx context.Context, room *client.Room, peer string, from, to wire.Entry) error {
	result, err := room.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.RevIs(from.Key, from.Rev), client.RevIs(to.Key, to.Rev)},
		Then: []wire.Op{client.RemoveOp(from.Key, []string{peer}), client.AppendOp(to.Key, []string{peer})},
	})
	if err == nil && !result.Applied {
		err = ErrOtherPlan
	}
	return err
}

func playBreakout(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	ada, bob, eve := peers[0].Peer(), peers[1].Peer(), peers[2].Peer()
	if _, err := PlanBreakout(ctx, peers[0], Rooms{"red": {ada, bob}, "blue": {eve}}, 0); err != nil {
		return err
	}
	say("Ada has planned two rooms")
	_, err := PlanBreakout(ctx, peers[1], Rooms{"green": {ada, bob, eve}}, 0)
	say("Bob did not see that: %v", err)
	red, err := peers[0].Get(ctx, "breakout/room/red")
	if err != nil {
		return err
	}
	blue, err := peers[0].Get(ctx, "breakout/room/blue")
	if err != nil {
		return err
	}
	if err := MovePeer(ctx, peers[0], bob, *red, *blue); err != nil {
		return err
	}
	if blue, err = peers[2].Get(ctx, "breakout/room/blue"); err != nil {
		return err
	}
	if got, want := fmt.Sprint(*decode[[]string](blue.Value)), fmt.Sprint([]string{eve, bob}); got != want {
		return fmt.Errorf("the blue room has %s, want %s", got, want)
	}
	say("Bob has moved from red to blue")
	return nil
}
