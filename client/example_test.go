package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// A peer pins a message for everybody, unless somebody else has pinned one.
func Example_pinnedMessage() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Servers: demoServers()}) // "10.0.0.1:7400", "10.0.0.2:7400", …
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	room, err := c.Join(ctx, "standup", client.JoinOptions{Name: "Ada"})
	if err != nil {
		fmt.Println(err)
		return
	}

	for _, message := range []string{"Questions at the end, please", "Lunch!"} {
		_, err = room.Put(ctx, "pinned", message, client.IfAbsent())
		switch {
		case err == nil:
			fmt.Println("pinned:", message)
		case client.IsConflict(err):
			entry, err := room.Get(ctx, "pinned")
			if err == nil {
				fmt.Printf("somebody has pinned %s\n", entry.Value)
			}
		case client.MayHaveApplied(err):
			fmt.Println("no answer in time: it may be pinned")
		default:
			fmt.Println("not pinned:", err)
		}
	}
	// Output:
	// pinned: Questions at the end, please
	// somebody has pinned "Questions at the end, please"
}

// Two moderators edit the list of blocked users at the same time, and neither
// loses what the other adds.
func ExampleModify() {
	ctx := context.Background()
	ada, bob, done := demo("blocklist")
	defer done()

	var both sync.WaitGroup
	for user, room := range map[string]*client.Room{"eve": ada, "mallory": bob} {
		both.Go(func() {
			_, err := client.Modify(ctx, room, "blocked", func(users []string) ([]string, error) {
				return append(users, user), nil
			})
			if err != nil {
				fmt.Println(err)
			}
		})
	}
	both.Wait()
	users, _, err := client.GetAs[[]string](ctx, ada, "blocked")
	fmt.Println(len(users), "blocked", err)
	// Output: 2 blocked <nil>
}

// The holder of the stage writes under its lock. Its fence tells it from those
// before and after: a write that comes too late is refused.
func ExampleRoom_Lock() {
	ctx := context.Background()
	ada, bob, done := demo("stage")
	defer done()

	lock, err := ada.Lock(ctx, "stage", client.TTL(15*time.Second), client.Wait(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	work, cancel := lock.Context(ctx) // ends when the lock is lost
	defer cancel()
	if _, err := lock.Put(work, "first scene"); err == nil {
		fmt.Println("Ada is on stage")
	}
	if _, err := bob.Put(ctx, "stage", "me!"); client.IsLocked(err) {
		fmt.Println("Bob may not write")
	}
	if err := lock.Unlock(ctx); err != nil {
		fmt.Println(err)
	}
	if _, err := ada.Put(ctx, "stage", "encore", client.Fence(lock.Fence())); client.IsStaleFence(err) {
		fmt.Println("Ada's time is over")
	}
	// Output:
	// Ada is on stage
	// Bob may not write
	// Ada's time is over
}

// A program keeps its own copy of part of the room: a snapshot replaces it, events
// change it. Nothing is missed in between, nor when the connection moves to
// another node.
func ExampleRoom_Watch() {
	ctx := context.Background()
	ada, bob, done := demo("poll")
	defer done()
	if _, err := ada.Put(ctx, "poll/question", "Pizza?"); err != nil {
		fmt.Println(err)
		return
	}

	watch, err := bob.Watch(ctx, client.Keys("pinned", "poll/*"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer watch.Close()
	_, err = ada.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.Exists("poll/question")},
		Then: []wire.Op{client.PutOp("poll/yes", 1), client.PutOp("poll/no", 0)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	state := map[string]string{}
	for update, err := range watch.All(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if update.Snapshot != nil {
			clear(state) // what was known is void; Reset says why
			for _, entry := range update.Snapshot.Stores["default"] {
				state[entry.Key] = string(entry.Value)
			}
		}
		for _, event := range update.Events { // all of one transaction
			switch event.Type {
			case "put":
				state[event.Key] = string(event.Value)
			case "delete":
				delete(state, event.Key)
			}
		}
		fmt.Println(state)
		if len(state) == 3 {
			return
		}
	}
	// Output:
	// map[poll/question:"Pizza?"]
	// map[poll/no:0 poll/question:"Pizza?" poll/yes:1]
}

// A server that is no peer of the room runs a job under a lock, over HTTP.
func ExampleHTTP_Lock() {
	ctx := context.Background()
	h, err := client.NewHTTP(client.HTTPConfig{Config: client.Config{Servers: demoServers()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	lock, err := h.Lock(ctx, "jobs", "nightly", client.LockParams{TTL: 15 * time.Second, Open: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("running")
	if _, err := h.Lock(ctx, "jobs", "nightly", client.LockParams{}); client.IsLocked(err) {
		fmt.Println("another server leaves it alone")
	}
	if err := lock.Unlock(ctx); err == nil {
		fmt.Println("done")
	}
	// Output:
	// running
	// another server leaves it alone
	// done
}

// demoServers are the addresses of a cluster that runs for the examples.
var demoServers = sync.OnceValue(func() []string {
	return startServers(demoT{}).config().Servers
})

// demo joins a room of that cluster with two peers.
func demo(room string) (ada, bob *client.Room, done func()) {
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Config{Servers: demoServers()})
	if err != nil {
		panic(err)
	}
	if ada, err = c.Join(ctx, room, client.JoinOptions{Name: "Ada"}); err != nil {
		panic(err)
	}
	if bob, err = c.Join(ctx, room, client.JoinOptions{Name: "Bob"}); err != nil {
		panic(err)
	}
	return ada, bob, func() { c.Close() }
}

// demoT stands in for the test that examples do not have. Their cluster ends with
// the process.
type demoT struct{ testing.TB }

func (demoT) Helper()                   {}
func (demoT) Cleanup(func())            {}
func (demoT) Context() context.Context  { return context.Background() }
func (demoT) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (demoT) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (demoT) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
