package api

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// Pace are the times that sockets and event streams keep. Zero means the default.
type Pace struct {
	// Ping is how often a watcher hears from the server at least, and a silent
	// socket is asked for a sign of life; 20 s. After three times that without
	// one it is dropped.
	Ping time.Duration
	// Greeting is how long a socket may take for its hello; 10 s.
	Greeting time.Duration
	// Stall is how long a watcher may take nothing at all of what is written to
	// it; 15 s. Then it is dropped.
	Stall time.Duration
	// Leaderless is how long sockets outlive the loss of the leader; 10 s.
	Leaderless time.Duration
}

func (p Pace) withDefaults() Pace {
	p.Ping = positive(p.Ping, 20*time.Second)
	p.Greeting = positive(p.Greeting, 10*time.Second)
	p.Stall = positive(p.Stall, 15*time.Second)
	p.Leaderless = positive(p.Leaderless, 10*time.Second)
	return p
}

func positive(n, otherwise time.Duration) time.Duration {
	if n > 0 {
		return n
	}
	return otherwise
}

// hubShards is a power of two. Rooms are spread over the shards so that a busy
// room's watchers and the comings and goings elsewhere do not wait for each other.
const hubShards = 16

// maxNews is how many changes a shard notes room by room. If more pile up before
// its goroutine gets to run, it wakes everybody.
const maxNews = 4096

// retryGoodbye is how long after a failure a goodbye is said again.
const retryGoodbye = 500 * time.Millisecond

// hub knows the watchers of this node by room. It wakes those of a room that has
// changed, and all of them about ten times per ping, which serves every timeout
// of a socket: there is no timer per watcher.
//
// It carries no events. A watcher pulls what it lacks from the room's ring, at
// its own speed, so a slow one holds nothing but itself.
type hub struct {
	node      Store
	metrics   *metrics
	pace      Pace
	max       int // watchers
	seed      maphash.Seed
	shards    [hubShards]shard
	loops     sync.WaitGroup // of the shards
	unobserve []func()       // ends the observations of the store
	large     chan struct{}  // has an item for each large message under way

	// ctx is what sockets wait with in the store; it ends with the hub.
	ctx  context.Context
	stop context.CancelFunc

	mu       sync.Mutex
	members  int // watchers, and goodbyes that are not applied yet
	watchers int
	draining bool
	empty    chan struct{} // closed once draining and without members
}

// watcher is a socket or an event stream. Its methods must not block.
type watcher interface {
	wake(list []news)                   // there is news in its room; nil: of unknown kind
	offer(b *cluster.Burst, m *metrics) // there are ephemeral messages in its room
	tick(t moment)                      // time has passed
	drain()                             // the node goes: end soon
	kill()                              // end now, whatever state it is in
	watches() string                    // its room
}

// news is what a publication brought to a room.
type news = fsm.RoomChange

// moment is what a tick tells.
type moment struct {
	now        time.Time
	leaderless bool // for longer than the limit
}

// shard has the watchers of some rooms and a goroutine of its own.
type shard struct {
	mu    sync.Mutex
	rooms map[string]map[watcher]struct{}

	// What the goroutine that applies the log leaves here. Holding newsMu is all
	// that it ever does, and nobody holds it for more than a few instructions.
	newsMu sync.Mutex
	news   []news
	all    bool // every room
	signal chan struct{}

	fleeting fleeting
}

// fleeting are the ephemeral messages that a shard has not handed out yet.
type fleeting struct {
	mu     sync.Mutex
	items  []*cluster.Ephemeral
	bytes  int
	signal chan struct{}
}

// What of ephemeral messages a shard gathers: for how long, after the first, and
// how many and how much at most.
const (
	gatherTime   = 10 * time.Millisecond
	maxFleeting  = 4096
	fleetingMost = 4 << 20
)

func newHub(s *Server) *hub {
	h := &hub{
		node: s.node, metrics: s.metrics, pace: s.cfg.Pace.withDefaults(), max: s.cfg.MaxSockets,
		seed: maphash.MakeSeed(), empty: make(chan struct{}), large: make(chan struct{}, largeMessages),
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	for i := range h.shards {
		shard := &h.shards[i]
		shard.rooms = make(map[string]map[watcher]struct{})
		shard.signal, shard.fleeting.signal = make(chan struct{}, 1), make(chan struct{}, 1)
		h.loops.Go(func() { h.run(shard) })
	}
	h.unobserve = []func(){s.node.Observe(h.observe), s.node.ObserveEphemeral(h.pass)}
	return h
}

func (h *hub) shard(room string) *shard {
	return &h.shards[maphash.String(h.seed, room)%hubShards]
}

// observe takes a publication, on the goroutine that applies the log.
func (h *hub) observe(p *fsm.Published) {
	if p.Restored {
		for i := range h.shards {
			h.shards[i].tell(news{}, true)
		}
		return
	}
	for _, n := range p.Changed {
		h.shard(n.Room).tell(n, false)
	}
}

func (s *shard) tell(n news, all bool) {
	s.newsMu.Lock()
	if all || len(s.news) == maxNews {
		s.all = true
	} else {
		s.news = append(s.news, n)
	}
	s.newsMu.Unlock()
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// run is the goroutine of a shard.
func (h *hub) run(s *shard) {
	ticker := time.NewTicker(max(h.pace.Ping/10, 10*time.Millisecond))
	defer ticker.Stop()
	var spare []news
	var gathered <-chan time.Time
	fleeting := s.fleeting.signal // nil while more are gathered
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-s.signal:
			s.newsMu.Lock()
			list, all := s.news, s.all
			s.news, s.all = spare[:0], false
			s.newsMu.Unlock()
			s.wake(list, all)
			clear(list)
			spare = list
		case <-fleeting:
			h.handOut(s)
			fleeting, gathered = nil, time.After(gatherTime)
		case <-gathered:
			fleeting, gathered = s.fleeting.signal, nil
		case now := <-ticker.C:
			t := moment{now: now}
			if since := h.node.NoLeaderSince(); !since.IsZero() {
				t.leaderless = now.Sub(since) >= h.pace.Leaderless
			}
			s.each(func(w watcher) { w.tick(t) })
		}
	}
}

