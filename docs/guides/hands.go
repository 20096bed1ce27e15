package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"conclave/client"
	"conclave/client/wire"
)

// RaiseHand raises this peer's hand. A hand that is up keeps its place; it goes
// down by itself when the peer leaves.
func RaiseHand(ctx context.Context, room *client.Room) error {
	_, err := room.Put(ctx, "hand/"+room.Peer(), true, client.IfAbsent(), client.Bound())
	if client.IsConflict(err) {
		return nil // it is up
	}
	return err
}

// LowerHand takes it down.
func LowerHand(ctx context.Context, room *client.Room) error {
	_, err := room.Delete(ctx, "hand/"+room.Peer())
	return err
}

// RaisedHands are the entries of the hands that are up, in the order in which they
// were raised: by the revision at which each was created, which no two share.
func RaisedHands(ctx context.Context, room *client.Room) ([]wire.Entry, error) {
	page, err := room.List(ctx, client.ListParams{Prefix: "hand/"})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(page.Entries, func(a, b wire.Entry) int { return cmp.Compare(a.CreatedRev, b.CreatedRev) })
	return page.Entries, nil
}

// CallHand gives the floor to the peer of a hand: the hand goes down as the speaker
// changes. false: it went down meanwhile, or another moderator was quicker.
func CallHand(ctx context.Context, room *client.Room, hand wire.Entry) (bool, error) {
	result, err := room.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.RevIs(hand.Key, hand.Rev)},
		Then: []wire.Op{client.DeleteOp(hand.Key), client.PutOp("speaker", strings.TrimPrefix(hand.Key, "hand/"))},
	})
	if err != nil {
		return false, err
	}
	return result.Applied, nil
}

// LowerAllHands takes all of them down at once.
func LowerAllHands(ctx context.Context, room *client.Room) error {
	_, err := room.DeletePrefix(ctx, "hand/")
	return err
}

func playHands(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	for _, peer := range []*client.Room{peers[1], peers[2], peers[1]} {
		if err := RaiseHand(ctx, peer); err != nil {
			return err
		}
	}
	hands, err := RaisedHands(ctx, peers[0])
	if err != nil {
		return err
	}
	if len(hands) != 2 || hands[0].Key != "hand/"+peers[1].Peer() {
		return fmt.Errorf("the hands that are up: %v", hands)
	}
	say("%d hands are up, Bob's first", len(hands))
	for _, moderator := range []string{"Ada", "another moderator"} {
		called, err := CallHand(ctx, peers[0], hands[0])
		if err != nil {
			return err
		}
		say("%s calls Bob: %v", moderator, called)
	}
	return LowerAllHands(ctx, peers[0])
}
