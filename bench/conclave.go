package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"conclave/client"
)

// conclaveRooms is how many rooms the clients of a workload are spread over,
// where the workload does not put them into one.
const conclaveRooms = 64

// longLife keeps rooms, with what is in them, while no client is there.
var longLife = time.Hour

// conclaveShape is how a cluster of this product is made up.
type conclaveShape struct {
	voters, replicas int
	rooms            int // opened at the start, for the clients that dial
	flags            []string
}

// newConclave is this product, built from the tree above.
func newConclave(bin string, flags ...string) (*system, error) {
	path, err := buildConclave(bin)
	if err != nil {
		return nil, err
	}
	return conclaveSystem(path, conclaveShape{voters: nodes, rooms: conclaveRooms, flags: flags}), nil
}

func buildConclave(bin string) (path string, err error) {
	path = filepath.Join(bin, "conclave")
	build := exec.Command("go", "build", "-o", path, "conclave/cmd/conclave")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build conclave: %w\n%s", err, out)
	}
	return path, nil
}

// conclaveSystem runs the program at path.
func conclaveSystem(path string, shape conclaveShape) *system {
	s := &system{name: "Conclave", version: gitVersion(), nodes: shape.voters + shape.replicas}
	s.plan = func(dir string, clients, peers []int) (*running, error) {
		r := &running{}
		var join []string
		for i := range s.nodes {
			r.servers = append(r.servers, fmt.Sprintf("http://127.0.0.1:%d", clients[i]))
			join = append(join, fmt.Sprintf("127.0.0.1:%d", peers[i]))
		}
		for i := range s.nodes {
			id := fmt.Sprintf("n%d", i)
			p := &process{path: path, log: filepath.Join(dir, id+".log"), data: filepath.Join(dir, id), args: []string{
				"serve", "--id", id, "--data", filepath.Join(dir, id),
				"--http", strings.TrimPrefix(r.servers[i], "http://"), "--peer", join[i], "--log-level", "warn",
			}}
			if i < shape.voters {
				p.args = append(p.args, "--bootstrap-expect", strconv.Itoa(shape.voters), "--join", strings.Join(join[:shape.voters], ","))
			} else {
				p.args = append(p.args, "--replica", "--join", strings.Join(join, ","))
			}
			p.args = append(p.args, shape.flags...)
			r.procs = append(r.procs, p)
		}
		admin, err := client.NewHTTP(client.HTTPConfig{Config: client.Config{Servers: r.servers}})
		if err != nil {
			return nil, err
		}
		shared := &conclavePool{conns: map[int]*conclaveConn{}}
		r.close = func() {
			shared.close()
			_ = admin.Close()
		}
		r.dial = func(ctx context.Context, i int) (session, error) {
			c, err := shared.get(i%r.share, func() (*conclaveConn, error) { return openConclave(ctx, r.servers, i) })
			if err != nil {
				return nil, err
			}
			return &conclaveSession{conn: c, name: roomName(i % r.share), seen: map[string]uint64{}}, nil
		}
		r.ready = func(ctx context.Context) error {
			for i := range r.servers {
				if err := serves(ctx, r.servers[i]); err != nil {
					return err
				}
			}
			for i := range shape.rooms {
				if _, err := admin.OpenRoom(ctx, roomName(i), client.OpenParams{Profile: "large", Idle: longLife, Linger: &longLife}); err != nil {
					return err
				}
			}
			return nil
		}
		r.leader = func(ctx context.Context) (int, error) {
			c, err := admin.Cluster(ctx)
			if err != nil {
				return 0, err
			}
			if c.Leader == nil {
				return 0, errors.New("no leader")
			}
			return strconv.Atoi(strings.TrimPrefix(*c.Leader, "n"))
		}
		return r, nil
	}
	return s
}

// serves asks a node whether it does.
func serves(ctx context.Context, server string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", server, resp.Status)
	}
	return nil
}

func roomName(i int) string { return fmt.Sprintf("bench-%d", i%conclaveRooms) }

// conclaveConn is what reaches the rooms: a peer with a socket of its own in each, as
// an app's user is or a service for several of them. It joins a room when it first
// writes or reads there: who only watches has no other socket.
type conclaveConn struct {
	client *client.Client

	mu    sync.Mutex
	rooms map[string]*client.Room
}

// openConclave makes connection i: to its node first, to the others only if that
// one fails.
func openConclave(ctx context.Context, servers []string, i int) (*conclaveConn, error) {
	at := i % len(servers)
	order := append(append([]string{}, servers[at:]...), servers[:at]...)
	c, err := client.Dial(ctx, client.Config{Servers: order})
	if err != nil {
		return nil, err
	}
	return &conclaveConn{client: c, rooms: map[string]*client.Room{}}, nil
}

