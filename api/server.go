package api

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// Store is what the api needs of a cluster node; Of makes one. The methods are
// documented on cluster.Node.
type Store interface {
	ID() string
	Incarnation() uint64
	View() *fsm.View
	Ring(room string) *fsm.Ring
	Observe(f func(*fsm.Published)) (remove func())

	Relay(e *cluster.Ephemeral)
	ObserveEphemeral(f func([]*cluster.Ephemeral)) (remove func())
	Relayed() (superseded, lost uint64)

	Do(ctx context.Context, c *fsm.Command) (*fsm.Result, error)
	NewLane() Lane
	Read(ctx context.Context) (*fsm.View, error)
	Stale() (*fsm.View, error)
	WaitRev(ctx context.Context, rev uint64) (*fsm.View, error)
	Renew(ctx context.Context, r fsm.LeaseRef) (time.Duration, error)
	TimeLeft(ctx context.Context, refs []fsm.LeaseRef) map[fsm.LeaseRef]time.Duration

	Ready() []string
	NoLeaderSince() time.Time
	Features() []string
	Status(ctx context.Context) cluster.Status
	AddMember(ctx context.Context, id, peerAddr string, replica bool, ifConfig uint64) error
	RemoveMember(ctx context.Context, id string, force bool, ifConfig uint64) error
	Promote(ctx context.Context, id string, ifConfig uint64) error
	Demote(ctx context.Context, id string, ifConfig uint64) error
	Transfer(ctx context.Context, to string) error
}

// Lane is one connection's queue of commands; see cluster.Lane.
type Lane interface {
	Submit(c *fsm.Command, done func(*fsm.Result, error))
}

// Of makes a cluster node the store of a Server.
func Of(n *cluster.Node) Store { return clusterStore{n} }

type clusterStore struct{ *cluster.Node }

func (s clusterStore) NewLane() Lane { return s.Node.NewLane() }

// Config is what a Server is made with. The zero value serves everybody with the
// standard profile.
type Config struct {
	// Version of the program, for GET /v1.
	Version string
	// Auth establishes who a caller is; nil lets everybody in with every right.
	Auth Authenticator
	// Origins are the web origins that browsers may call from, "*" for all. A
	// page served by this server itself may always. Dev adds any localhost.
	Origins []string
	Dev     bool
	// Profile is the limit profile of sessions whose opener names none; "" means
	// standard. Profiles are the operator's, besides or instead of the built-in.
	Profile  string
	Profiles map[string]Profile
	// TokenWritesPerS and TokenWritesBurst bound what callers with a token of one
	// subject write in a room through this node; 0 means 1,000 and 2,000.
	TokenWritesPerS, TokenWritesBurst int
	// MaxSockets bounds the connections (WebSocket and events) of this node; 0
	// means 10,000. Backlog bounds what one watcher may be behind, in bytes, or
	// the session's own size if that is more; 0 means 1 MiB.
	MaxSockets int
	Backlog    int
	// Pace are the times that sockets and event streams keep.
	Pace Pace
	// features are the package's; tests have others.
	features []feature
	// Logger takes bugs and what operators should know; nil discards.
	Logger *slog.Logger

	clock func() time.Duration // monotonic, of the rate limits; set by tests only
}

// Server serves one node's clients. Its methods may be called from any goroutine.
type Server struct {
	cfg      Config
	node     Store
	log      *slog.Logger
	auth     Authenticator
	profiles map[string]Profile
	meter    *meter
	grants   *grants
	metrics  *metrics
	hub      *hub
	handler  http.Handler
	remove   []func() // of the store's observers

	tokenQuota quota

	closing   chan struct{} // closed when Close begins: nothing new, waits end
	closeOnce sync.Once
}

// Check refuses a configuration that could not serve.
func (cfg Config) Check() error {
	all := profiles(cfg.Profiles)
	if _, ok := all[cfg.Profile]; cfg.Profile != "" && !ok {
		return fmt.Errorf("no limit profile is called %q", cfg.Profile)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := checkProfile(name, all[name]); err != nil {
			return fmt.Errorf("limit profile %q: %w", name, err)
		}
	}
	for _, n := range []int{cfg.TokenWritesPerS, cfg.TokenWritesBurst} {
		if n < 0 || n > maxTokenWrites {
			return fmt.Errorf("writes of a token: %d is not within 0 to %d", n, maxTokenWrites)
		}
	}
	return nil
}

// New makes a server of a node that is open. It must be closed before the node.
// It panics on a configuration that Check refuses.
func New(cfg Config, node Store) *Server {
	if err := cfg.Check(); err != nil {
		panic("api: " + err.Error())
	}
	if cfg.Profile == "" {
		cfg.Profile = standardProfile
	}
	if cfg.features == nil {
		cfg.features = features
	}
	if cfg.MaxSockets == 0 {
		cfg.MaxSockets = 10_000
	}
	if cfg.Backlog == 0 {
		cfg.Backlog = 1 << 20
	}
	s := &Server{
		cfg:      cfg,
		node:     node,
		log:      cfg.Logger,
		auth:     cfg.Auth,
		profiles: profiles(cfg.Profiles),
		grants:   newGrants(),
		closing:  make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.auth == nil {
		s.auth = NoAuth{}
	}
	s.metrics = newMetrics(node, s.grants)
	s.meter = newMeter(cfg.clock, s.metrics.refused)
	s.tokenQuota = quota{perS: cmp.Or(cfg.TokenWritesPerS, defaultTokenPerS), burst: cmp.Or(cfg.TokenWritesBurst, defaultTokenMost)}
	s.hub = newHub(s)
	s.remove = append(s.remove, node.Observe(s.grants.observe), node.Observe(s.metrics.observe))
	s.handler = s.routes()
	return s
}

// Handler serves HTTP and upgrades to WebSocket.
func (s *Server) Handler() http.Handler { return s.handler }

// Close ends every wait, tells sockets to come back elsewhere and waits for them
// until ctx ends. It may be called twice. The http.Server is the caller's to shut
// down, afterwards: a handler that waits for a lock returns only once Close began.
func (s *Server) Close(ctx context.Context) error {
	var err error
	s.closeOnce.Do(func() {
		close(s.closing)
		err = s.hub.drain(ctx)
		for _, remove := range s.remove {
			remove()
		}
	})
	return err
}

// isClosing reports that Close has begun.
func (s *Server) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}
