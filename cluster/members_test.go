package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// join starts an empty node that nobody told about the cluster.
func (g *group) join(id string, addrs ...string) *groupNode {
	g.t.Helper()
	listener := g.listen("127.0.0.1:0")
	node := &groupNode{addr: listener.Addr().String(), cfg: g.config(id), net: NewTCPNetwork(listener, TCPOptions{})}
	node.cfg.Join = addrs
	g.nodes[id] = node
	g.open(id)
	return node
}

// wipe gives a stopped node empty stores.
func (g *group) wipe(id string) {
	fresh := g.config(id)
	cfg := &g.nodes[id].cfg
	cfg.Log, cfg.Stable, cfg.Snapshots = fresh.Log, fresh.Stable, fresh.Snapshots
}

func (g *group) voters() int {
	voters := 0
	for _, s := range g.leader().configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return voters
}

func code(err error) fsm.Code {
	var refusal *fsm.Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return fsm.Code(fmt.Sprint(err))
}

// change asks until the answer is more than "try again".
func change(t *testing.T, f func(context.Context) error) error {
	t.Helper()
	var result error
	eventually(t, "an answer to a change of membership", func() bool {
		result = f(t.Context())
		var unavailable *UnavailableError
		return !errors.As(result, &unavailable)
	})
	return result
}

