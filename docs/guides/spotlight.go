package main

import (
	"context"
	"errors"
	"fmt"

	"conclave/client"
)

// Spot is who is in the spotlight, and with which track.
type Spot struct {
	Peer  string `json:"peer"`
	Track string `json:"track"`
}

// Spotlight puts a peer into the spotlight, unless it has moved since the caller
// saw it (seen is its revision then, 0 for nobody): then the error is a conflict.
// It goes out when the peer leaves.
func Spotlight(ctx context.Context, room *client.Room, spot Spot, seen uint64) (rev uint64, err error) {
	w, err := room.Put(ctx, "spotlight", spot, client.IfRev(seen), client.BoundTo(spot.Peer))
	if err != nil {
		return 0, err
	}
	return w.Rev, nil
}

// FollowSpotlight calls show with each spot from now on, nil for none, and with
// the revision to pass to Spotlight, until ctx ends.
func FollowSpotlight(ctx context.Context, room *client.Room, show func(spot *Spot, rev uint64)) error {
	watch, err := room.Watch(ctx, client.Keys("spotlight"))
	if err != nil {
		return err
	}
	defer watch.Close()
	for update, err := range watch.All(ctx) {
		if err != nil {
			return err
		}
		if update.Snapshot != nil { // the first, and after a gap
			show(nil, 0)
			for _, entry := range update.Snapshot.Stores["default"] {
				show(decode[Spot](entry.Value), entry.Rev)
			}
		}
		for _, event := range update.Events {
			switch event.Type {
			case "put":
				show(decode[Spot](event.Value), event.Rev)
			case "delete":
				show(nil, 0)
			}
		}
	}
	return ctx.Err()
}

func playSpotlight(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	ada, bob, eve := peers[0], peers[1], peers[2]
	rev, err := Spotlight(ctx, ada, Spot{eve.Peer(), "camera"}, 0)
	if err != nil {
		return err
	}
	say("Ada has put Eve into the spotlight")
	if _, err := Spotlight(ctx, bob, Spot{ada.Peer(), "screen"}, 0); client.IsConflict(err) {
		say("Bob meant an empty spotlight, and is told that it is taken")
	} else if err != nil {
		return err
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	dark, left := false, error(nil)
	err = FollowSpotlight(ctx, bob, func(spot *Spot, at uint64) {
		switch {
		case spot != nil && at == rev:
			say("Bob sees Eve's %s, and Eve leaves", spot.Track)
			left = eve.Leave(ctx)
			rev = 0
		case spot == nil && rev == 0:
			dark = true
			stop()
		}
	})
	if !dark || left != nil {
		return fmt.Errorf("the spotlight stays on: %w", errors.Join(left, err))
	}
	say("the spotlight is dark")
	return nil
}
