package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// The guarantees that live at the level of a cluster, each by a schedule of its
// own; TestStorm has them all at once. Times are virtual: a bound on them is part
// of the promise, not of the machine's speed.

// inBubble runs a test on a cluster of three, and judges its history if told to
// record one.
func inBubble(t *testing.T, opts Options, f func(t *testing.T, c *Cluster, h *History)) {
	t.Helper()
	var h *History
	synctest.Test(t, func(t *testing.T) {
		h = NewHistory()
		opts.History = h
		c := Start(t, opts)
		f(t, c, h)
		if !t.Failed() {
			c.Mend()
			c.AwaitReady()
			c.Settle()
		}
	})
	complain(t, opts.Seed, h.Check())
}

// ordinary is a cluster on a good network and ordinary disks.
func ordinary(seed uint64) Options {
	return Options{Seed: seed, Net: LAN, Sync: time.Millisecond}
}

// put writes a key in the hall until it is acknowledged.
func (k *Client) put(key string) *Op {
	k.patient = true
	return k.Do(single(hall, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value()}))
}

// read reads a key in the hall until a node serves it.
func (k *Client) read(key string) *fsm.Entry {
	for {
		if r := k.Read(hall, key); r != nil {
			return r.Entries[key]
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// code is the code of a refusal, "" of anything else.
func (o *Op) code() fsm.Code {
	if o.Result == nil || o.Result.Refusal == nil {
		return ""
	}
	return o.Result.Refusal.Code
}

func TestG1_PowerCutForAllLosesNothing(t *testing.T) {
	inBubble(t, ordinary(11), func(t *testing.T, c *Cluster, h *History) {
		k := c.NewClient(h, "ada")
		for round := range 5 {
			for i := range 20 {
				k.put(fmt.Sprint(round, ".", i))
			}
			for i := range 3 {
				c.Kill(i)
			}
			c.Mend()
			for i := range 20 {
				if k.read(fmt.Sprint(round, ".", i)) == nil {
					t.Errorf("write %d of round %d is gone", i, round)
				}
			}
		}
	})
}

// TestG1_Regression_WipedVoter is the schedule in which a voter that forgot its log could
// lose an acknowledged write: two of three have it, one of these is wiped, the
// other is down. Whoever is left must not serve until it is back.
func TestG1_Regression_WipedVoter(t *testing.T) {
	inBubble(t, ordinary(12), func(t *testing.T, c *Cluster, h *History) {
		k := c.NewClient(h, "ada")
		leader := c.Leader()
		followers := c.Followers()
		wiped, behind := followers[0], followers[1]
		c.Isolate(behind)
		k.On(leader).put("k")
		c.Kill(leader)
		c.Kill(wiped)
		c.Wipe(wiped)
		c.Restart(wiped)
		c.Net.Heal()
		for range 20 {
			time.Sleep(time.Second)
			for _, i := range []int{wiped, behind} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if view, err := c.Node(i).Read(ctx); err == nil {
					t.Fatalf("n%d serves rev %d without the last write", i+1, view.Rev())
				}
				cancel()
			}
		}
		c.Restart(leader)
		if k.read("k") == nil {
			t.Fatal("an acknowledged write is gone")
		}
		c.AwaitVoter(wiped)
		k.At(wiped, t)
	})
}

// TestG1_WipedNodeIsNotItsFormerSelf: a node that lost its disk counts its starts
// and batches from the beginning again. What it sends then must not be taken for
// what it sent in its former life, nor be answered with those answers.
func TestG1_WipedNodeIsNotItsFormerSelf(t *testing.T) {
	inBubble(t, ordinary(14), func(t *testing.T, c *Cluster, h *History) {
		victim := c.Followers()[0]
		k := c.NewClient(h, "ada").On(victim)
		for life := range 3 {
			for i := range 20 {
				k.put(fmt.Sprint("key", life, ".", i))
			}
			c.Kill(victim)
			c.Wipe(victim)
			c.Restart(victim)
			c.AwaitVoter(victim)
		}
		k.At(victim, t)
	})
}

// At has the client write and read on a node that has come back.
func (k *Client) At(i int, t *testing.T) {
	t.Helper()
	k.On(i).put("back")
	if k.read("back") == nil {
		t.Error("a node that came back does not read its own write")
	}
}

// TestG1_FailingDisk: a node whose disk fails, or hangs, stops itself, and the
// others go on without it.
func TestG1_FailingDisk(t *testing.T) {
	for name, breakDisk := range map[string]func(*Disk){
		"fails": func(d *Disk) { d.Fail(errors.New("no space left on device")) },
		"hangs": (*Disk).Hang,
	} {
		t.Run(name, func(t *testing.T) {
			died := make(chan string, 3)
			opts := ordinary(13)
			opts.Fatal = func(node string, err error) { died <- node }
			opts.Configure = func(cfg *cluster.Config) { cfg.DiskLimit = 2 * time.Second }
			inBubbleMade(t, opts, func() { died = make(chan string, 3) }, func(t *testing.T, c *Cluster, h *History) {
				k := c.NewClient(h, "ada")
				k.put("before")
				leader := c.Leader()
				breakDisk(c.Server(leader).Disk)
				k.put("after")
				if got, want := <-died, c.Server(leader).Name; got != want {
					t.Errorf("%s stopped itself, want %s", got, want)
				}
				for _, key := range []string{"before", "after"} {
					if k.read(key) == nil {
						t.Errorf("%s is gone", key)
					}
				}
			})
		})
	}
}

// inBubbleMade is inBubble with something to make inside the bubble first.
func inBubbleMade(t *testing.T, opts Options, make func(), f func(t *testing.T, c *Cluster, h *History)) {
	t.Helper()
	configure := opts.Configure
	var once sync.Once
	opts.Configure = func(cfg *cluster.Config) {
		once.Do(make)
		configure(cfg)
	}
	inBubble(t, opts, f)
}

// TestG2_Regression_PausedLeaderServesNoStaleRead: a leader is paused in the middle of its work, another is
// elected and serves writes, the old one wakes: reads that it was asked for, in
// the meantime or before, never miss what was acknowledged before they began.
func TestG2_Regression_PausedLeaderServesNoStaleRead(t *testing.T) {
	for seed := range uint64(4) {
		opts := ordinary(20 + seed)
		opts.Configure = func(cfg *cluster.Config) { cfg.WriteFirst = seed%2 == 0 }
		inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
			leader := c.Leader()
			others := c.Followers()
			k := c.NewClient(h, "ada").On(others[0])
			k.put("k")
			c.Pause(leader)
			c.Await("another leader", func() bool {
				status := c.Node(others[0]).Status(t.Context())
				return status.Leader != "" && status.Leader != c.Server(leader).Name
			})
			var readers sync.WaitGroup
			for i := range 40 {
				k.put("k")
				readers.Go(func() { c.NewClient(h, fmt.Sprint("reader", i)).On(leader).Read(hall, "k") })
				if i == 30 {
					c.Resume(leader)
				}
			}
			readers.Wait()
			c.NewClient(h, "last").On(leader).read("k")
		})
	}
}