func TestG15_aNodeJoinsAsNonVoterAndIsPromotedOnceCaughtUp(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	do(t, g.follower(), put("room", "key", `"before"`))
	n4 := g.join("n4")
	seen := g.leader().configIndex()
	if seen == 0 {
		t.Fatal("the configuration has no index")
	}
	if err := change(t, func(ctx context.Context) error { return g.follower().AddMember(ctx, "n4", n4.addr, false, seen) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "four voters", func() bool { return g.voters() == 4 })
	g.ready()
	if got := n4.configIndex(); got <= seen {
		t.Errorf("n4 sees configuration %d after %d", got, seen)
	}
	view, err := n4.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(view.Session("room").Entry("default", "key").Value); got != `"before"` {
		t.Errorf("the new node reads %s", got)
	}
	do(t, n4, put("room", "key", `"after"`))
}

func TestG15_aReplicaStaysANonVoter(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	n4 := g.join("n4")
	if err := change(t, func(ctx context.Context) error { return g.follower().AddMember(ctx, "n4", n4.addr, true, 0) }); err != nil {
		t.Fatal(err)
	}
	g.ready()
	do(t, n4, put("room", "key", `1`))
	eventually(t, "the mark that n4 is a replica", func() bool { return g.leader().View().Replica("n4") })
	if got := g.voters(); got != 3 {
		t.Errorf("%d voters", got)
	}
	eventually(t, "the promotion of n4, which has caught up", func() bool {
		return g.follower().Promote(t.Context(), "n4", 0) == nil
	})
	eventually(t, "four voters", func() bool { return g.voters() == 4 })
}

func TestG15_whatIsWrongIsRefusedAndChangesNothing(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	asked := g.follower()
	index := asked.configIndex()
	unused := g.listen("127.0.0.1:0")
	nobody := unused.Addr().String()
	if err := unused.Close(); err != nil {
		t.Fatal(err)
	}
	n5 := g.join("n5")
	for what, c := range map[string]struct {
		change func(context.Context) error
		want   fsm.Code
	}{
		"a mistyped address":     {func(ctx context.Context) error { return asked.AddMember(ctx, "n4", nobody, false, 0) }, fsm.CodeBadRequest},
		"no address":             {func(ctx context.Context) error { return asked.AddMember(ctx, "n4", "", false, 0) }, fsm.CodeBadRequest},
		"another node's address": {func(ctx context.Context) error { return asked.AddMember(ctx, "n4", n5.addr, false, 0) }, fsm.CodeBadRequest},
		"an id with a dot":       {func(ctx context.Context) error { return asked.AddMember(ctx, "n.5", n5.addr, false, 0) }, fsm.CodeBadRequest},
		"the same id twice":      {func(ctx context.Context) error { return asked.AddMember(ctx, "n2", g.nodes["n2"].addr, false, 0) }, fsm.CodeConflict},
		"an old configuration":   {func(ctx context.Context) error { return asked.AddMember(ctx, "n5", n5.addr, false, index+7) }, fsm.CodeConflict},
		"an unknown member":      {func(ctx context.Context) error { return asked.RemoveMember(ctx, "n9", false, 0) }, fsm.CodeNotFound},
		"transfer to nobody":     {func(ctx context.Context) error { return asked.Transfer(ctx, "n9") }, fsm.CodeNotFound},
	} {
		if got := code(change(t, c.change)); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	if got := asked.configIndex(); got != index {
		t.Errorf("the configuration went from %d to %d", index, got)
	}
}

func TestG15_aRemovalThatWouldLoseQuorumIsRefused(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	leader, dead := g.leader(), g.follower().ID()
	gone := g.nodes[dead].self.ServerID()
	g.stop(dead)
	stopped := time.Now()
	other := g.follower().ID()
	eventually(t, dead+" is missed, and what it sent last has arrived", func() bool {
		l := leader.leads()
		return l != nil && !l.heardOf(gone) && l.heardOf(g.nodes[other].self.ServerID()) && time.Since(stopped) > 10*leader.timeout
	})
	refused := change(t, func(ctx context.Context) error { return leader.RemoveMember(ctx, other, false, 0) })
	if code(refused) != fsm.CodeConflict {
		t.Fatalf("got %v", refused)
	}
	if err := change(t, func(ctx context.Context) error { return leader.RemoveMember(ctx, dead, false, 0) }); err != nil {
		t.Errorf("remove the dead one: %v", err)
	}
	do(t, leader, put("room", "key", `1`))
}

func TestG15_theLeaderIsRemovedAndAnotherGoesOn(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	old := g.leader()
	id := old.ID()
	if err := change(t, func(ctx context.Context) error { return old.RemoveMember(ctx, id, false, 0) }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-old.Removed():
	case <-time.After(30 * time.Second):
		t.Fatal("the removed node was not told")
	}
	g.stop(id)
	delete(g.nodes, id)
	do(t, g.follower(), put("room", "key", `1`))
	if got := g.voters(); got != 2 {
		t.Errorf("%d voters", got)
	}
}

func TestG15_aWipedNodeComesBackAsANewMember(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	do(t, g.follower(), put("room", "key", `"kept"`))
	wiped := g.follower()
	id, before := wiped.ID(), wiped.self
	g.stop(id)
	g.wipe(id)
	g.open(id)
	if wiped.self == before {
		t.Fatal("an empty directory has the old identity")
	}
	g.ready()
	eventually(t, "three voters, the new directory among them", func() bool {
		server, ok := g.leader().member(wiped.self.ServerID())
		return ok && server.Suffrage == raft.Voter && g.voters() == 3
	})
	view, err := wiped.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(view.Session("room").Entry("default", "key").Value); got != `"kept"` {
		t.Errorf("got %s", got)
	}
}

func TestG15_aMemberThatMovesKeepsItsPlace(t *testing.T) {
	if raceDetector {
		t.Skip("moves a member: run without the race detector, see race_on_test.go")
	}
	g := startGroup(t, 3)
	g.ready()
	moved := g.follower()
	id := moved.ID()
	g.stop(id)
	listener := g.listen("127.0.0.1:0")
	moved.addr, moved.net = listener.Addr().String(), NewTCPNetwork(listener, TCPOptions{})
	g.open(id)
	g.ready()
	eventually(t, "the new address in the configuration", func() bool {
		server, ok := g.leader().member(moved.self.ServerID())
		return ok && string(server.Address) == moved.addr && server.Suffrage == raft.Voter
	})
	do(t, moved, put("room", "key", `1`))
}

func TestG1_allNodesStoppedKeepWhatWasAcknowledged(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	r := do(t, g.follower(), put("room", "key", `"kept"`))
	for id := range g.nodes {
		g.stop(id)
	}
	for id := range g.nodes {
		g.open(id)
	}
	g.ready()
	view, err := g.follower().Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e := view.Session("room").Entry("default", "key"); e.Rev != r.Rev || string(e.Value) != `"kept"` {
		t.Errorf("got %+v", e)
	}
}

func TestG14_aNodeWithoutAMajorityAnswersInTime(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	do(t, g.follower(), put("room", "key", `1`))
	alone := g.follower()
	for id := range g.nodes {
		if id != alone.ID() {
			g.stop(id)
		}
	}
	_, readErr := alone.Read(t.Context())
	var unavailable *UnavailableError
	if !errors.As(readErr, &unavailable) {
		t.Errorf("read: %v", readErr)
	}
	var unknown *UnknownError
	if _, err := alone.Do(t.Context(), put("room", "key", `2`)); !errors.As(err, &unavailable) && !errors.As(err, &unknown) {
		t.Errorf("write: %v", err)
	}
	if view, err := alone.Stale(); err != nil || view.Session("room") == nil {
		t.Errorf("stale read: %v", err)
	}
}

func TestG5_aRenewedLeaseOutlivesItsTTLAndALapsedOneEnds(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	const ttl = 1000
	acquire := &fsm.Command{
		Kind: fsm.CommandAcquire, Room: "room", Open: &fsm.Open{Limits: testLimits, Idle: 300_000},
		Caller:  fsm.Caller{Owner: "holder"},
		Acquire: &fsm.Acquire{Store: "default", Key: "stage", Lock: fsm.LockRequest{TTL: ttl}},
	}
	r := do(t, g.follower(), acquire)
	ref := fsm.LeaseRef{Room: "room", Store: "default", Key: "stage", Fence: r.Fence, Owner: acquire.Caller.LockOwner()}
	start := time.Now()
	for time.Since(start) < 3*ttl*time.Millisecond {
		if _, err := g.follower().Renew(t.Context(), ref); err != nil {
			t.Fatalf("renew after %v: %v", time.Since(start), err)
		}
		if left := g.follower().TimeLeft(t.Context(), []fsm.LeaseRef{ref})[ref]; left <= 0 || left > ttl*time.Millisecond {
			t.Fatalf("%v left", left)
		}
	}
	eventually(t, "the lease's end", func() bool {
		s := g.follower().View().Session("room")
		return s != nil && s.Lock("default", "stage") == nil
	})
	if _, err := g.follower().Renew(t.Context(), ref); code(err) != fsm.CodeNotHolder {
		t.Errorf("renew after the end: %v", err)
	}
}

// What a leader had nothing to put off for, it looked up again and again: the
// renewal was never answered, and a core of the leader was busy for good.
func TestNode_aLockWithoutATTLHasNothingToRenew(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	node := g.follower()
	join := do(t, node, &fsm.Command{
		Kind: fsm.CommandJoin, Room: "room", Open: &fsm.Open{Limits: testLimits},
		Join: &fsm.Join{Key: "k", Node: node.ID(), Incarnation: node.Incarnation()},
	})
	peer := fsm.Caller{Kind: fsm.CallerPeer, Peer: join.Peer, Gen: join.Gen}
	grant := do(t, node, &fsm.Command{
		Kind: fsm.CommandAcquire, Room: "room", Caller: peer, Acquire: &fsm.Acquire{Store: "default", Key: "stage"},
	})
	ref := fsm.LeaseRef{Room: "room", Store: "default", Key: "stage", Fence: grant.Fence, Owner: peer.LockOwner()}
	for _, n := range []*groupNode{node, g.leader()} {
		if left, err := n.Renew(t.Context(), ref); left != 0 || err != nil {
			t.Errorf("renew: %v left, %v", left, err)
		}
	}
	if left, err := node.Renew(t.Context(), fsm.LeaseRef{Room: "room", Peer: join.Peer}); left != 0 || err != nil {
		t.Errorf("alive, with a socket: %v left, %v", left, err)
	}
	ref.Fence--
	if _, err := node.Renew(t.Context(), ref); code(err) != fsm.CodeNotHolder {
		t.Errorf("renew with another fence: %v", err)
	}
}
