package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/client"
	"conclave/client/wire"
)

// inbox watches the messages of a room and collects them up to one whose data is
// "end".
func inbox(ctx context.Context, t *testing.T, r *client.Room, filters ...client.Filter) func() []string {
	t.Helper()
	watch, err := r.Watch(ctx, filters...)
	if err != nil {
		t.Fatal(err)
	}
	return func() (got []string) {
		t.Helper()
		for u, err := range watch.All(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range u.Events {
				if string(e.Data) == `"end"` {
					return got
				}
				line := e.Type + " " + e.Topic + string(e.Data)
				if e.From != nil {
					line += " from " + e.From.Peer
				}
				got = append(got, line)
			}
		}
		return got
	}
}

func TestRoom_Send_reaches_whom_it_is_for(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b, c := s.join("room", 0), s.join("room", 1), s.join("room", 2)
	ref := "cleo"
	if err := c.SetSelf(ctx, client.Self{Ref: &ref}); err != nil {
		t.Fatal(err)
	}
	ofA, ofB, ofC := inbox(ctx, t, a, client.Messages()), inbox(ctx, t, b, client.Messages("chat", "to*")), inbox(ctx, t, c, client.Messages())
	var last uint64
	for i, opts := range [][]client.SendOption{
		nil, {client.Echo()}, {client.ToPeers(b.Peer())}, {client.ToRefs("cleo")}, {client.ToPeers(b.Peer()), client.ToRefs("cleo"), client.Echo()},
	} {
		rev, err := a.Send(ctx, fmt.Sprint("to", i), i, opts...)
		if err != nil || rev <= last {
			t.Fatalf("message %d has rev %d after %d, %v", i, rev, last, err)
		}
		last = rev
	}
	if _, err := a.Send(ctx, "other", 9, client.ToPeers(b.Peer())); err != nil { // b does not watch the topic
		t.Fatal(err)
	}
	if _, err := a.Send(ctx, "chat", "end", client.Echo()); err != nil {
		t.Fatal(err)
	}
	from := " from " + a.Peer()
	for name, diff := range map[string]string{
		"the sender":         cmp.Diff([]string{"message to11" + from, "message to44" + from}, ofA()),
		"the one with an id": cmp.Diff([]string{"message to00" + from, "message to11" + from, "message to22" + from, "message to44" + from}, ofB()),
		"the one with a ref": cmp.Diff([]string{"message to00" + from, "message to11" + from, "message to33" + from, "message to44" + from}, ofC()),
	} {
		if diff != "" {
			t.Errorf("%s got (-want +got):\n%s", name, diff)
		}
	}
}

// Messages and changes of the state come in one order, those of a transaction
// together, and a broken connection misses none.
func TestG7_messages_come_in_order_with_the_state_across_broken_connections(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)
	collect := inbox(ctx, t, b, client.Keys("k"), client.Messages())
	var want []string
	for i := range 30 {
		if i%10 == 5 {
			s.nodes[1].proxy.cut()
		}
		if _, err := a.Put(ctx, "k", i); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Txn(ctx, wire.Txn{Then: []wire.Op{client.SendOp("chat", i), client.PutOp("k", -i)}}); err != nil {
			t.Fatal(err)
		}
		want = append(want, "put ", fmt.Sprintf("message chat%d from %s", i, a.Peer()), "put ")
	}
	if _, err := a.Send(ctx, "chat", "end"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, collect()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHTTP_Send_reaches_whom_it_is_for(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h := s.http()
	if _, err := h.Send(ctx, "room", "chat", 1, client.RequestParams{}); !client.HasCode(err, wire.NoSession) {
		t.Errorf("a message to a room without a session: %v", err)
	}
	a, b := s.join("room", 0), s.join("room", 1)
	ofA, ofB := inbox(ctx, t, a, client.Messages()), inbox(ctx, t, b, client.Messages())
	for range 2 { // the second is the first
		if _, err := h.Send(ctx, "room", "chat", 1, client.RequestParams{IdempotencyKey: "once"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Send(ctx, "room", "chat", 2, client.RequestParams{Session: a.Session()}, client.ToPeers(b.Peer())); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Send(ctx, "room", "chat", "end", client.RequestParams{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"message chat1 from "}, ofA()); diff != "" {
		t.Errorf("a got (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"message chat1 from ", "message chat2 from "}, ofB()); diff != "" {
		t.Errorf("b got (-want +got):\n%s", diff)
	}
}

// A peer that is removed is told by the close code; its lock and what was bound to
// it go.
func TestRoom_RemovePeer_ends_the_other_room(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)
	lock, err := b.Lock(ctx, "stage")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, "hand", 1, client.Bound()); err != nil {
		t.Fatal(err)
	}
	if err := a.RemovePeer(ctx, b.Peer()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the peer is told", func() bool {
		var closed *client.CloseError
		return errors.As(b.Err(), &closed) && closed.Code == wire.CloseRemoved
	})
	<-lock.Done()
	if _, err := a.Get(ctx, "hand"); !client.IsNotFound(err) {
		t.Errorf("what was bound to the peer: %v", err)
	}
	if _, err := a.Lock(ctx, "stage"); err != nil {
		t.Errorf("its lock: %v", err)
	}
	if err := a.RemovePeer(ctx, "nobody"); !client.IsNotFound(err) {
		t.Errorf("removing nobody: %v", err)
	}
	peers, err := a.Peers(ctx)
	if err != nil || !slices.ContainsFunc(peers, func(p wire.Peer) bool { return p.Peer == a.Peer() }) || len(peers) != 1 {
		t.Errorf("peers %+v, %v", peers, err)
	}
}

// Ephemeral messages reach watchers on other nodes, over sockets and streams, and take
// no revision.
func TestRoom_Send_ephemeral_reaches_other_nodes(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)
	watch, err := b.Watch(ctx, client.Messages("cursor", "end"))
	if err != nil {
		t.Fatal(err)
	}
	h := s.http()
	stream := h.Events("room", client.EventsParams{Types: []string{"message"}})
	defer stream.Close()
	if u, err := stream.Next(ctx); err != nil || u.Snapshot == nil {
		t.Fatalf("got %+v, %v", u, err)
	}
	before, err := a.Ping(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if rev, err := a.Send(ctx, "cursor", n, client.Ephemeral()); err != nil || rev != before {
			t.Fatalf("message %d has rev %d, %v; the state had %d", n, rev, err, before)
		}
	}
	if _, err := a.Send(ctx, "cursor", "private", client.Ephemeral(), client.ToPeers(a.Peer())); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Send(ctx, "room", "end", true, client.RequestParams{}, client.Ephemeral()); err != nil {
		t.Fatal(err)
	}
	for name, next := range map[string]func(context.Context) (client.Update, error){"a socket": watch.Next, "a stream": stream.Next} {
		last, ended := -1, false
		for last != 9 || !ended {
			u, err := next(ctx)
			if err != nil {
				t.Fatalf("%s: %v after %d", name, err, last)
			}
			for _, m := range u.Ephemeral {
				if m.Topic == "end" {
					if ended = true; m.From != (wire.By{Kind: "server"}) {
						t.Errorf("%s: %+v", name, m)
					}
					continue
				}
				n, err := strconv.Atoi(string(m.Data))
				if err != nil || n <= last || m.From.Peer != a.Peer() {
					t.Errorf("%s: %s after %d, from %+v", name, m.Data, last, m.From)
				}
				last = n
			}
		}
	}
}
