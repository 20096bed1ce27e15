package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// The bounds of setting up a connection, and of a polite goodbye.
const (
	dialLimit    = 5 * time.Second
	helloLimit   = 10 * time.Second
	goodbyeLimit = time.Second
)

// Client knows a cluster. Its rooms have connections of their own.
type Client struct {
	cfg    Config
	bases  []string // http or https
	dialer *websocket.Dialer

	mu     sync.Mutex
	rooms  map[*Room]struct{} // guarded by mu
	closed bool               // guarded by mu
}

// Dial returns a Client once one of the servers has answered, so that a wrong
// address or version is told at once. It gives up after a few seconds, or when
// ctx ends.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	h, err := NewHTTP(HTTPConfig{Config: cfg, Patience: dialLimit})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	info, err := h.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", cfg.Servers, err)
	}
	if info.V != wire.Version {
		return nil, fmt.Errorf("dial %v: server speaks protocol %d, this client %d", cfg.Servers, info.V, wire.Version)
	}
	dial := cfg.DialContext
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 10 * time.Second}).DialContext
	}
	var secure *tls.Config
	if cfg.TLS != nil {
		secure = cfg.TLS.Clone()
	}
	return &Client{
		cfg: cfg, bases: h.bases, rooms: map[*Room]struct{}{},
		dialer: &websocket.Dialer{
			Proxy: http.ProxyFromEnvironment, NetDialContext: dial, TLSClientConfig: secure,
			HandshakeTimeout: dialLimit, ReadBufferSize: 4096, WriteBufferSize: 4096,
		},
	}, nil
}

// JoinOptions describe a peer.
type JoinOptions struct {
	Name string // shown to others
	Ref  string // the app's own id for the peer
	Data any    // shown to others; nil for none
	// OnStatus is told of every change of the connection's state, one at a time.
	// It must not block, nor close the room.
	OnStatus func(Status)
}

// Join makes this program a peer of a room, and starts a session if the room has
// none. It waits until a server has taken the peer in; refusals and the end of
// ctx end that. From then on the Room looks after its connection itself.
func (c *Client) Join(ctx context.Context, room string, opts JoinOptions) (*Room, error) {
	return c.open(ctx, room, opts, false)
}

// Observe watches a room without being a peer of it: it neither starts nor holds
// a session, and takes no locks.
func (c *Client) Observe(ctx context.Context, room string, onStatus func(Status)) (*Room, error) {
	return c.open(ctx, room, JoinOptions{OnStatus: onStatus}, true)
}

func (c *Client) open(ctx context.Context, room string, opts JoinOptions, observe bool) (*Room, error) {
	r, err := newRoom(c, room, opts)
	if err != nil {
		return nil, err
	}
	r.observe = observe
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Close closes all rooms, that is, leaves them, and waits.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	rooms := make([]*Room, 0, len(c.rooms))
	for r := range c.rooms {
		rooms = append(rooms, r)
	}
	c.mu.Unlock()
	var all sync.WaitGroup
	for _, r := range rooms {
		all.Go(func() { r.Close() })
	}
	all.Wait()
	return nil
}

// add enters a room, unless the client is closed.
func (c *Client) add(r *Room) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("join %q: %w", r.name, ErrClosed)
	}
	c.rooms[r] = struct{}{}
	return nil
}

func (c *Client) remove(r *Room) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rooms, r)
}

// start is the server to try first: any, so that clients spread over the nodes.
// After that the list is followed in order.
func (c *Client) start() int { return rand.IntN(len(c.bases)) }