// TestG3_Counting: two clients increment one number by compare-and-set on its
// version, on different nodes, while the leader dies again and again: not one
// increment is lost or doubled, and every watcher saw every version.
func TestG3_Counting(t *testing.T) {
	const each = 150
	inBubble(t, ordinary(30), func(t *testing.T, c *Cluster, h *History) {
		stop := make(chan struct{})
		var watchers, counters sync.WaitGroup
		for i := range 3 {
			watchers.Go(func() { c.NewClient(h, fmt.Sprint("watcher", i)).Watches(hall, stop) })
		}
		done := make(chan struct{})
		for i := range 2 {
			counters.Go(func() { c.NewClient(h, fmt.Sprint("counter", i)).count(each) })
		}
		go func() { counters.Wait(); close(done) }()
		for {
			select {
			case <-done:
				c.Settle()
				if e := c.NewClient(h, "judge").read("n"); e == nil || e.Version != 2*each {
					t.Errorf("got %+v, want version %d", e, 2*each)
				}
				close(stop)
				watchers.Wait()
				return
			case <-time.After(300 * time.Millisecond):
				leader := c.Leader()
				c.Kill(leader)
				c.Restart(leader)
			}
		}
	})
}

// count increments n times.
func (k *Client) count(n int) {
	k.patient = true
	version := uint64(0)
	for n > 0 {
		expected := version
		op := k.Do(single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "n", Value: k.value(), If: &fsm.If{Version: &expected}}))
		if op.Outcome == Applied {
			n--
			version = op.Result.Ops[0].Version
		} else {
			version = op.Result.Refusal.Details.Version
		}
	}
}

