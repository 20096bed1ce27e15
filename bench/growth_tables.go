package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"conclave/client"
)

// table is how the cost of something grows with one number.
type table struct {
	name, title string
	counts      string // what the number is of
	sizes       []size
	columns     []column
	shape       func(at size) conclaveShape
	run         func(ctx context.Context, g *grower, r *running, at size, v figuresByName) error
}

// size is where a table is measured: the number, and for nodes the replicas beside
// so many voters, which is no number to grow by.
type size struct {
	N        int `json:"n"`
	Replicas int `json:"replicas,omitempty"`
}

func (s size) String() string {
	if s.Replicas > 0 {
		return fmt.Sprintf("%d + a replica", s.N)
	}
	return thousands(s.N)
}

// column is one figure of a table. The growth of a cost is told.
type column struct {
	key, head string
	cost      bool
}

func sizes(n ...int) []size {
	list := make([]size, len(n))
	for i := range n {
		list[i].N = n[i]
	}
	return list
}

func threeNodes(size) conclaveShape { return conclaveShape{voters: nodes, rooms: conclaveRooms} }

// growthTables are all tables, in the order of the report.
func growthTables() []table {
	return []table{
		{
			name: "rooms", counts: "rooms", sizes: sizes(1, 10, 100, 1000, 10_000, 100_000),
			title: "Rooms of one entry. 64 clients put into a random one each time, over HTTP",
			columns: []column{
				{"put_rate", "puts/s", false},
				{"put_p50", "p50, ms", true},
				{"put_p99", "p99, ms", true},
				{"put_cpu", "CPU per put, µs", true},
				{"rss_mb", "RSS of a node, MB", true},
				{"restart_s", "restart, s", true},
			},
			shape: func(size) conclaveShape {
				// All of this load is one caller to the servers: what bounds a caller is not asked here.
				return conclaveShape{voters: nodes, flags: []string{"--token-writes-per-s", "1000000", "--token-writes-burst", "1000000"}}
			},
			run: growRooms,
		},
		{
			name: "keys", counts: "keys in a room", sizes: sizes(10, 100, 1000, 10_000),
			title: fmt.Sprintf("Keys of a room. %d clients in %d such rooms; a list is of 100 keys (or all) from a random one on", keysClients, keysRooms),
			columns: []column{
				{"put_rate", "puts/s", false},
				{"put_p50", "put p50, ms", true},
				{"put_cpu", "CPU per put, µs", true},
				{"get_p50", "get p50, ms", true},
				{"get_cpu", "CPU per get, µs", true},
				{"list_p50", "list p50, ms", true},
				{"list_cpu", "CPU per list, µs", true},
			},
			shape: threeNodes, run: growKeys,
		},
		{
			name: "watchers", counts: "watchers of a room", sizes: sizes(1, 10, 100, 1000, 10_000),
			title: "Watchers of one room: as fast as they take it, then at 2 changes per second",
			columns: []column{
				{"all_rate", "delivered/s", false},
				{"all_cpu", "CPU per delivery, µs", true},
				{"two_p50", "p50 at 2/s, ms", true},
				{"two_p99", "p99 at 2/s, ms", true},
				{"publish_cpu", "CPU per change, µs", true},
			},
			shape: threeNodes, run: growWatchers,
		},
		{
			name: "value", counts: "bytes of a value", sizes: sizes(64, 256, 1<<10, 4<<10, 16<<10, 64<<10),
			title: "Size of values. 64 clients put",
			columns: []column{
				{"put_rate", "puts/s", false},
				{"mb_rate", "MB/s", false},
				{"put_p50", "p50, ms", true},
				{"put_p99", "p99, ms", true},
				{"put_cpu", "CPU per put, µs", true},
			},
			shape: threeNodes, run: growValue,
		},
		{
			name: "nodes", counts: "nodes", sizes: append(sizes(1, 3, 5), size{3, 1}),
			title: "Nodes, all on this machine. 64 clients",
			columns: []column{
				{"put_rate", "puts/s", false},
				{"put_p50", "put p50, ms", true},
				{"put_cpu", "CPU per put, µs", true},
				{"get_rate", "linearizable gets/s", false},
				{"get_p50", "get p50, ms", true},
				{"get_cpu", "CPU per get, µs", true},
			},
			shape: func(at size) conclaveShape {
				return conclaveShape{voters: at.N, replicas: at.Replicas, rooms: conclaveRooms}
			},
			run: growNodes,
		},
	}
}

func growRooms(ctx context.Context, g *grower, r *running, at size, v figuresByName) error {
	if err := r.fill(ctx, at.N, 1); err != nil {
		return err
	}
	now, _, err := r.memory()
	if err != nil {
		return err
	}
	v["rss_mb"] = now / 1e6
	leader, err := r.leader(ctx)
	if err != nil {
		return err
	}
	took, err := r.restart(ctx, (leader+1)%len(r.procs))
	if err != nil {
		return err
	}
	v["restart_s"] = took.Seconds()
	const clients = 64
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer web.CloseIdleConnections()
	value := fmt.Appendf(nil, "%q", valueOf(0))
	f, err := r.load(ctx, clients, g.p, func(i int) (bool, error) {
		return true, putPlain(ctx, web, r.servers[i%len(r.servers)], filledRoom(rand.IntN(at.N)), keyName(0), value)
	})
	v.take("put", f)
	return err
}