// pass takes ephemeral messages, of this node's clients or of other nodes, for the
// watchers of their rooms. It waits for none of them.
func (h *hub) pass(es []*cluster.Ephemeral) {
	for _, e := range es {
		f := &h.shard(e.Room).fleeting
		f.mu.Lock()
		f.items = append(f.items, e)
		f.bytes += e.Size()
		for len(f.items) > maxFleeting || f.bytes > fleetingMost {
			f.bytes -= f.items[0].Size()
			f.items = f.items[1:]
			h.metrics.lost.Inc()
		}
		f.mu.Unlock()
		select {
		case f.signal <- struct{}{}:
		default:
		}
	}
}

// handOut hands out what a shard has gathered. The first message after a while is
// alone; of many, each watcher gets a few frames.
func (h *hub) handOut(s *shard) {
	s.fleeting.mu.Lock()
	items := s.fleeting.items
	s.fleeting.items, s.fleeting.bytes = nil, 0
	s.fleeting.mu.Unlock()
	rooms := make(map[string][]*cluster.Ephemeral, 1)
	for _, e := range items {
		rooms[e.Room] = append(rooms[e.Room], e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for room, items := range rooms {
		burst := cluster.NewBurst(items)
		for w := range s.rooms[room] {
			w.offer(burst, h.metrics)
		}
	}
}

func (s *shard) wake(list []news, all bool) {
	if all {
		s.each(func(w watcher) { w.wake(nil) })
		return
	}
	// Each watcher is woken once, however much its room has brought meanwhile.
	slices.SortFunc(list, func(a, b news) int { return strings.Compare(a.Room, b.Room) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for first, next := 0, 0; first < len(list); first = next {
		for next < len(list) && list[next].Room == list[first].Room {
			next++
		}
		for w := range s.rooms[list[first].Room] {
			w.wake(list[first:next])
		}
	}
}

func (s *shard) each(f func(watcher)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, room := range s.rooms {
		for w := range room {
			f(w)
		}
	}
}

// add takes in a watcher; full and draining say why it does not.
func (h *hub) add(w watcher) (full, draining bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return false, true
	}
	if h.watchers >= h.max {
		return true, false
	}
	h.watchers++
	h.members++
	h.metrics.sockets.Inc()
	s := h.shard(w.watches())
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.rooms[w.watches()]
	if room == nil {
		room = make(map[watcher]struct{}, 1)
		s.rooms[w.watches()] = room
	}
	room[w] = struct{}{}
	return false, false
}

// remove lets a watcher go, once nothing of it runs any more.
func (h *hub) remove(w watcher) {
	s := h.shard(w.watches())
	s.mu.Lock()
	room := s.rooms[w.watches()]
	delete(room, w)
	if len(room) == 0 {
		delete(s.rooms, w.watches())
	}
	s.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers--
	h.metrics.sockets.Dec()
	h.left()
}

// left counts one member less. Callers hold mu.
func (h *hub) left() {
	h.members--
	if h.draining && h.members == 0 {
		close(h.empty)
	}
}

// goodbye submits the detach or leave of a peer whose socket is gone, again and
// again until the log has taken it. Repeating is harmless: it names the attach
// generation that ends. Should the node end first, the cluster detaches its peers.
func (h *hub) goodbye(lane Lane, c *fsm.Command) {
	h.mu.Lock()
	gone := h.draining && h.members == 0
	if !gone {
		h.members++
	}
	h.mu.Unlock()
	if !gone {
		h.sayGoodbye(lane, c)
	}
}

func (h *hub) sayGoodbye(lane Lane, c *fsm.Command) {
	lane.Submit(c, func(_ *fsm.Result, err error) {
		if err != nil && h.ctx.Err() == nil {
			time.AfterFunc(retryGoodbye, func() { h.sayGoodbye(lane, c) })
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.left()
	})
}

// drain closes every socket and stream and waits until they and their goodbyes
// are done, then stops the hub. When ctx ends first it cuts them off: then what is
// still to come is what the store has under way, which has a deadline of its own.
// It may be called twice.
func (h *hub) drain(ctx context.Context) error {
	h.mu.Lock()
	if !h.draining {
		h.draining = true
		if h.members == 0 {
			close(h.empty)
		}
	}
	h.mu.Unlock()
	for i := range h.shards {
		h.shards[i].each(watcher.drain)
	}
	var err error
	select {
	case <-h.empty:
	case <-ctx.Done():
		err = ctx.Err()
		for i := range h.shards {
			h.shards[i].each(watcher.kill)
		}
	}
	h.stop()
	<-h.empty
	for _, stop := range h.unobserve {
		stop()
	}
	h.loops.Wait()
	return err
}
