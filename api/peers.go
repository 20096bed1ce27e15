package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/fsm"
)

// The bounds of what others see of a peer, in bytes, and of the TTL of one
// without a socket, in ms.
const (
	maxPeerName = 256
	maxPeerRef  = 256
	maxPeerTTL  = 24 * 3_600_000
)

// peer takes the peer in the path.
func (in *input) peer() string {
	return in.segment("peer", func(s string) string {
		if badID(s) {
			return "is not the id of a peer"
		}
		return ""
	})
}

// listPeers answers GET …/peers, a page of them by id. There may be tens of
// thousands, each with its data.
func (s *Server) listPeers(c *gin.Context, in *input) error {
	p := in.page(false)
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, v.Rev(), append(pagePeers([]byte(`{"peers":`), sess, p).end(), '}'))
}

// pagePeers appends a page of a session's peers.
func pagePeers(b []byte, sess *fsm.Session, p page) *pager {
	g := p.begin(b)
	sess.PeersAfter(p.after, func(peer *fsm.Peer) bool {
		return g.add(peer.ID, func(b []byte) []byte { return appendPeer(b, peer) })
	})
	return g
}

// getPeer answers GET …/peers/{peer}.
func (s *Server) getPeer(c *gin.Context, in *input) error {
	id := in.peer()
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	p := sess.Peer(id)
	if p == nil {
		return wire.Errorf(wire.NotFound, "no such peer").With("peer", id)
	}
	return answer(c, http.StatusOK, v.Rev(), appendPeer(nil, p))
}

// postPeer answers POST …/peers: a join without a socket. It starts a session if
// the room has none.
func (s *Server) postPeer(c *gin.Context, in *input) error {
	cmd := s.opens(in, writing(in, fsm.CommandJoin))
	if cmd.Open == nil {
		cmd.Open, _ = s.opening("", 0)
	}
	o := in.object()
	// The key is drawn anew for a repeated request too; the one that counts is in
	// the result, which is remembered. A key derived from the request's would be as
	// weak as what the client calls random.
	join := &fsm.Join{
		Key: randomName("k"), Name: o.bounded("name", maxPeerName), Ref: o.bounded("ref", maxPeerRef), Data: o.raw("data"),
	}
	var given bool
	if join.TTL, given = o.number("ttl_ms", 1, maxPeerTTL); !given {
		o.refuse("ttl_ms", "is missing: a peer without a socket needs one")
	}
	o.done()
	cmd.Join = join
	r, err := s.do(in, cmd, "")
	if err != nil {
		return err
	}
	return answer(c, http.StatusCreated, r.Rev, marshal(wire.Joined{
		Peer: r.Peer, ResumeKey: r.Key, Session: r.Session, TTLMs: join.TTL, Rev: r.Rev,
	}))
}

// keepPeer answers PUT …/peers/{peer}/alive. Like a lock's renewal it is recorded
// by the leader and not logged: a thousand peers without sockets cost no writes.
func (s *Server) keepPeer(c *gin.Context, in *input) error {
	ref := fsm.LeaseRef{Room: in.room(), Session: in.session(), Peer: in.peer()}
	if err := in.done(); err != nil {
		return err
	}
	if err := s.mayActFor(c.Request, ref.Room, ref.Peer); err != nil {
		return err
	}
	return s.renew(c, ref)
}

// mayActFor lets a peer act for itself only; a server may for all.
func (s *Server) mayActFor(r *http.Request, room, peer string) error {
	by, err := s.caller(r, room, "")
	if err == nil && by.Kind == fsm.CallerPeer && by.Peer != peer {
		err = wire.Errorf(wire.Forbidden, "only peer %s itself may do this", peer).With("action", "act").With("peer", peer)
	}
	return err
}

// patchPeer answers PATCH …/peers/{peer}: what others see of it.
func (s *Server) patchPeer(c *gin.Context, in *input) error {
	cmd := writing(in, fsm.CommandSetPeer)
	cmd.Target = in.peer()
	o := in.object()
	set := &fsm.SetPeer{Data: o.raw("data")}
	for _, m := range []struct {
		name string
		max  int
		into **string
	}{{"name", maxPeerName, &set.Name}, {"ref", maxPeerRef, &set.Ref}, {"role", maxPeerName, &set.Role}} {
		if o.has(m.name) {
			text := o.bounded(m.name, m.max)
			*m.into = &text
		}
	}
	if len(o.members) == 0 {
		o.refuse("body", "must have one of data, name, ref, role")
	}
	o.done()
	cmd.SetPeer = set
	// Form comes before rights, so the request is checked before its caller is.
	if err := in.done(); err != nil {
		return err
	}
	// Name, ref and data are a peer's own; of roles others may decide.
	if set.Name != nil || set.Ref != nil || set.Data != nil {
		if err := s.mayActFor(c.Request, cmd.Room, cmd.Target); err != nil {
			return err
		}
	}
	r, err := s.do(in, cmd, "")
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, revision(r.Rev)(nil))
}

// deletePeer answers DELETE …/peers/{peer}: it leaves, or somebody removes it.
func (s *Server) deletePeer(c *gin.Context, in *input) error {
	cmd := writing(in, fsm.CommandLeave)
	cmd.Target, cmd.Reason = in.peer(), "removed"
	// Others learn from the reason whether somebody went or was sent away.
	if self, _ := in.header(headerPeer); self == cmd.Target {
		cmd.Reason = "left"
	}
	r, err := s.do(in, cmd, "")
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, revision(r.Rev)(nil))
}
