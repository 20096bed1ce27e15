package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"conclave/client"
)

// conclaveRooms is how many rooms the clients of a workload are spread over,
// where the workload does not put them into one.
const conclaveRooms = 64

// newConclave is this product, built from the tree above.
func newConclave(bin string, flags ...string) (*system, error) {
	path := filepath.Join(bin, "conclave")
	build := exec.Command("go", "build", "-o", path, "conclave/cmd/conclave")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build conclave: %w\n%s", err, out)
	}
	return &system{name: "Conclave", version: gitVersion(), plan: func(dir string, clients, peers []int) (*running, error) {
		var servers, join []string
		for i := range nodes {
			servers = append(servers, fmt.Sprintf("http://127.0.0.1:%d", clients[i]))
			join = append(join, fmt.Sprintf("127.0.0.1:%d", peers[i]))
		}
		r := &running{}
		for i := range nodes {
			r.procs = append(r.procs, &process{
				path: path, log: filepath.Join(dir, fmt.Sprintf("n%d.log", i)),
				args: append([]string{
					"serve", "--id", fmt.Sprintf("n%d", i), "--data", filepath.Join(dir, fmt.Sprintf("n%d", i)),
					"--http", strings.TrimPrefix(servers[i], "http://"), "--peer", join[i],
					"--bootstrap-expect", strconv.Itoa(nodes), "--join", strings.Join(join, ","), "--log-level", "warn",
				}, flags...),
			})
		}
		admin, err := client.NewHTTP(client.HTTPConfig{Config: client.Config{Servers: servers}})
		if err != nil {
			return nil, err
		}
		r.close = func() { _ = admin.Close() }
		r.dial = func(ctx context.Context, i int) (session, error) { return dialConclave(ctx, servers, i) }
		r.ready = func(ctx context.Context) error {
			for i := range conclaveRooms {
				if _, err := admin.OpenRoom(ctx, roomName(i), client.OpenParams{Profile: "large", Idle: time.Hour}); err != nil {
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
	}}, nil
}

func roomName(i int) string { return fmt.Sprintf("bench-%d", i%conclaveRooms) }

// conclaveSession is a peer with a socket of its own in a room, as an app's user
// is. Keys that all clients share ("hot…") are in one room, so these clients join
// that one.
type conclaveSession struct {
	client *client.Client
	room   *client.Room
	hot    *client.Room // of room 0, opened when a shared key is first used
	seen   map[string]uint64
}

func dialConclave(ctx context.Context, servers []string, i int) (session, error) {
	// This client's node first; the others only if that one fails.
	at := i % len(servers)
	order := append(append([]string{}, servers[at:]...), servers[:at]...)
	c, err := client.Dial(ctx, client.Config{Servers: order})
	if err != nil {
		return nil, err
	}
	room, err := c.Join(ctx, roomName(i), client.JoinOptions{})
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &conclaveSession{client: c, room: room, seen: map[string]uint64{}}, nil
}

func (s *conclaveSession) of(ctx context.Context, key string) (*client.Room, error) {
	if !strings.HasPrefix(key, "hot") || s.room.Name() == roomName(0) {
		return s.room, nil
	}
	if s.hot == nil {
		r, err := s.client.Join(ctx, roomName(0), client.JoinOptions{})
		if err != nil {
			return nil, err
		}
		s.hot = r
	}
	return s.hot, nil
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
	r, err := s.client.Observe(ctx, roomName(0), nil)
	if err != nil {
		return err
	}
	w, err := r.Watch(ctx, client.Keys(key))
	if err != nil {
		return err
	}
	started := make(chan struct{})
	go func() {
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

func (s *conclaveSession) close() { _ = s.client.Close() }

// gitVersion names the tree that is measured.
func gitVersion() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// rss is the resident memory of a process in bytes.
func rss(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, io.ErrUnexpectedEOF
}
