// Command guides runs the code of the guides beside it against a cluster, so that
// nothing in them is mere paper:
//
//	go run ./cmd/conclave dev     # in one terminal
//	go run ./docs/guides poll     # in another
//
// Each guide has a page and a file of its name. The file has the functions that an
// app would have, which the page quotes, and a play, in which a few peers use them.
// The tests run the plays, and race the functions, on three nodes. Nothing imports
// this package; it knows the client and nothing else.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"conclave/client"
)

// play shows a guide's code at work, with peers of one room, and says what happens.
type play func(ctx context.Context, peers []*client.Room, say func(format string, args ...any)) error

var plays = map[string]play{
	"pinned": playPinned, "spotlight": playSpotlight, "poll": playPoll, "hands": playHands,
	"stage": playStage, "breakout": playBreakout, "timer": playTimer, "election": playElection, "queue": playQueue,
}

func main() {
	if len(os.Args) != 2 || plays[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: go run ./docs/guides", strings.Join(slices.Sorted(maps.Keys(plays)), "|"))
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run lets three peers play, on whatever nodes CONCLAVE_SERVER names.
func run(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	servers := os.Getenv("CONCLAVE_SERVER")
	if servers == "" {
		servers = "http://127.0.0.1:7400"
	}
	c, err := client.Dial(ctx, client.Config{Servers: strings.Split(servers, ",")})
	if err != nil {
		return err
	}
	defer c.Close()
	var peers []*client.Room
	for _, who := range []string{"Ada", "Bob", "Eve"} {
		peer, err := c.Join(ctx, "guide-"+name, client.JoinOptions{Name: who})
		if err != nil {
			return err
		}
		peers = append(peers, peer)
	}
	return plays[name](ctx, peers, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
}
