package cluster

//lint:file-ignore SA1019 Leader is deprecated, but raft still fills it: a nudge looks as raft's own requests do.

import (
	"sync"

	"github.com/hashicorp/raft"
)

// nudger tells followers at once that an entry is committed. Raft itself does so
// with the next AppendEntries that it happens to send, CommitTimeout later on a
// quiet cluster.
//
// A nudge is an ordinary empty AppendEntries of the leader of a term, about an
// entry of that term which the leader has committed: PrevLogEntry and PrevLogTerm
// name the entry, and LeaderCommitIndex is its index. So
//
//   - it commits nothing that is not committed, and never beyond what its own
//     consistency check has covered; a follower without the entry refuses it;
//   - it may come late, twice or out of order: the follower's commit index only
//     grows, and nothing is ever truncated by a request without entries;
//   - from a deposed leader it carries the old term and is refused by all that
//     know a newer one. Its answer is never acted upon: raft finds out by itself.
//
// The term is that of the last AppendEntries that raft sent; what was learnt in
// another term is dropped. Each follower has at most one goroutine, only while
// there is something to tell; it speaks of the newest entry alone, and once.
type nudger struct {
	send func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error

	mu        sync.Mutex
	stopped   bool
	term      uint64         // of our latest AppendEntries; only grows
	header    raft.RPCHeader // as raft fills it in that term; an empty Addr would unset the leader
	leader    []byte         // the older form of header.Addr
	newest    uint64         // entry of this term that this node knows to be committed
	followers map[raft.ServerID]*nudgedFollower

	running sync.WaitGroup // the followers' goroutines, and start's; Add only under mu while not stopped
}

// nudgedFollower is what is known of a follower in one term; the nudger's mu guards it.
type nudgedFollower struct {
	id      raft.ServerID
	target  raft.ServerAddress
	term    uint64
	match   uint64 // its log agrees with ours up to here
	commit  uint64 // it knows that entries up to here are committed
	carried uint64 // the request of raft's under way will tell it so up to here
	told    uint64 // newest entry that a nudge was about, whatever came of it
	busy    bool   // its goroutine runs
}

func newNudger(send func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error) *nudger {
	return &nudger{send: send, followers: make(map[raft.ServerID]*nudgedFollower)}
}

// sending records a request of raft's that is about to leave. It returns nil if
// the request belongs to an older term.
func (n *nudger) sending(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest) *nudgedFollower {
	n.mu.Lock()
	defer n.mu.Unlock()
	if req.Term < n.term {
		return nil
	}
	if req.Term > n.term {
		n.term, n.header, n.leader, n.newest = req.Term, req.RPCHeader, req.Leader, 0
		clear(n.followers)
	}
	f := n.followers[id]
	if f == nil {
		f = &nudgedFollower{id: id, term: n.term}
		n.followers[id] = f
	}
	f.target = target
	f.carried = max(f.carried, commitAfter(req))
	return f
}

// answered learns from the outcome of a request that sending recorded.
func (n *nudger) answered(f *nudgedFollower, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, err error) {
	if f == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// Raft sends a follower one request at a time, heartbeats aside, which carry
	// no commit index. Where two do overlap, this forgets too early at worst: one
	// needless nudge.
	if c := commitAfter(req); c != 0 && c == f.carried {
		f.carried = 0
	}
	f.learn(req, resp, err)
	n.startIfDue(f)
}

// committed records that an entry is committed, and starts what is due.
func (n *nudger) committed(index, term uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if term != n.term || index <= n.newest {
		return
	}
	n.newest = index
	for _, f := range n.followers {
		n.startIfDue(f)
	}
}

// has reports whether a follower is known to have everything up to an index in a term.
func (n *nudger) has(id raft.ServerID, term, index uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.followers[id]
	return f != nil && f.term == term && f.match >= index
}

// start runs f in a goroutine that wait waits for; false once stopped.
func (n *nudger) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.stopped {
		n.running.Go(f)
	}
	return !n.stopped
}

// stop starts no more goroutines, wait waits for those that run.
func (n *nudger) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped = true
}

func (n *nudger) wait() { n.running.Wait() }

// due says whether f should be told of the newest committed entry: it has the
// entry, does not know that it is committed, and nothing under way will say so.
func (n *nudger) due(f *nudgedFollower) bool {
	i := n.newest
	return !n.stopped && f.term == n.term && i > 0 &&
		f.match >= i && f.commit < i && f.carried < i && f.told < i
}

func (n *nudger) startIfDue(f *nudgedFollower) {
	if f.busy || !n.due(f) {
		return
	}
	f.busy = true
	n.running.Go(func() { n.nudge(f) })
}

// nudge sends nudges to a follower until none is due.
func (n *nudger) nudge(f *nudgedFollower) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.due(f) {
		f.told = n.newest
		req := &raft.AppendEntriesRequest{
			RPCHeader:         n.header,
			Leader:            n.leader,
			Term:              f.term,
			PrevLogEntry:      n.newest,
			PrevLogTerm:       f.term,
			LeaderCommitIndex: n.newest,
		}
		target := f.target
		n.mu.Unlock()
		var resp raft.AppendEntriesResponse
		err := n.send(f.id, target, req, &resp)
		n.mu.Lock()
		f.learn(req, &resp, err)
	}
	f.busy = false
}

// learn takes what a successful answer proves. An error or a refusal proves
// nothing that matters here.
func (f *nudgedFollower) learn(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, err error) {
	if err != nil || !resp.Success || resp.Term != f.term {
		return
	}
	f.match = max(f.match, lastCovered(req))
	f.commit = max(f.commit, commitAfter(req))
}

// lastCovered is the index up to which a follower that accepts req agrees with us.
func lastCovered(req *raft.AppendEntriesRequest) uint64 {
	if n := len(req.Entries); n > 0 {
		return req.Entries[n-1].Index
	}
	return req.PrevLogEntry
}

// commitAfter is the commit index that a follower has at least once it has
// accepted req: raft takes the smaller of the leader's and its own last index.
func commitAfter(req *raft.AppendEntriesRequest) uint64 {
	return min(req.LeaderCommitIndex, lastCovered(req))
}
