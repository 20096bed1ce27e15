package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// newEtcd is etcd with its defaults, which fsync.
func newEtcd(bin string) (*system, error) {
	path, version, err := buildPeer(bin, "etcd", "go.etcd.io/etcd/server/v3")
	if err != nil {
		return nil, err
	}
	return &system{name: "etcd", version: version, nodes: nodes, plan: func(dir string, clients, peers []int) (*running, error) {
		var endpoints, cluster []string
		for i := range nodes {
			endpoints = append(endpoints, fmt.Sprintf("http://127.0.0.1:%d", clients[i]))
			cluster = append(cluster, fmt.Sprintf("n%d=http://127.0.0.1:%d", i, peers[i]))
		}
		r := &running{}
		for i := range nodes {
			peer := fmt.Sprintf("http://127.0.0.1:%d", peers[i])
			r.procs = append(r.procs, &process{
				path: path, log: filepath.Join(dir, fmt.Sprintf("n%d.log", i)),
				args: []string{
					"--name", fmt.Sprintf("n%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("n%d", i)),
					"--listen-client-urls", endpoints[i], "--advertise-client-urls", endpoints[i],
					"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
					"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
					"--log-level", "error",
				},
			})
		}
		shared := &etcdPool{endpoints: endpoints, conns: map[int]*clientv3.Client{}}
		r.close, r.leader = shared.close, shared.leader
		r.dial = func(_ context.Context, i int) (session, error) {
			return &etcdSession{pool: shared, i: i, at: i % r.share, seen: map[string]int64{}}, nil
		}
		r.ready = func(ctx context.Context) error {
			c, err := shared.get(0)
			if err != nil {
				return err
			}
			for _, e := range endpoints {
				if _, err := c.Status(ctx, e); err != nil {
					return err
				}
			}
			_, err = c.Put(ctx, "ready", "1")
			return err
		}
		return r, nil
	}}, nil
}

// etcdPool are the connections that clients share. Each is to one node first, and
// goes to the others only if that fails.
type etcdPool struct {
	endpoints []string
	mu        sync.Mutex
	conns     map[int]*clientv3.Client
}

func (p *etcdPool) open(i int) (*clientv3.Client, error) {
	at := i % len(p.endpoints)
	return clientv3.New(clientv3.Config{Endpoints: []string{p.endpoints[at]}, DialTimeout: 5 * time.Second})
}

func (p *etcdPool) get(i int) (*clientv3.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[i] == nil {
		c, err := p.open(i)
		if err != nil {
			return nil, err
		}
		p.conns[i] = c
	}
	return p.conns[i], nil
}

func (p *etcdPool) leader(ctx context.Context) (int, error) {
	c, err := p.get(0)
	if err != nil {
		return 0, err
	}
	for i, e := range p.endpoints {
		st, err := c.Status(ctx, e)
		if err == nil && st.Leader == st.Header.MemberId {
			return i, nil
		}
	}
	return 0, errors.New("no leader")
}

func (p *etcdPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

type etcdSession struct {
	pool    *etcdPool
	i, at   int // its number, and its connection's
	seen    map[string]int64
	session *concurrency.Session // of locks
	own     *clientv3.Client     // of a subscriber
}

func (s *etcdSession) put(ctx context.Context, key string, value []byte) error {
	c, err := s.pool.get(s.at)
	if err == nil {
		_, err = c.Put(ctx, key, string(value))
	}
	return err
}

func (s *etcdSession) get(ctx context.Context, key string) error {
	c, err := s.pool.get(s.at)
	if err == nil {
		_, err = c.Get(ctx, key)
	}
	return err
}

func (s *etcdSession) cas(ctx context.Context, key string, value []byte) (bool, error) {
	c, err := s.pool.get(s.at)
	if err != nil {
		return false, err
	}
	// One round trip, as with Conclave: the loser learns the present revision.
	r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", s.seen[key])).
		Then(clientv3.OpPut(key, string(value))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return false, err
	}
	if r.Succeeded {
		s.seen[key] = r.Header.Revision
		return true, nil
	}
	s.seen[key] = 0
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		s.seen[key] = kvs[0].ModRevision
	}
	return false, nil
}

func (s *etcdSession) lock(ctx context.Context, key string) (func() error, error) {
	c, err := s.pool.get(s.at)
	if err != nil {
		return nil, err
	}
	if s.session == nil {
		if s.session, err = concurrency.NewSession(c, concurrency.WithTTL(60)); err != nil {
			return nil, err
		}
	}
	m := concurrency.NewMutex(s.session, key)
	if err := m.Lock(ctx); err != nil {
		return nil, err
	}
	return func() error { return m.Unlock(ctx) }, nil
}

func (s *etcdSession) watch(ctx context.Context, key string, f func([]byte), gap func()) error {
	// Subscribers are separate programs: each has a connection of its own.
	c, err := s.pool.open(s.i)
	if err != nil {
		return err
	}
	s.own = c
	ch := c.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithCreatedNotify())
	first, ok := <-ch
	if !ok || first.Err() != nil {
		return fmt.Errorf("watch: %w", errors.Join(first.Err(), ctx.Err()))
	}
	go func() {
		for w := range ch {
			if w.CompactRevision != 0 {
				gap()
			}
			for _, e := range w.Events {
				if e.Type == clientv3.EventTypePut {
					f(e.Kv.Value)
				}
			}
		}
	}()
	return nil
}

func (s *etcdSession) close() {
	if s.session != nil {
		_ = s.session.Close()
	}
	if s.own != nil {
		_ = s.own.Close()
	}
}

// buildPeer builds a peer's server from its module, at the version of go.mod.
func buildPeer(bin, name, pkg string) (path, version string, err error) {
	path = filepath.Join(bin, name)
	if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", pkg).Output()
	if err != nil {
		return "", "", fmt.Errorf("version of %s: %w", name, err)
	}
	return path, strings.TrimSpace(string(out)), nil
}
