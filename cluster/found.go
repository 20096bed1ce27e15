package cluster

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// How a node gets into a cluster. A node with a log just starts. An empty one
// asks the addresses it was given: if somebody there belongs to a cluster, it
// asks to be taken in; if all that are expected answer and all are empty, the one
// with the lowest id founds the cluster with exactly these. Every founder first
// has each of the others promise, durably, to found with nobody else, so that two
// nodes that see different neighbours cannot found two clusters.
//
// The data directory's id is part of the raft id, so an empty directory is never
// mistaken for the member whose log it has lost: it would vote without that log.

// promiseKey holds the promise in the stable store.
var promiseKey = []byte("conclave.founding")

// enter runs until the node is in a cluster and has found its leader.
func (n *Node) enter() {
	defer n.hint("", "")
	told := "" // the reason that the log was told of last: it changes seldom
	for !n.hasLeader() {
		ctx, cancel := context.WithTimeout(n.ctx, n.deadline)
		err := n.tryEnter(ctx)
		cancel()
		if err != nil && err.Error() != told {
			told = err.Error()
			n.log.Info("not in a cluster yet", "reason", err)
		}
		select {
		case <-n.done:
			return
		case <-time.After(n.timeout / 2):
		}
	}
}

// tryEnter looks once at who is there.
func (n *Node) tryEnter(ctx context.Context) error {
	empty := []founding{{ServerID: string(n.self.ServerID()), Addr: n.cfg.PeerAddr}}
	members := n.configuration().Servers
	addrs := slices.Clone(n.cfg.Join)
	for _, s := range members {
		addrs = append(addrs, string(s.Address))
	}
	for _, addr := range addrs {
		if addr == n.cfg.PeerAddr {
			continue
		}
		var answer probeAnswer
		who, data, err := n.probe(ctx, addr)
		if err == nil {
			err = decode(data, &answer)
		}
		switch {
		case err != nil:
			n.log.Debug("probe", "address", addr, "error", err)
		case who == n.self: // our own port under another name
		case len(members) > 0:
			n.hint(who.ServerID(), addr)
			if self, ok := n.member(n.self.ServerID()); ok && string(self.Address) != n.cfg.PeerAddr && len(answer.Members) > 0 {
				return n.askIn(ctx, addr) // this node has moved: nobody finds it
			}
		case answer.Cluster != "" || len(answer.Members) > 0:
			return n.askIn(ctx, addr)
		default:
			empty = append(empty, founding{ServerID: string(who.ServerID()), Addr: addr})
		}
	}
	expect := n.cfg.BootstrapExpect
	switch {
	case len(members) > 0:
		return fmt.Errorf("no leader yet")
	case expect == 0:
		if len(n.cfg.Join) == 0 {
			return fmt.Errorf("waiting to be added by an operator")
		}
		return fmt.Errorf("nobody at %v belongs to a cluster", n.cfg.Join)
	}
	slices.SortFunc(empty, func(a, b founding) int { return cmp.Compare(a.ServerID, b.ServerID) })
	empty = slices.Compact(empty)
	if len(empty) != expect {
		return fmt.Errorf("%d empty nodes answer, %d are expected", len(empty), expect)
	}
	if empty[0].ServerID != string(n.self.ServerID()) {
		return fmt.Errorf("waiting for %s to found the cluster", empty[0].ServerID)
	}
	return n.found(ctx, empty)
}

// hint remembers where a member answers, for a cluster whose members moved while
// they were down; the empty id forgets all.
func (n *Node) hint(id raft.ServerID, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if id == "" {
		n.hints = nil
		return
	}
	if n.hints == nil {
		n.hints = map[raft.ServerID]string{}
	}
	n.hints[id] = addr
}

func (n *Node) probe(ctx context.Context, addr string) (Identity, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	return n.channel.Dial(ctx, addr, methodProbe, encode(struct{}{}))
}

// found collects the promises and bootstraps raft.
func (n *Node) found(ctx context.Context, members []founding) error {
	request := promiseRequest{By: string(n.self.ServerID()), Members: members}
	if err := n.promise(request); err != nil {
		return err
	}
	var configuration raft.Configuration
	for _, m := range members {
		configuration.Servers = append(configuration.Servers, raft.Server{ID: raft.ServerID(m.ServerID), Address: raft.ServerAddress(m.Addr)})
		if m.ServerID == request.By {
			continue
		}
		who, _, err := n.channel.Dial(ctx, m.Addr, methodPromise, encode(request))
		if err != nil {
			return fmt.Errorf("ask %s to found the cluster: %w", m.Addr, err)
		}
		if string(who.ServerID()) != m.ServerID {
			return fmt.Errorf("%s answers at %s, not %s", who.ServerID(), m.Addr, m.ServerID)
		}
	}
	if err := n.raft.BootstrapCluster(configuration).Error(); err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	n.log.Info("founded the cluster", "members", members)
	return nil
}

// promise remembers, before it agrees, whom this node founds a cluster with. The
// same founding may be promised again.
func (n *Node) promise(r promiseRequest) error {
	n.promising.Lock()
	defer n.promising.Unlock()
	if len(n.configuration().Servers) > 0 {
		return RemoteError("belongs to a cluster already")
	}
	data := encode(r)
	held, err := n.stable.Get(promiseKey)
	switch {
	case err != nil && !isNotFound(err):
		return err
	case len(held) > 0 && !bytes.Equal(held, data):
		return RemoteError("has promised to found another cluster")
	case len(held) > 0:
		return nil
	}
	return n.stable.Set(promiseKey, data)
}

// probed is what this node says of itself to whoever dials it.
func (n *Node) probed() probeAnswer {
	a := probeAnswer{Cluster: n.machine.View().Cluster()}
	for _, s := range n.configuration().Servers {
		a.Members = append(a.Members, founding{ServerID: string(s.ID), Addr: string(s.Address)})
	}
	return a
}

// askIn asks a member, which asks its leader, to take this node in.
func (n *Node) askIn(ctx context.Context, addr string) error {
	_, _, err := n.channel.Dial(ctx, addr, methodJoin, encode(joinRequest{PeerAddr: n.cfg.PeerAddr, Replica: n.cfg.Replica}))
	if err != nil {
		return fmt.Errorf("ask %s to be taken in: %w", addr, err)
	}
	return nil
}

// joinOf serves askIn: it adds the asker, whoever leads.
func (n *Node) joinOf(ctx context.Context, from Identity, r joinRequest) (any, error) {
	if server, ok := n.member(from.ServerID()); ok && string(server.Address) == r.PeerAddr {
		return struct{}{}, nil // asked before; the log is on its way
	}
	return struct{}{}, n.AddMember(ctx, from.Node, r.PeerAddr, r.Replica, 0)
}
