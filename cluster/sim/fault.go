package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"conclave/cluster"
)

// Fault is one trouble of a schedule: it begins after some calm, lasts, and is
// mended before the next begins. A schedule is drawn from a seed as a whole before
// the storm begins, so that a part of it can be tried alone.
type Fault struct {
	N      int // its place in the schedule as drawn
	Kind   string
	Calm   time.Duration // before it
	Lasts  time.Duration
	Victim int    // of the nodes that there are then, counted round; -1: the leader
	Draw   uint64 // seeds what else it needs to choose
}

func (f Fault) String() string {
	victim := "the leader"
	if f.Victim >= 0 {
		victim = fmt.Sprint("node ", f.Victim)
	}
	return fmt.Sprintf("#%d after %v: %s (%s) for %v", f.N, f.Calm.Round(time.Millisecond), f.Kind, victim, f.Lasts.Round(time.Millisecond))
}

// Schedule is what happens in a storm, in order.
type Schedule []Fault

func (s Schedule) String() string {
	lines := make([]string, len(s))
	for i, f := range s {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// pace is how quickly faults follow one another.
type pace struct {
	calm, fault time.Duration // at most
}

// diskLimit is longer than any pause: a node stops itself only for a disk that is
// broken on purpose.
func (p pace) diskLimit() time.Duration { return 2*p.fault + time.Second }

// trouble is a fault under way.
type trouble struct {
	*Cluster
	Fault
	victim int
	others []int // all running ones but the victim, in random order
	rng    *rand.Rand
	limit  time.Duration // of the nodes' disks
}

// troubles begin the faults, by kind; an end, if any, comes before everything is
// mended. The number is how often one is drawn.
var troubles = []struct {
	kind  string
	often int
	begin func(t *trouble)
	end   func(t *trouble)
}{
	{"killed", 2, func(t *trouble) { t.Kill(t.victim) }, nil},
	{"power cut for all", 1, (*trouble).killAll, nil},
	{"stopped", 1, func(t *trouble) { t.Stop(t.victim) }, nil},
	{"paused", 1, func(t *trouble) { t.Pause(t.victim) }, nil},
	{"isolated", 1, func(t *trouble) { t.Isolate(t.victim) }, nil},
	{"isolated for long", 1, func(t *trouble) { t.Isolate(t.victim); time.Sleep(2 * t.Lasts) }, nil},
	{"split in two", 1, (*trouble).split, nil},
	{"a bridge between others", 1, (*trouble).bridge, nil},
	{"a ring", 1, (*trouble).ring, nil},
	{"not heard by one", 1, func(t *trouble) { t.Net.Cut(t.name(t.victim), t.name(t.others[0])) }, nil},
	{"deaf", 1, func(t *trouble) { t.cutFrom(t.others, t.victim) }, nil},
	{"not heard", 1, func(t *trouble) { t.cutTo(t.victim, t.others) }, nil},
	{"rejected", 1, (*trouble).sever, nil},
	{"connections reset", 1, (*trouble).resets, nil},
	{"slow network", 1, func(t *trouble) { t.Net.SetConditions(sluggish) }, nil},
	{"lossy network", 1, func(t *trouble) { t.Net.SetConditions(Lossy) }, nil},
	{"slow disk", 1, func(t *trouble) { t.Server(t.victim).Disk.Slow(30) }, nil},
	{"hanging disk", 1, (*trouble).hang, (*trouble).replaceDisk},
	{"failing disk", 1, (*trouble).fail, (*trouble).replaceDisk},
	{"old snapshot", 1, (*trouble).oldSnapshot, nil},
	{"clock jumps", 1, (*trouble).skew, nil},
	{"clock jumps, another killed", 1, func(t *trouble) { t.skew(); t.Kill(t.others[0]) }, nil},
	{"leadership transferred", 1, func(t *trouble) { t.transfer(1) }, nil},
	{"leadership transferred again and again", 1, func(t *trouble) { t.transfer(6) }, nil},
	{wiped, 0, (*trouble).wipe, nil},
	{moved, 0, (*trouble).move, nil},
}

// These kinds take their time, and so are drawn apart.
const (
	wiped = "disk wiped"
	moved = "replaced by a new node"
)

// sluggish is a network on which everything takes longer than it should.
var sluggish = Conditions{Delay: 30 * time.Millisecond, Jitter: 60 * time.Millisecond, Spike: 0.02}

// draw makes the storm's schedule.
func (s Storm) draw() (all Schedule) {
	if s.Calm {
		return nil
	}
	rng := rand.New(rand.NewPCG(s.Seed, 3))
	var kinds []string
	for _, t := range troubles {
		for range t.often {
			kinds = append(kinds, t.kind)
		}
	}
	p := s.pace()
	for total := time.Duration(0); total < s.Duration; {
		f := Fault{
			N: len(all), Kind: kinds[rng.IntN(len(kinds))], Victim: rng.IntN(60), Draw: rng.Uint64(),
			Calm: time.Duration(rng.Int64N(int64(p.calm))), Lasts: time.Duration(rng.Int64N(int64(p.fault))),
		}
		if rng.IntN(2) == 0 {
			f.Victim = -1
		}
		switch apart := rng.IntN(3); {
		case apart == 0 && s.Wipes:
			f.Kind = wiped
		case apart == 1 && s.Moves:
			f.Kind = moved
		}
		total += f.Calm + f.Lasts
		all = append(all, f)
	}
	return all
}

// faults makes one trouble after the other.
func (s Storm) faults(c *Cluster, schedule Schedule) {
	for _, f := range schedule {
		time.Sleep(f.Calm)
		s.fault(c, f)
	}
}

func (s Storm) fault(c *Cluster, f Fault) {
	c.t.Helper()
	t := &trouble{Cluster: c, Fault: f, rng: rand.New(rand.NewPCG(f.Draw, 4)), limit: s.pace().diskLimit()}
	servers := c.Servers()
	if f.Victim < 0 {
		t.victim = c.Leader()
	} else {
		t.victim = servers[f.Victim%len(servers)].number()
	}
	for _, i := range t.rng.Perm(len(servers)) {
		if other := servers[i].number(); other != t.victim {
			t.others = append(t.others, other)
		}
	}
	for _, kind := range troubles {
		if kind.kind != f.Kind {
			continue
		}
		kind.begin(t)
		time.Sleep(f.Lasts)
		if kind.end != nil {
			kind.end(t)
		}
		c.Mend()
		return
	}
	c.t.Fatalf("no fault is called %q", f.Kind)
}

func (t *trouble) name(i int) string { return t.Server(i).Name }

func (t *trouble) names(list []int) (names []string) {
	for _, i := range list {
		names = append(names, t.name(i))
	}
	return names
}

// killAll is a power cut for everybody.
func (t *trouble) killAll() {
	for _, s := range t.Servers() {
		t.Kill(s.number())
	}
}

// split makes two groups, the victim in the first, of one to all but one.
func (t *trouble) split() {
	with := t.rng.IntN(len(t.others))
	t.Net.Partition(t.names(append([]int{t.victim}, t.others[:with]...)), t.names(t.others[with:]))
}

// bridge leaves the victim as the only way between two groups, who cannot use it:
// each sees a majority that the other half does not see.
func (t *trouble) bridge() {
	half := len(t.others) / 2
	t.Net.Partition(t.names(t.others[:half]), t.names(t.others[half:]))
}

// ring leaves each node its neighbours only; of three, of whom everybody is
// everybody's neighbour, one way round only.
func (t *trouble) ring() {
	round := t.names(append([]int{t.victim}, t.others...))
	for i, from := range round {
		for j, to := range round {
			ahead := (j - i + len(round)) % len(round)
			if ahead > 1 && (len(round) == 3 || ahead < len(round)-1) {
				t.Net.Cut(from, to)
			}
		}
	}
}

// cutTo has the others not hear one; cutFrom has one not hear the others.
func (t *trouble) cutTo(from int, to []int) {
	for _, i := range to {
		t.Net.Cut(t.name(from), t.name(i))
	}
}

func (t *trouble) cutFrom(from []int, to int) {
	for _, i := range from {
		t.Net.Cut(t.name(i), t.name(to))
	}
}

// sever is a firewall that rejects, one way or both.
func (t *trouble) sever() {
	t.Net.Sever(t.name(t.victim), t.name(t.others[0]))
	if t.rng.IntN(2) == 0 {
		t.Net.Sever(t.name(t.others[0]), t.name(t.victim))
	}
}

// resets breaks connections again and again that can be made again at once.
func (t *trouble) resets() {
	for range 20 {
		for _, other := range t.others {
			t.Net.Reset(t.name(other), t.name(t.victim))
			t.Net.Reset(t.name(t.victim), t.name(other))
		}
		time.Sleep(t.Lasts / 20)
	}
}

// hang and fail break a disk for good. The node stops itself when it notices;
// replaceDisk sees to it that it has, and leaves what was durable.
func (t *trouble) hang() {
	t.Doom(t.victim)
	t.Server(t.victim).Disk.Hang()
	time.Sleep(t.limit)
}

func (t *trouble) fail() {
	t.Doom(t.victim)
	t.Server(t.victim).Disk.Fail(errors.New("input/output error"))
}

func (t *trouble) replaceDisk() { t.Kill(t.victim) }

// oldSnapshot has the node start from the snapshot before its last, if its log
// reaches back to that; otherwise from one that is old because it was down.
func (t *trouble) oldSnapshot() {
	t.Kill(t.victim)
	t.Server(t.victim).Disk.ForgetSnapshot()
	time.Sleep(2 * t.Lasts)
}

// skew has the wall clock of the victim, which runs on, jump by hours, ahead or back.
func (t *trouble) skew() {
	jump := time.Duration(1+t.rng.IntN(48*3600)) * time.Second
	if t.rng.IntN(2) == 0 {
		jump = -jump
	}
	t.Skew(t.victim, jump)
}

// transfer hands leadership over, from whoever has it, to somebody.
func (t *trouble) transfer(times int) {
	for range times {
		servers := t.Servers()
		to := servers[t.rng.IntN(len(servers))].Name
		if node := t.Node(t.Leader()); node != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			node.Transfer(ctx, to)
			cancel()
		}
		time.Sleep(t.Lasts / time.Duration(times))
	}
}

// wipe has a node lose its disk, and waits until it is a voter again: another
// fault before could cost the majority.
func (t *trouble) wipe() {
	t.AwaitReady()
	t.Kill(t.victim)
	t.Wipe(t.victim)
	time.Sleep(t.Lasts)
	t.Restart(t.victim)
	t.AwaitVoter(t.victim)
}

// move has a new node take the victim's place, by the word of any node; it asks
// again until it is done.
func (t *trouble) move() {
	t.AwaitReady()
	servers := t.Servers()
	comes := t.Add()
	name, addr := t.name(comes), t.Net.Addr(t.name(comes))
	ask := func(what string, f func(ctx context.Context, n *cluster.Node) error, done func(cluster.Status) bool) {
		t.Await(what, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			node := servers[t.rng.IntN(len(servers))].Node()
			if node == nil {
				return false
			}
			f(ctx, node)
			leader := t.Node(t.Leader())
			return leader != nil && done(leader.Status(ctx))
		})
	}
	ask(name+" to be added", func(ctx context.Context, n *cluster.Node) error { return n.AddMember(ctx, name, addr, false, 0) },
		func(st cluster.Status) bool { return member(st, name) })
	t.AwaitVoter(comes)
	gone := t.name(t.victim)
	ask(gone+" to be removed", func(ctx context.Context, n *cluster.Node) error { return n.RemoveMember(ctx, gone, false, 0) },
		func(st cluster.Status) bool { return !member(st, gone) })
	t.Retire(t.victim)
}