// TestG9_TwoNodesAtOnce: one request sent to two nodes at the same time, and again
// while leaders change, is applied once, and gets one answer.
func TestG9_TwoNodesAtOnce(t *testing.T) {
	inBubble(t, ordinary(90), func(t *testing.T, c *Cluster, h *History) {
		k := c.NewClient(h, "ada")
		k.put("k")
		for i := range 60 {
			if i%20 == 10 {
				c.Kill(c.Leader())
			}
			if i%20 == 15 {
				c.Mend()
			}
			k.request++
			cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: fmt.Appendf(nil, `"%d"`, i)})
			cmd.Caller, cmd.Client, cmd.Request = k.caller, k.Name, k.request
			var both sync.WaitGroup
			var answers [2]*fsm.Result
			for j := range answers {
				both.Go(func() {
					twin := c.NewClient(h, fmt.Sprint("twin", i, j))
					twin.patient = true
					_, answers[j] = twin.perform(cmd)
				})
			}
			both.Wait()
			a, b := answers[0], answers[1]
			if a.Refusal != nil || a.Rev != b.Rev || a.Ops[0].Version != b.Ops[0].Version || a.Ops[0].Version != uint64(i+2) {
				t.Fatalf("request %d: got %+v and %+v, want version %d twice", i, a, b, i+2)
			}
		}
	})
}

// TestG10_Sessions: peers come and go, so that sessions of one room begin and end
// all the time, under faults.
func TestG10_Sessions(t *testing.T) {
	inBubble(t, ordinary(100), func(t *testing.T, c *Cluster, h *History) {
		stop := make(chan struct{})
		var visitors sync.WaitGroup
		for i := range 2 {
			visitors.Go(func() { c.NewClient(h, fmt.Sprint("visitor", i)).Visits(lobby, stop) })
		}
		visitors.Go(func() { c.NewClient(h, "watcher").Watches(lobby, stop) })
		for range 8 {
			time.Sleep(5 * time.Second)
			c.Kill(c.Leader())
			time.Sleep(time.Second)
			c.Mend()
		}
		close(stop)
		visitors.Wait()
		l, _ := h.Log()
		late := 0
		for _, op := range h.Ops {
			if op.code() == fsm.CodeSessionEnded {
				late++
			}
		}
		if len(l.lives) < 3 || late < 5 {
			t.Errorf("%d sessions, %d late requests: too few to say anything", len(l.lives), late)
		}
	})
}

