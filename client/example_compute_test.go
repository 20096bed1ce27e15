package client_test

import (
	"context"
	"fmt"
	"sync"

	"conclave/client"
	"conclave/client/wire"
)

// A poll with one vote per peer. All vote at once in one entry, and change their
// minds: the servers put each vote in, so that none writes over another's, which
// reading, adding and writing back would do.
func ExampleRoom_Update_poll() {
	ctx := context.Background()
	ada, bob, done := demo("lunch")
	defer done()
	if _, err := ada.Merge(ctx, map[string]any{"question": "Lunch?", "votes": map[string]string{}}, nil); err != nil {
		fmt.Println(err)
		return
	}

	var all sync.WaitGroup
	for peer, choices := range map[*client.Room][]string{ada: {"soup", "pizza"}, bob: {"pizza"}} {
		all.Go(func() {
			for _, choice := range choices {
				// The member named after the peer is its vote: a second takes the place
				// of the first.
				if _, err := peer.Update(ctx, "votes", map[string]string{peer.Peer(): choice}); err != nil {
					fmt.Println(err)
				}
			}
		})
	}
	all.Wait()
	votes, _, err := client.GetAs[map[string]string](ctx, ada, "votes")
	count := map[string]int{}
	for _, choice := range votes {
		count[choice]++
	}
	fmt.Println(count, err)

	// The poll is over for everybody at one revision.
	_, err = ada.Merge(ctx, map[string]any{"result": count}, []string{"question", "votes"})
	fmt.Println("closed", err)
	// Output:
	// map[pizza:2] <nil>
	// closed <nil>
}

// A counter that everybody counts up, without reading it: no increment is lost,
// and one whose connection breaks on the way is counted once.
func ExampleRoom_Add() {
	ctx := context.Background()
	ada, bob, done := demo("applause")
	defer done()

	var all sync.WaitGroup
	for _, peer := range []*client.Room{ada, bob} {
		for range 10 {
			all.Go(func() {
				if _, err := peer.Add(ctx, "claps", 1); err != nil {
					fmt.Println(err)
				}
			})
		}
	}
	all.Wait()
	total, err := ada.Add(ctx, "claps", 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s claps\n", total.Value)
	// Output: 20 claps
}

// Raised hands, in the order in which they were raised: a hand that is up already
// keeps its place. Lowering all and counting the rounds is one transaction.
func ExampleRoom_Append_hands() {
	ctx := context.Background()
	ada, bob, done := demo("hands")
	defer done()

	for _, peer := range []*client.Room{bob, ada, bob} {
		if _, err := peer.Append(ctx, "hands", []string{peer.Peer()}, client.Unique()); err != nil {
			fmt.Println(err)
			return
		}
	}
	hands, _, err := client.GetAs[[]string](ctx, ada, "hands")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(hands), "hands, Bob's first:", hands[0] == bob.Peer())
	if _, err := bob.Remove(ctx, "hands", []string{bob.Peer()}); err != nil {
		fmt.Println(err)
		return
	}
	result, err := ada.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.Exists("hands")},
		Then: []wire.Op{client.PutOp("hands", []string{}), client.AddOp("rounds", 1)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("round %s is over\n", result.Results[1].Value)
	// Output:
	// 2 hands, Bob's first: true
	// round 1 is over
}
