package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"conclave/api"
	"conclave/client"
	"conclave/client/wire"
	"conclave/cluster/sim"
)

// theatre is a cluster of three nodes, of the real thing, on which the guides play.
type theatre struct {
	t     *testing.T
	nodes []string // URLs
}

func newTheatre(t *testing.T) *theatre {
	t.Helper()
	c := sim.NewCluster(t, 3)
	th := &theatre{t: t}
	for i := range 3 {
		s := api.New(api.Config{Version: "test"}, api.Of(c.Node(i)))
		h := httptest.NewServer(s.Handler())
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := s.Close(ctx); err != nil {
				t.Errorf("close: %v", err)
			}
			h.Close()
		})
		th.nodes = append(th.nodes, h.URL)
	}
	return th
}

// peers joins n peers, in turn on each of the nodes.
func (th *theatre) peers(t *testing.T, room string, n int) []*client.Room {
	t.Helper()
	var peers []*client.Room
	for i := range n {
		c, err := client.Dial(patience(t), client.Config{Servers: th.nodes[i%3 : i%3+1]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		peer, err := c.Join(patience(t), room, client.JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, peer)
	}
	return peers
}

// patience is a context that outlasts whatever a slow machine may do.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// race runs f for all peers at once, and waits.
func race(peers []*client.Room, f func(i int, peer *client.Room)) {
	var all sync.WaitGroup
	for i, peer := range peers {
		all.Go(func() { f(i, peer) })
	}
	all.Wait()
}

// TestGuides plays what a user who runs the guides sees, and then races each of
// them on purpose: peers on three nodes do at once what loses updates elsewhere.
func TestGuides(t *testing.T) {
	th := newTheatre(t)
	races := map[string]func(*testing.T, *theatre){
		"pinned": racePinned, "spotlight": raceSpotlight, "poll": racePoll, "hands": raceHands,
		"stage": raceStage, "breakout": raceBreakout, "timer": raceTimer,
		"election": raceElection, "queue": raceQueue,
	}
	for name, play := range plays {
		t.Run(name, func(t *testing.T) {
			var said []string
			var mu sync.Mutex
			err := play(patience(t), th.peers(t, "play-"+name, 3), func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, fmt.Sprintf(format, args...))
			})
			if err != nil || len(said) < 2 {
				t.Errorf("%v, after %q", err, said)
			}
			t.Log(strings.Join(said, "\n"))
			races[name](t, th)
		})
	}
}