// putPlain puts without an Idempotency-Key, whose memory would be the most of what
// such a load leaves behind.
func putPlain(ctx context.Context, web *http.Client, server, room, key string, value []byte) error {
	target := fmt.Sprintf("%s/v1/rooms/%s/stores/default/keys/%s", server, url.PathEscape(room), url.PathEscape(key))
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, bytes.NewReader(value))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("put %s of %s: %s: %.200s", key, room, resp.Status, answer)
	}
	return err
}

// The load on rooms with many keys: few clients, so that a latency is not mostly the
// wait for the others.
const (
	keysRooms   = 8
	keysClients = 16
)

func growKeys(ctx context.Context, g *grower, r *running, at size, v figuresByName) error {
	if err := r.fill(ctx, keysRooms, at.N); err != nil {
		return err
	}
	r.dial = func(ctx context.Context, i int) (session, error) {
		return dialConclave(ctx, r.servers, i, filledRoom(i%keysRooms))
	}
	for _, load := range []struct {
		name string
		op   func(ctx context.Context, s session, value []byte) error
	}{
		{"put", func(ctx context.Context, s session, value []byte) error {
			return s.put(ctx, keyName(rand.IntN(at.N)), value)
		}},
		{"get", func(ctx context.Context, s session, _ []byte) error { return s.get(ctx, keyName(rand.IntN(at.N))) }},
		{"list", func(ctx context.Context, s session, _ []byte) error {
			const page = 100
			first := rand.IntN(max(1, at.N-page)) // so that a page is full, if the room has so many
			return s.(*conclaveSession).list(ctx, keyName(first), page, min(page, at.N-first-1))
		}},
	} {
		f, err := closedLoop(keysClients, func(ctx context.Context, s session, _ int, value []byte) (bool, error) {
			return true, load.op(ctx, s, value)
		})(ctx, r, g.p)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		v.take(load.name, f)
	}
	return nil
}

func growWatchers(ctx context.Context, g *grower, r *running, at size, v figuresByName) error {
	for _, load := range []struct {
		name string
		rate int
		p    pace
	}{{"all", 0, g.p}, {"two", 2, pace{g.p.warmUp, 2 * g.p.measure}}} {
		f, err := fanOut(at.N, load.rate)(ctx, r, load.p)
		if err != nil {
			return err
		}
		if f.Gaps > 0 {
			return fmt.Errorf("%d events did not come to %d watchers", f.Gaps, at.N)
		}
		v.take(load.name, f)
	}
	v["publish_cpu"] = v["all_cpu"] * float64(at.N)
	return nil
}

func growValue(ctx context.Context, g *grower, r *running, at size, v figuresByName) error {
	value := bytes.Repeat([]byte{'x'}, at.N-2) // without its quotes
	f, err := closedLoop(64, func(ctx context.Context, s session, i int, _ []byte) (bool, error) {
		return true, s.put(ctx, keyName(i), value)
	})(ctx, r, g.p)
	v.take("put", f)
	v["mb_rate"] = f.Rate * float64(at.N) / 1e6
	return err
}

func growNodes(ctx context.Context, g *grower, r *running, _ size, v figuresByName) error {
	for _, w := range workloads() {
		name, ok := map[string]string{"put-64": "put", "get-64": "get"}[w.name]
		if !ok {
			continue
		}
		f, err := w.run(ctx, r, g.p)
		if err != nil {
			return err
		}
		v.take(name, f)
	}
	return nil
}

func filledRoom(i int) string { return fmt.Sprintf("filled-%06d", i) }
func keyName(i int) string    { return fmt.Sprintf("key-%06d", i) }

// fill opens rooms with so many entries each, of values of the usual size.
func (r *running) fill(ctx context.Context, rooms, keys int) error {
	const together = 100 // entries of one write: some 30 KB, so that all those under way are soon on disk
	value := string(valueOf(0))
	clients := make([]*client.HTTP, len(r.servers))
	for i := range clients {
		h, err := client.NewHTTP(client.HTTPConfig{Config: client.Config{Servers: r.servers[i : i+1]}})
		if err != nil {
			return err
		}
		defer h.Close()
		clients[i] = h
	}
	return inParallel(rooms, func(i int) error {
		h, room := clients[i%len(clients)], filledRoom(i)
		for first := 0; first < keys; first += together {
			entries := map[string]any{}
			for k := first; k < min(first+together, keys); k++ {
				entries[keyName(k)] = value
			}
			var err error
			if first == 0 {
				_, err = h.OpenRoom(ctx, room, client.OpenParams{
					Profile: "large", Idle: longLife, Linger: &longLife, Stores: map[string]map[string]any{"default": entries},
				})
			} else {
				_, err = h.Merge(ctx, room, entries, nil, client.StoreParams{})
			}
			if err != nil {
				return fmt.Errorf("fill %s: %w", room, err)
			}
		}
		return nil
	})
}

// restart kills nodes and takes the time from their start until all of them serve
// again.
func (r *running) restart(ctx context.Context, which ...int) (time.Duration, error) {
	for _, i := range which {
		r.procs[i].kill()
	}
	begun := time.Now()
	for _, i := range which {
		if err := r.procs[i].start(); err != nil {
			return 0, err
		}
	}
	for _, i := range which {
		for {
			err := serves(ctx, r.servers[i])
			if err == nil {
				break
			}
			select {
			case <-r.procs[i].done:
				return 0, fmt.Errorf("node %d has ended instead of serving again", i)
			case <-ctx.Done():
				return 0, fmt.Errorf("wait for node %d to serve again: %w", i, err)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return time.Since(begun), nil
}
