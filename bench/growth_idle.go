package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"conclave/client"
)

// idleFigures are what sockets cost on which nothing happens, each with one watch.
// Memory is a node's, on average.
type idleFigures struct {
	Kind     string  `json:"kind"`
	Sockets  int     `json:"sockets_per_node"`
	BeforeMB float64 `json:"before_rss_mb"`
	OpenedMB float64 `json:"opened_rss_mb"` // just after the last was opened
	QuietMB  float64 `json:"quiet_rss_mb"`  // once the garbage of that is gone
	HeapMB   float64 `json:"heap_mb"`       // more than before: part of QuietMB
	StacksMB float64 `json:"stacks_mb"`     // the same
}

// perSocket is the resident memory of a socket in KB.
func (f *idleFigures) perSocket() float64 {
	return (f.QuietMB - f.BeforeMB) * 1000 / float64(f.Sockets)
}

// idle opens sockets, as observers and as peers, and waits until they are quiet.
func (g *grower) idle(ctx context.Context) ([]*idleFigures, error) {
	each := min(g.sockets, g.most)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("ask how many files may be open: %w", err)
	}
	// All clients are this one process.
	if fit := (int(limit.Cur) - 200) / nodes; each > fit {
		log.Printf("idle: %d sockets at each node, since %d files may be open", fit, limit.Cur)
		each = fit
	}
	var all []*idleFigures
	for _, kind := range []string{"observer", "peer"} {
		f := &idleFigures{Kind: kind, Sockets: each}
		if err := g.cluster(ctx, threeNodes(size{}), 8*time.Minute, func(ctx context.Context, r *running) error {
			return f.measure(ctx, r)
		}); err != nil {
			return all, fmt.Errorf("%ss: %w", kind, err)
		}
		log.Printf("idle: %d %ss at each node: %.1f KB each", f.Sockets, kind, f.perSocket())
		all = append(all, f)
	}
	return all, nil
}

func (f *idleFigures) measure(ctx context.Context, r *running) error {
	before, err := r.quiet(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	clients := make([]*client.Client, f.Sockets*len(r.servers))
	defer func() {
		_ = inParallel(len(clients), func(i int) error {
			if clients[i] != nil {
				_ = clients[i].Close()
			}
			return nil
		})
	}()
	if err := inParallel(len(clients), func(i int) (err error) {
		at := i % len(r.servers)
		if clients[i], err = client.Dial(ctx, client.Config{Servers: r.servers[at : at+1]}); err != nil {
			return err
		}
		return f.watch(ctx, clients[i], roomName(i))
	}); err != nil {
		return err
	}
	opened, _, err := r.memory()
	if err != nil {
		return err
	}
	log.Printf("idle: %d sockets are open; now waiting for the collector of garbage, up to two minutes", len(clients))
	if err := r.collected(ctx, time.Now()); err != nil {
		return err
	}
	quiet, err := r.quiet(ctx, 20*time.Second)
	if err != nil {
		return err
	}
	f.BeforeMB, f.OpenedMB, f.QuietMB = before.rss/1e6, opened/1e6, quiet.rss/1e6
	f.HeapMB, f.StacksMB = (quiet.heap-before.heap)/1e6, (quiet.stacks-before.stacks)/1e6
	return nil
}

// watch opens the socket, and watches one key.
func (f *idleFigures) watch(ctx context.Context, c *client.Client, name string) error {
	var room *client.Room
	var err error
	if f.Kind == "observer" {
		room, err = c.Observe(ctx, name, nil)
	} else {
		room, err = c.Join(ctx, name, client.JoinOptions{})
	}
	if err != nil {
		return err
	}
	w, err := room.Watch(ctx, client.Keys("idle"))
	if err == nil {
		_, err = w.Next(ctx) // its snapshot
	}
	return err
}

// held is the memory of a node on average, in bytes.
type held struct{ rss, heap, stacks float64 }

// quiet is the least memory within a time: the collector gives it back by and by.
func (r *running) quiet(ctx context.Context, within time.Duration) (least held, err error) {
	for end := time.Now().Add(within); ; {
		now, _, err := r.memory()
		if err != nil {
			return held{}, err
		}
		if least.rss == 0 || now < least.rss {
			least.rss = now
		}
		if time.Now().After(end) {
			break
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return held{}, ctx.Err()
		}
	}
	for _, server := range r.servers {
		m, err := gauges(ctx, server)
		if err != nil {
			return held{}, err
		}
		least.heap += m["go_memstats_heap_inuse_bytes"] / float64(len(r.servers))
		least.stacks += m["go_memstats_stack_inuse_bytes"] / float64(len(r.servers))
	}
	return least, nil
}

// collected waits until every node has collected its garbage after a moment. The
// runtime does after two minutes, if nothing makes it sooner.
func (r *running) collected(ctx context.Context, after time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, server := range r.servers {
		for {
			m, err := gauges(ctx, server)
			if err != nil {
				return err
			}
			if m["go_memstats_last_gc_time_seconds"] > float64(after.UnixMilli())/1000 {
				break
			}
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
				return fmt.Errorf("wait for a collection of garbage at %s: %w", server, ctx.Err())
			}
		}
	}
	return nil
}

// gauges are the figures of a node's /metrics that have no labels.
func gauges(ctx context.Context, server string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = v
		}
	}
	return all, lines.Err()
}
