package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// newNATS is NATS with JetStream: a key-value bucket of three replicas, and every
// write fsynced before it is acknowledged, which is not its default.
func newNATS(bin string) (*system, error) {
	path, version, err := buildPeer(bin, "nats-server", "github.com/nats-io/nats-server/v2")
	if err != nil {
		return nil, err
	}
	return &system{name: "NATS", version: version, nodes: nodes, plan: func(dir string, clients, peers []int) (*running, error) {
		var routes, urls []string
		for i := range nodes {
			urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", clients[i]))
			routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", peers[i]))
		}
		r := &running{}
		for i := range nodes {
			config := filepath.Join(dir, fmt.Sprintf("n%d.conf", i))
			text := fmt.Sprintf(`
server_name: n%d
listen: 127.0.0.1:%d
jetstream { store_dir: %q, sync_interval: always, limits { default_max_consumers: 100000 } }
cluster { name: bench, listen: 127.0.0.1:%d, routes: [%s] }
`, i, clients[i], filepath.Join(dir, fmt.Sprintf("n%d", i)), peers[i], strings.Join(routes, ", "))
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				return nil, err
			}
			r.procs = append(r.procs, &process{
				path: path, log: filepath.Join(dir, fmt.Sprintf("n%d.log", i)), args: []string{"--config", config},
			})
		}
		shared := &natsPool{urls: urls, conns: map[int]*nats.Conn{}, js: map[int]jetstream.JetStream{}}
		r.close, r.leader = shared.close, shared.leader
		r.dial = func(_ context.Context, i int) (session, error) {
			return &natsSession{pool: shared, i: i, at: i % r.share, seen: map[string]uint64{}}, nil
		}
		r.ready = func(ctx context.Context) error {
			js, err := shared.get(0)
			if err != nil {
				return err
			}
			kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
				Bucket: natsBucket, Replicas: nodes, Storage: jetstream.FileStorage, History: 64, // else watchers may miss what was overwritten
			})
			if err != nil {
				return err
			}
			_, err = kv.PutString(ctx, "ready", "1")
			return err
		}
		return r, nil
	}}, nil
}

const natsBucket = "bench"

type natsPool struct {
	urls  []string
	mu    sync.Mutex
	conns map[int]*nats.Conn
	js    map[int]jetstream.JetStream
}

func (p *natsPool) open(i int) (*nats.Conn, error) {
	return nats.Connect(p.urls[i%len(p.urls)], nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
}

func (p *natsPool) get(i int) (jetstream.JetStream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.js[i] == nil {
		c, err := p.open(i)
		if err != nil {
			return nil, err
		}
		js, err := jetstream.New(c)
		if err != nil {
			c.Close()
			return nil, err
		}
		p.conns[i], p.js[i] = c, js
	}
	return p.js[i], nil
}

// leader is the node that leads the bucket's stream: writes go through that one.
func (p *natsPool) leader(ctx context.Context) (int, error) {
	js, err := p.get(0)
	if err != nil {
		return 0, err
	}
	stream, err := js.Stream(ctx, "KV_"+natsBucket)
	if err != nil {
		return 0, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	for i := range nodes {
		if info.Cluster != nil && info.Cluster.Leader == fmt.Sprintf("n%d", i) {
			return i, nil
		}
	}
	return 0, errors.New("no leader")
}

func (p *natsPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}

type natsSession struct {
	pool *natsPool
	i    int // its number
	at   int // its connection's
	kv   jetstream.KeyValue
	own  *nats.Conn // of a subscriber
	seen map[string]uint64
}

func (s *natsSession) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	if s.kv != nil {
		return s.kv, nil
	}
	js, err := s.pool.get(s.at)
	if err != nil {
		return nil, err
	}
	s.kv, err = js.KeyValue(ctx, natsBucket)
	return s.kv, err
}

func (s *natsSession) put(ctx context.Context, key string, value []byte) error {
	kv, err := s.bucket(ctx)
	if err == nil {
		_, err = kv.Put(ctx, key, value)
	}
	return err
}

// get has no linearizable form in NATS: any replica may answer.
func (s *natsSession) get(context.Context, string) error { return errUnsupported }

func (s *natsSession) cas(ctx context.Context, key string, value []byte) (bool, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return false, err
	}
	rev, err := kv.Update(ctx, key, value, s.seen[key])
	if err == nil {
		s.seen[key] = rev
		return true, nil
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) {
		return false, err
	}
	// The refusal does not say how the key is now: the loser reads it.
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		s.seen[key] = 0
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.seen[key] = e.Revision()
	return false, nil
}

func (s *natsSession) lock(context.Context, string) (func() error, error) { return nil, errUnsupported }

func (s *natsSession) watch(ctx context.Context, key string, f func([]byte), _ func()) error {
	c, err := s.pool.open(s.i)
	if err != nil {
		return err
	}
	s.own = c
	js, err := jetstream.New(c)
	if err != nil {
		return err
	}
	kv, err := js.KeyValue(ctx, natsBucket)
	if err != nil {
		return err
	}
	w, err := kv.Watch(ctx, key, jetstream.UpdatesOnly())
	if err != nil {
		return err
	}
	go func() {
		defer func() { _ = w.Stop() }()
		for {
			select {
			case e := <-w.Updates():
				if e != nil && e.Operation() == jetstream.KeyValuePut {
					f(e.Value())
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

func (s *natsSession) close() {
	if s.own != nil {
		s.own.Close()
	}
}
