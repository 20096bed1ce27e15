package fsm

// node is the record of a cluster node that has registered. Immutable.
type node struct {
	NodeInfo
	last    uint64         // number of the last batch applied
	results []batchResults // of the last BatchWindow batches, oldest first
}

type batchResults struct {
	Seq     uint64   `cbor:"1,keyasint"`
	Results []Result `cbor:"2,keyasint,omitempty"`
}

// storedBatchBytes bounds what the state keeps of one batch's results. A node
// that applied the entry itself has them all; the copies serve one that jumped
// over it by a snapshot.
const storedBatchBytes = 1 << 20

// batch applies a node's next batch. Any other number changes nothing.
func (c *change) batch(b *Batch, careful bool) BatchOutcome {
	out := BatchOutcome{Node: b.Node, Incarnation: b.Incarnation, Seq: b.Seq}
	n, _ := c.s.nodes.get(b.Node)
	switch {
	case b.Seq == 0:
		out.Status = c.register(b, n)
		return out
	case n == nil || n.Incarnation != b.Incarnation:
		out.Status = BatchStale
		return out
	case b.Seq <= n.last:
		out.Status = BatchRepeated
		out.Results, _ = n.stored(b.Seq)
		return out
	case b.Seq != n.last+1:
		out.Status = BatchGap
		return out
	}
	out.Results = make([]Result, len(b.Commands))
	for i := range b.Commands {
		if !c.contain(careful, func() { out.Results[i] = c.command(&b.Commands[i]) }) {
			out.Results[i] = Result{Rev: c.s.rev, Refusal: refuse(CodeInternal, "the command could not be applied")}
		}
	}
	c.s.nodes.write(c.s.gen).Set(b.Node, n.next(out.Results))
	return out
}

// register begins an incarnation: its numbers start again. A repeat of the
// present one keeps them. Of one directory's starts a lower one is late; another
// directory's takes over whatever its number, since the leader takes batches from
// members only, and a node is a member with one directory at a time.
func (c *change) register(b *Batch, n *node) BatchStatus {
	switch {
	case b.Register == nil || b.Incarnation == 0:
		return BatchStale
	case n == nil:
	case b.Incarnation == n.Incarnation:
		return BatchRepeated
	case b.Incarnation < n.Incarnation && b.Incarnation>>StartBits == n.Incarnation>>StartBits:
		return BatchStale
	}
	c.s.nodes.write(c.s.gen).Set(b.Node, &node{
		NodeInfo: NodeInfo{ID: b.Node, Incarnation: b.Incarnation, Register: *b.Register},
	})
	return BatchApplied
}

// next is the record after one more batch.
func (n *node) next(results []Result) *node {
	kept := n.results
	if len(kept) == BatchWindow {
		kept = kept[1:]
	}
	next := *n
	next.last++
	next.results = make([]batchResults, 0, BatchWindow)
	next.results = append(append(next.results, kept...), batchResults{next.last, storable(results)})
	return &next
}

// storable is results within storedBatchBytes: what is beyond is kept as an
// unknown outcome, without changing the slice.
func storable(results []Result) []Result {
	total := 0
	for i := range results {
		if total += results[i].size(); total > storedBatchBytes {
			kept := append([]Result(nil), results...)
			for j := i; j < len(kept); j++ {
				kept[j] = Result{Rev: kept[j].Rev, Refusal: forgotten()}
			}
			return kept
		}
	}
	return results
}

// stored finds the kept results of a batch: answered from memory, all of them.
func (n *node) stored(seq uint64) ([]Result, bool) {
	for _, r := range n.results {
		if r.Seq == seq {
			results := append([]Result(nil), r.Results...)
			for i := range results {
				results[i].Repeated = true
			}
			return results, true
		}
	}
	return nil, false
}