func (c *conclaveConn) room(ctx context.Context, name string) (*client.Room, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rooms[name] == nil {
		r, err := c.client.Join(ctx, name, client.JoinOptions{})
		if err != nil {
			return nil, err
		}
		c.rooms[name] = r
	}
	return c.rooms[name], nil
}

// conclavePool are the connections that clients share.
type conclavePool struct {
	mu    sync.Mutex
	conns map[int]*conclaveConn
}

func (p *conclavePool) get(i int, open func() (*conclaveConn, error)) (*conclaveConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[i] == nil {
		c, err := open()
		if err != nil {
			return nil, err
		}
		p.conns[i] = c
	}
	return p.conns[i], nil
}

func (p *conclavePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range p.conns {
		wg.Go(func() { _ = c.client.Close() })
	}
	wg.Wait()
}

// conclaveSession is one client. Keys that all clients share ("hot…") are in one
// room, so the clients that use them are in that one.
type conclaveSession struct {
	conn *conclaveConn
	own  bool   // the connection
	name string // of its room
	seen map[string]uint64
}

// dialConclave makes a client with a connection of its own.
func dialConclave(ctx context.Context, servers []string, i int, room string) (*conclaveSession, error) {
	c, err := openConclave(ctx, servers, i)
	if err != nil {
		return nil, err
	}
	return &conclaveSession{conn: c, own: true, name: room, seen: map[string]uint64{}}, nil
}

func (s *conclaveSession) of(ctx context.Context, key string) (*client.Room, error) {
	if strings.HasPrefix(key, "hot") {
		return s.conn.room(ctx, roomName(0))
	}
	return s.conn.room(ctx, s.name)
}

func (s *conclaveSession) put(ctx context.Context, key string, value []byte) error {
	r, err := s.of(ctx, key)
	if err == nil {
		_, err = r.Put(ctx, key, string(value))
	}
	return err
}

func (s *conclaveSession) get(ctx context.Context, key string) error {
	r, err := s.of(ctx, key)
	if err == nil {
		_, err = r.Get(ctx, key)
	}
	if client.IsNotFound(err) {
		return nil
	}
	return err
}

// list reads a page of the room's store, which must have so many entries.
func (s *conclaveSession) list(ctx context.Context, after string, limit, want int) error {
	r, err := s.of(ctx, after)
	if err != nil {
		return err
	}
	page, err := r.List(ctx, client.ListParams{After: after, Limit: limit})
	if err == nil && len(page.Entries) != want {
		err = fmt.Errorf("a list of %s after %s has %d entries, want %d", s.name, after, len(page.Entries), want)
	}
	return err
}

func (s *conclaveSession) cas(ctx context.Context, key string, value []byte) (bool, error) {
	r, err := s.of(ctx, key)
	if err != nil {
		return false, err
	}
	w, err := r.Put(ctx, key, string(value), client.IfRev(s.seen[key]))
	if now, ok := client.AsConflict(err); ok {
		s.seen[key] = now.Rev
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.seen[key] = w.Rev
	return true, nil
}

func (s *conclaveSession) lock(ctx context.Context, key string) (func() error, error) {
	r, err := s.of(ctx, key)
	if err != nil {
		return nil, err
	}
	l, err := r.Lock(ctx, key, client.TTL(60*time.Second))
	if err != nil {
		return nil, err
	}
	return func() error { return l.Unlock(ctx) }, nil
}

func (s *conclaveSession) watch(ctx context.Context, key string, f func([]byte), gap func()) error {
	// A subscriber is no peer here: a room of 5,000 that merely look on.
	r, err := s.conn.client.Observe(ctx, roomName(0), nil)
	if err != nil {
		return err
	}
	w, err := r.Watch(ctx, client.Keys(key))
	if err != nil {
		_ = r.Close()
		return err
	}
	started := make(chan struct{})
	go func() {
		defer r.Close() // the client lives on, for others
		begun := false
		for {
			u, err := w.Next(ctx)
			if err != nil {
				return
			}
			if u.Reset != "" && begun {
				gap()
			}
			if !begun {
				begun = true
				close(started)
			}
			for i := range u.Events {
				if u.Events[i].Type == "put" {
					v := u.Events[i].Value
					f(v[1 : len(v)-1]) // of a JSON string without escapes
				}
			}
		}
	}()
	select {
	case <-started:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *conclaveSession) close() {
	if s.own {
		_ = s.conn.client.Close()
	}
}

// gitVersion names the tree that is measured.
func gitVersion() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