// TestG11_Lanes: the writes of a lane, many at a time, take effect in the order of
// Submit while leaders die and connections break, and are seen by its own node at
// once and by any other with their revision.
func TestG11_Lanes(t *testing.T) {
	opts := ordinary(110)
	opts.Net.Reset, opts.Net.Loss = 0.02, 0.02
	inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
		stop := make(chan struct{})
		var lanes sync.WaitGroup
		for i := range 3 {
			lanes.Go(func() { c.NewClient(h, fmt.Sprint("lane", i)).Pipeline(hall, fmt.Sprint("key", i), stop) })
		}
		other := c.NewClient(h, "other")
		for i := range 15 {
			time.Sleep(time.Second)
			if i%3 == 0 {
				c.Kill(c.Leader())
			}
			if i%3 == 1 {
				c.Mend()
			}
			op := other.put("mine")
			_, p := other.any()
			view, err := p.node.WaitRev(t.Context(), op.Result.Rev)
			if err == nil {
				if e := view.Session(hall).Entry(store, "mine"); e == nil || e.Rev < op.Result.Rev {
					t.Errorf("waited for rev %d and found %+v", op.Result.Rev, e)
				}
			}
		}
		close(stop)
		lanes.Wait()
	})
}

// TestG12_Flood: one lane with thousands of commands does not hold up another's.
func TestG12_Flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, ordinary(120)) // publishes more at a time than rings hold: no history
		const flood = 16_000         // more than a node has in flight
		c.NewClient(NewHistory(), "flood").put("k")
		node := c.Node(c.Followers()[0])
		lane := node.NewLane()
		answered := make(chan struct{}, flood)
		for i := range flood {
			cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: fmt.Appendf(nil, `"flood %d"`, i)})
			lane.Submit(cmd, func(*fsm.Result, error) { answered <- struct{}{} })
		}
		cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "other", Value: []byte(`"other"`)})
		if _, err := node.Do(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		if got := len(answered); got > flood*9/10 {
			t.Errorf("a single command waited for %d of another lane", got)
		}
		for range flood {
			<-answered
		}
	})
}

// TestG14_Minority: a node without a majority answers within the deadline, by the
// class that is true, and serves reads that may lag.
func TestG14_Minority(t *testing.T) {
	const bound = 5 * time.Second
	for _, role := range []string{"follower", "leader"} {
		t.Run(role, func(t *testing.T) {
			inBubble(t, ordinary(140), func(t *testing.T, c *Cluster, h *History) {
				c.NewClient(h, "ada").put("k")
				c.Settle()
				alone := c.Leader()
				if role == "follower" {
					alone = c.Followers()[0]
				}
				c.Isolate(alone)
				time.Sleep(5 * time.Second) // it knows by now
				node := c.Node(alone)
				var unavailable *cluster.UnavailableError

				start := time.Now()
				cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: []byte(`"never"`)})
				if _, err := node.Do(t.Context(), cmd); !errors.As(err, &unavailable) || time.Since(start) > bound {
					t.Errorf("a write: %v after %v, want unavailable", err, time.Since(start))
				}
				start = time.Now()
				if _, err := node.Read(t.Context()); !errors.As(err, &unavailable) || time.Since(start) > bound {
					t.Errorf("a read: %v after %v, want unavailable", err, time.Since(start))
				}
				view, err := node.Stale()
				if err != nil || view.Session(hall).Entry(store, "k") == nil {
					t.Errorf("a stale read: %v", err)
				}
				c.Net.Heal()
				if e := c.NewClient(h, "bob").On(alone).read("k"); string(e.Value) == `"never"` {
					t.Error("what was unavailable was applied")
				}
			})
		})
	}
}

// TestG14_CutOffMeanwhile: what was handed over before the majority was gone has
// an unknown outcome, in bounded time.
func TestG14_CutOffMeanwhile(t *testing.T) {
	inBubble(t, ordinary(141), func(t *testing.T, c *Cluster, h *History) {
		c.NewClient(h, "ada").put("k")
		leader := c.Leader()
		c.Isolate(leader)
		start := time.Now()
		cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: []byte(`"perhaps"`)})
		_, err := c.Node(leader).Do(t.Context(), cmd)
		var unknown *cluster.UnknownError
		if !errors.As(err, &unknown) || time.Since(start) > 5*time.Second {
			t.Errorf("got %v after %v, want an unknown outcome", err, time.Since(start))
		}
	})
}

