package main

import (
	"context"

	"conclave/client"
)

// Pin is a pinned message.
type Pin struct {
	Message string `json:"message"` // the app's id of it
	Text    string `json:"text"`
}

// PinMessage puts a message at the end of the room's pins. One that is pinned
// already stays where it is.
func PinMessage(ctx context.Context, room *client.Room, pin Pin) error {
	_, err := room.Append(ctx, "pinned", []Pin{pin}, client.Unique())
	return err
}

// UnpinMessage takes it away, and leaves alone what others pin meanwhile.
func UnpinMessage(ctx context.Context, room *client.Room, pin Pin) error {
	_, err := room.Remove(ctx, "pinned", []Pin{pin})
	return err
}

// ReplacePins sets the whole list, unless somebody has changed it since the caller
// saw it: then the error is a conflict, and the caller looks again.
func ReplacePins(ctx context.Context, room *client.Room, pins []Pin, seen uint64) error {
	_, err := room.Put(ctx, "pinned", pins, client.IfRev(seen))
	return err
}

// Pins are the pinned messages, and the revision at which they became so; 0 if
// nobody has pinned any.
func Pins(ctx context.Context, room *client.Room) (pins []Pin, rev uint64, err error) {
	pins, rev, err = client.GetAs[[]Pin](ctx, room, "pinned")
	if client.IsNotFound(err) {
		err = nil
	}
	return pins, rev, err
}

func playPinned(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	ada, bob := peers[0], peers[1]
	rules, lunch := Pin{"m1", "Questions at the end, please"}, Pin{"m7", "Lunch is at noon"}
	for peer, pin := range map[*client.Room]Pin{ada: rules, bob: lunch} {
		if err := PinMessage(ctx, peer, pin); err != nil {
			return err
		}
	}
	pins, seen, err := Pins(ctx, peers[2])
	if err != nil {
		return err
	}
	say("%d messages are pinned", len(pins))
	if err := UnpinMessage(ctx, ada, lunch); err != nil {
		return err
	}
	if err := ReplacePins(ctx, bob, nil, seen); client.IsConflict(err) {
		say("Bob may not clear a list that is not the one he saw")
	} else if err != nil {
		return err
	}
	pins, _, err = Pins(ctx, bob)
	say("pinned: %v", pins)
	return err
}
