package cluster

import "conclave/fsm"

// What the parts of an entry take besides their texts, at most: a CBOR field is
// a key byte and up to nine bytes of head.
const (
	headBytes      = 512 // a command with its caller, limits and flags
	operationBytes = 192
	conditionBytes = 96
)

// commandSize is an upper bound of what a command takes in a log entry, so that
// what is packed by it never exceeds what replicas accept.
func commandSize(c *fsm.Command) int {
	size := headBytes + len(c.Room) + len(c.Session) + len(c.Client) + len(c.Idem) + len(c.Hash) + len(c.Target) + len(c.Reason) +
		len(c.Caller.Peer) + len(c.Caller.User) + len(c.Caller.Owner)
	if c.Open != nil {
		size += len(c.Open.Profile)
	}
	if t := c.Txn; t != nil {
		for i := range t.If {
			size += conditionBytes + len(t.If[i].Store) + len(t.If[i].Key) + len(t.If[i].Session) + len(t.If[i].If.Value)
		}
		for _, ops := range [2][]fsm.Operation{t.Then, t.Else} {
			for i := range ops {
				size += operationBytes + ops[i].Texts()
			}
		}
	}
	if a := c.Acquire; a != nil {
		size += operationBytes + len(a.Store) + len(a.Key) + len(a.Node) + len(a.Waiter) + len(a.Lock.Data)
	}
	if j := c.Join; j != nil {
		size += len(j.Key) + len(j.Name) + len(j.Ref) + len(j.Role) + len(j.Data) + len(j.Node) + len(j.Peer)
	}
	if a := c.Attach; a != nil {
		size += len(a.Peer) + len(a.Key) + len(a.Node) + len(a.Client)
	}
	if s := c.SetPeer; s != nil {
		size += len(s.Data)
		for _, text := range []*string{s.Name, s.Ref, s.Role} {
			if text != nil {
				size += len(*text)
			}
		}
	}
	if x := c.Cancel; x != nil {
		size += len(x.Store) + len(x.Key) + len(x.Waiter)
	}
	return size
}

func controlSize(c *fsm.Control) int {
	size := operationBytes + len(c.Room) + len(c.Session) + len(c.Store) + len(c.Key) + len(c.Peer) + len(c.Node) + len(c.Cluster)
	for i := range c.Peers {
		size += 16 + len(c.Peers[i].Peer)
	}
	return size
}