// TestG14_GivenUpIsGivenUp: what a node that was cut off for long has given up, and
// told its clients so, does not take effect when it is back, though it numbered
// and sent it.
func TestG14_GivenUpIsGivenUp(t *testing.T) {
	for _, role := range []string{"follower", "leader"} {
		t.Run(role, func(t *testing.T) {
			inBubble(t, ordinary(142), func(t *testing.T, c *Cluster, h *History) {
				k := c.NewClient(h, "ada")
				alone := c.Leader()
				if role == "follower" {
					alone = c.Followers()[0]
				}
				k.On(alone).put("k")
				c.Isolate(alone)
				lane := c.Node(alone).NewLane()
				var given sync.WaitGroup
				classes := map[string]int{}
				for i := range 20 {
					given.Add(1)
					cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: fmt.Appendf(nil, `"late %d"`, i)})
					lane.Submit(cmd, func(_ *fsm.Result, err error) {
						classes[fmt.Sprintf("%T", err)]++
						given.Done()
					})
					time.Sleep(time.Second)
				}
				given.Wait()
				time.Sleep(20 * time.Second) // whatever the network kept is lost by now
				c.Net.Heal()
				for i := range 5 {
					if op := k.put(fmt.Sprint("after", i)); op.Outcome != Applied {
						t.Errorf("the node does not work again: %v", op)
					}
				}
				if e := k.read("k"); string(e.Value) != `"ada.1"` {
					t.Errorf("%s was given up and took effect", e.Value)
				}
				if classes["<nil>"] > 0 || len(classes) != 2 {
					t.Errorf("outcomes %v, want some unknown, some unavailable, none known", classes)
				}
			})
		})
	}
}

// TestSnapshotInstalled: a follower that missed more than the others kept gets a
// snapshot, and then has the same state and publishes the same events.
func TestSnapshotInstalled(t *testing.T) {
	opts := ordinary(150)
	opts.Configure = func(cfg *cluster.Config) { cfg.SnapshotThreshold, cfg.TrailingLogs = 50, 10 }
	inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
		leader, behind := c.Leader(), c.Followers()[0]
		c.Isolate(behind)
		k := c.NewClient(h, "ada").On(leader)
		for i := range 300 {
			k.put(fmt.Sprint("key", i%7))
			if i%100 == 99 {
				time.Sleep(time.Minute) // raft looks now and then whether to take one
			}
		}
		if first, _ := c.Server(leader).Disk.Open().FirstIndex(); first < 100 {
			t.Fatalf("the leader's log begins at %d: it kept all", first)
		}
		c.Net.Heal()
		c.Settle()
		if metas, _ := c.Server(behind).Disk.Open().Snapshots().List(); len(metas) == 0 {
			t.Error("no snapshot was installed")
		}
		k.On(behind).put("after")
		var want, got *fsm.View
		c.Await("both to be at one index", func() bool {
			want, got = c.Node(leader).View(), c.Node(behind).View()
			return want.Index() == got.Index()
		})
		if want.Hash() != got.Hash() {
			t.Error("the states differ after an installed snapshot")
		}
	})
}

// TestRegression_SwappedAddresses: two nodes come back each under the other's address, as pods
// may. Nobody is taken for another, and the cluster finds itself again.
func TestRegression_SwappedAddresses(t *testing.T) {
	if raceDetector {
		t.Skip("moves members: run without the race detector, see race_on_test.go")
	}
	inBubble(t, ordinary(151), func(t *testing.T, c *Cluster, h *History) {
		k := c.NewClient(h, "ada")
		k.put("before")
		a, b := c.Leader(), c.Followers()[0]
		c.Kill(a)
		c.Kill(b)
		c.Net.Swap(c.Server(a).Name, c.Server(b).Name)
		c.Restart(a)
		c.Restart(b)
		c.AwaitReady()
		for i := range 3 {
			k.On(i).put(fmt.Sprint("after", i))
			if k.read("before") == nil {
				t.Errorf("n%d has lost what was there", i+1)
			}
		}
	})
}
