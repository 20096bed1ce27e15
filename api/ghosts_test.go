package api

import (
	"testing"

	"conclave/fsm"
)

func TestHub_DetachesAPeerThatNobodyServes(t *testing.T) {
	s := newSocketServer(t, Config{})
	served := s.join("ghosts", "")
	open, _ := s.opening("", 0)
	join := &fsm.Command{
		Kind: fsm.CommandJoin, Room: "ghosts", Open: open, Client: "c", Request: 1,
		Join: &fsm.Join{Key: "k1", Node: s.store.ID(), Incarnation: s.store.Incarnation()},
	}
	r, err := s.store.Do(s.t.Context(), join)
	if err := outcome(r, err); err != nil {
		t.Fatal(err)
	}
	state := func(peer string) bool { return s.session("ghosts").Peer(peer).Attached }

	s.hub.haunt(join, 1)
	waitFor(t, "the detach", func() bool { return !state(r.Peer) })

	mine := s.session("ghosts").Peer(served.hello.Peer)
	s.hub.haunt(&fsm.Command{Room: "ghosts", Attach: &fsm.Attach{Peer: mine.ID}}, 1)
	s.hub.haunt(&fsm.Command{Room: "ghosts", Join: &fsm.Join{Key: mine.Key}}, 1)
	s.hub.haunt(&fsm.Command{Room: "elsewhere", Join: &fsm.Join{Key: mine.Key}}, 1)
	for range 20 {
		served.must(nil, "put", `"key":"k","value":1`)
	}
	if !state(mine.ID) {
		t.Error("a peer with a socket was detached")
	}
}
