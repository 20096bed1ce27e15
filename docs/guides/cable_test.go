package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"conclave/client"
)

// cable is a network connection that can be cut: as for the servers and the peer
// when a machine dies, or is out of reach, without a word.
type cable struct {
	mu    sync.Mutex
	cut   bool       // guarded by mu
	conns []net.Conn // guarded by mu
}

// dial is Config.DialContext.
func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		conn.Close()
		return nil, errors.New("the cable is cut")
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// sever cuts the cable, mend lets new connections through again.
func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// wired joins a peer on one of the nodes by a cable of its own.
func (th *theatre) wired(t *testing.T, room string, node int) (*client.Room, *cable) {
	t.Helper()
	w := &cable{}
	c, err := client.Dial(patience(t), client.Config{Servers: th.nodes[node%3 : node%3+1], DialContext: w.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	peer, err := c.Join(patience(t), room, client.JoinOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return peer, w
}

// over waits until the servers have ended a lock. Its holder is told earlier, by its
// own clock.
func over(ctx context.Context, t *testing.T, observer *client.Room, l *client.Lock) {
	t.Helper()
	for {
		valid, err := observer.Validate(ctx, l.Key(), l.Fence())
		if err != nil {
			t.Errorf("validate: %v", err)
		}
		if err != nil || !valid {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