func racePinned(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "pinned", 6)
	race(peers, func(i int, peer *client.Room) {
		for n := range 5 {
			stays, goes := Pin{fmt.Sprintf("m%d-%d", i, n), "stays"}, Pin{fmt.Sprintf("m%d-%d", i, n), "goes"}
			for _, err := range []error{PinMessage(ctx, peer, goes), PinMessage(ctx, peer, stays), PinMessage(ctx, peer, stays), UnpinMessage(ctx, peer, goes)} {
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	pins, seen, err := Pins(ctx, peers[0])
	if err != nil || len(pins) != 30 || slices.ContainsFunc(pins, func(p Pin) bool { return p.Text != "stays" }) {
		t.Errorf("%d messages are pinned, want 30 (%v): %v", len(pins), err, pins)
	}
	replaced := make([]bool, len(peers))
	race(peers, func(i int, peer *client.Room) {
		err := ReplacePins(ctx, peer, pins[i:i+1], seen)
		if replaced[i] = err == nil; err != nil && !client.IsConflict(err) {
			t.Error(err)
		}
	})
	pins, _, err = Pins(ctx, peers[1])
	if winner := slices.Index(replaced, true); err != nil || winner < 0 || slices.Contains(replaced[winner+1:], true) || len(pins) != 1 {
		t.Errorf("%v replaced the list, which is %v (%v)", replaced, pins, err)
	}
}

func raceSpotlight(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "spotlight", 6)
	var seen uint64
	for round := range 5 {
		revs := make([]uint64, len(peers))
		race(peers, func(i int, peer *client.Room) {
			var err error
			revs[i], err = Spotlight(ctx, peer, Spot{peers[i].Peer(), "camera"}, seen)
			if err != nil && !client.IsConflict(err) {
				t.Error(err)
			}
		})
		if slices.Sort(revs); revs[len(revs)-1] == 0 || revs[len(revs)-2] != 0 {
			t.Fatalf("round %d: writes at %v, want one", round, revs)
		}
		seen = revs[len(revs)-1]
	}
	if _, err := Spotlight(ctx, peers[0], Spot{"pnobody", "camera"}, seen); !client.IsNotFound(err) {
		t.Errorf("a spotlight on nobody: %v", err)
	}
}

func racePoll(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "poll", 9)
	opened := 0
	var mu sync.Mutex
	race(peers, func(_ int, peer *client.Room) {
		switch err := OpenPoll(ctx, peer, "p", "a", "b", "c"); {
		case err == nil:
			mu.Lock()
			opened++
			mu.Unlock()
		case !errors.Is(err, ErrExists):
			t.Error(err)
		}
	})
	if opened != 1 {
		t.Errorf("the poll was opened %d times", opened)
	}

	// Everybody clicks three times, on whatever; somebody closes meanwhile.
	counted := map[string]int{}
	race(peers, func(i int, peer *client.Room) {
		var all sync.WaitGroup
		for range 3 {
			choice := []string{"a", "b", "c"}[rand.IntN(3)]
			all.Go(func() {
				switch err := Vote(ctx, peer, "p", choice); {
				case err == nil:
					mu.Lock()
					counted[choice]++
					mu.Unlock()
				case !errors.Is(err, ErrVoted) && !errors.Is(err, ErrNoPoll):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if i == 8 {
			if err := ClosePoll(ctx, peer, "p"); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total, err := Count(ctx, peer, "p")
			if err != nil || total["a"]+total["b"]+total["c"] > 9 {
				t.Errorf("%v, %v", total, err)
			}
		}
	})
	if err := Vote(ctx, peers[0], "p", "a"); !errors.Is(err, ErrVoted) && !errors.Is(err, ErrNoPoll) {
		t.Errorf("a late vote: %v", err)
	}
	if err := Vote(ctx, peers[0], "p", "d"); !errors.Is(err, ErrVoted) && !errors.Is(err, ErrNoPoll) {
		t.Errorf("a vote for what is no choice: %v", err)
	}
	total, err := Count(ctx, peers[1], "p")
	if err != nil {
		t.Fatal(err)
	}
	votes, err := peers[2].List(ctx, client.ListParams{Prefix: pollKey("p", "vote", "")})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{"a": 0, "b": 0, "c": 0}
	for _, vote := range votes.Entries {
		listed[*decode[string](vote.Value)]++
	}
	for choice, n := range total {
		if n != counted[choice] || n != listed[choice] {
			t.Errorf("%s: the count is %d, %d were told that theirs counts, %d votes are kept", choice, n, counted[choice], listed[choice])
		}
	}
}

func raceHands(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "hands", 8)
	moderators, guests := peers[:3], peers[3:]
	race(guests, func(i int, peer *client.Room) {
		for range 3 { // impatient
			if err := RaiseHand(ctx, peer); err != nil {
				t.Error(err)
			}
		}
	})
	hands, err := RaisedHands(ctx, peers[0])
	if err != nil || len(hands) != len(guests) {
		t.Fatalf("%d hands are up, %v", len(hands), err)
	}
	for i, hand := range hands {
		if hand.Version != 1 || i > 0 && hand.CreatedRev <= hands[i-1].CreatedRev {
			t.Errorf("place %d: %+v", i, hand)
		}
	}
	// All moderators press "next" for the first in line: it is called once.
	called := make([]bool, len(moderators))
	race(moderators, func(i int, moderator *client.Room) {
		var err error
		if called[i], err = CallHand(ctx, moderator, hands[0]); err != nil {
			t.Error(err)
		}
	})
	if first := slices.Index(called, true); first < 0 || slices.Contains(called[first+1:], true) {
		t.Errorf("the first in line was called by %v", called)
	}
	// Who leaves takes the hand along, and nobody else's.
	of := func(hand wire.Entry) *client.Room {
		return guests[slices.IndexFunc(guests, func(peer *client.Room) bool { return "hand/"+peer.Peer() == hand.Key })]
	}
	if err := of(hands[len(hands)-1]).Leave(ctx); err != nil {
		t.Error(err)
	}
	left, err := RaisedHands(ctx, peers[1])
	if err != nil || len(left) != len(hands)-2 || left[0].Key != hands[1].Key {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := LowerHand(ctx, of(hands[1])); err != nil {
		t.Error(err)
	}
	if left, err = RaisedHands(ctx, peers[1]); err != nil || len(left) != len(hands)-3 {
		t.Errorf("after one was lowered: %v, %v", left, err)
	}
	if err := LowerAllHands(ctx, peers[0]); err != nil {
		t.Error(err)
	}
	if left, err = RaisedHands(ctx, peers[2]); err != nil || len(left) != 0 {
		t.Errorf("after all were lowered: %v, %v", left, err)
	}
}

func raceStage(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "stage", 6)
	var mu sync.Mutex
	var onStage int
	var fences []uint64
	race(peers, func(i int, peer *client.Room) {
		err := OnStage(ctx, peer, func(ctx context.Context, stage *client.Lock) error {
			mu.Lock()
			fences = append(fences, stage.Fence())
			if onStage++; onStage != 1 {
				t.Errorf("%d are on stage", onStage)
			}
			mu.Unlock()
			defer func() { mu.Lock(); onStage--; mu.Unlock() }()
			got, rev, err := client.GetAs[string](ctx, peer, "stage")
			if err != nil || got != peer.Peer() || rev <= stage.Fence() {
				t.Errorf("the stage shows %s, %v", got, err)
			}
			// Nobody else writes it, with whatever fence it has seen.
			other := peers[(i+1)%len(peers)]
			if _, err := other.Put(ctx, "stage", "me"); !client.IsLocked(err) {
				t.Errorf("past the lock: %v", err)
			}
			if _, err := other.Put(ctx, "stage", "me", client.Fence(stage.Fence())); !client.IsStaleFence(err) {
				t.Errorf("with the fence of another: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if !slices.IsSorted(fences) || len(fences) != len(peers) {
		t.Errorf("fences %v", fences)
	}
	if _, err := peers[0].Get(ctx, "stage"); !client.IsNotFound(err) {
		t.Errorf("the stage is not empty: %v", err)
	}

	// Who leaves while on stage makes room for the next.
	var leaving sync.WaitGroup
	defer leaving.Wait()
	err := OnStage(ctx, peers[0], func(ctx context.Context, _ *client.Lock) error {
		leaving.Go(func() { peers[0].Close() }) // as a page that is closed
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if err == nil {
		t.Error("who has left does not know that it lost the stage")
	}
	if err := OnStage(ctx, peers[1], func(context.Context, *client.Lock) error { return nil }); err != nil {
		t.Error(err)
	}
}

func raceBreakout(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "breakout", 6)
	watch, err := peers[5].Watch(ctx, client.Keys("breakout/*"))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	const rounds = 4
	var seen uint64
	for round := range rounds {
		revs := make([]uint64, 5)
		race(peers[:5], func(i int, host *client.Room) {
			// Each host's plan has rooms of its own name, i+1 of them.
			rooms := Rooms{}
			for n := range i + 1 {
				rooms[fmt.Sprintf("%d-%d-%d", round, i, n)] = []string{host.Peer()}
			}
			var err error
			if revs[i], err = PlanBreakout(ctx, host, rooms, seen); err != nil && !errors.Is(err, ErrOtherPlan) {
				t.Error(err)
			}
		})
		if slices.Sort(revs); revs[4] == 0 || revs[3] != 0 {
			t.Fatalf("round %d: plans at %v, want one", round, revs)
		}
		seen = revs[4]
	}
	// A watcher never sees rooms of two plans.
	rooms := map[string]bool{}
	for watch.Rev() < seen {
		update, err := watch.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, e := range update.Events {
			name, isRoom := strings.CutPrefix(e.Key, "breakout/room/")
			switch {
			case e.Type == "put" && isRoom:
				rooms[name] = true
			case e.Type == "put":
				count = *decode[int](e.Value)
			default:
				delete(rooms, name)
			}
		}
		plans := map[string]bool{}
		for name := range rooms {
			plans[name[:strings.LastIndex(name, "-")]] = true
		}
		if update.Events != nil && (len(plans) != 1 || len(rooms) != count) {
			t.Errorf("at %d there are the rooms %v, %d in the plan", update.Rev, rooms, count)
		}
	}

	// Two moves that saw the same rooms: one is made.
	if _, err := PlanBreakout(ctx, peers[0], Rooms{"red": {"a", "b"}, "blue": {}}, seen); err != nil {
		t.Fatal(err)
	}
	red, err := peers[0].Get(ctx, "breakout/room/red")
	if err != nil {
		t.Fatal(err)
	}
	blue, err := peers[0].Get(ctx, "breakout/room/blue")
	if err != nil {
		t.Fatal(err)
	}
	moved := make([]bool, 2)
	race(peers[:2], func(i int, host *client.Room) {
		err := MovePeer(ctx, host, []string{"a", "b"}[i], *red, *blue)
		if moved[i] = err == nil; err != nil && !errors.Is(err, ErrOtherPlan) {
			t.Error(err)
		}
	})
	if moved[0] == moved[1] {
		t.Errorf("of two moves that saw the same rooms, %v were made", moved)
	}
}

func raceTimer(t *testing.T, th *theatre) {
	ctx := patience(t)
	peers := th.peers(t, "timer", 6)
	revs, values := make([]uint64, len(peers)), make([]string, len(peers))
	race(peers, func(i int, peer *client.Room) {
		timer, err := StartTimer(ctx, peer, time.Duration(i+1)*time.Hour)
		if err != nil {
			t.Error(err)
			return
		}
		revs[i], values[i] = timer.Rev, string(timer.Value)
		if left, err := TimeLeft(ctx, peer, timer); err != nil || left <= 0 || left > 6*time.Hour {
			t.Errorf("%v are left, %v", left, err)
		}
	})
	for i := range peers {
		if revs[i] != revs[0] || values[i] != values[0] {
			t.Errorf("peer %d has the timer of %s ms at %d, the first %s at %d", i, values[i], revs[i], values[0], revs[0])
		}
	}
	// The end is the same event for all.
	if _, err := peers[0].Delete(ctx, "timer"); err != nil {
		t.Fatal(err)
	}
	if _, err := StartTimer(ctx, peers[0], 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	race(peers, func(_ int, peer *client.Room) {
		if err := AwaitTimer(ctx, peer); err != nil {
			t.Error(err)
		}
	})
}
