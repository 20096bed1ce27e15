package api

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/cluster"
)

// The operator's routes. They run on the leader wherever they are asked for; what
// is safe to do is decided by package cluster, whose refusals pass through as they
// are. A change answers with the cluster afterwards, so that its configuration
// index is at hand for the next one.

// getCluster answers GET /v1/cluster, with or without a leader.
func (s *Server) getCluster(c *gin.Context, in *input) error {
	if err := s.operator(c, in); err != nil {
		return err
	}
	return s.answerCluster(c)
}

// operator checks the request and that its caller may run the cluster.
func (s *Server) operator(c *gin.Context, in *input) error {
	if err := in.done(); err != nil {
		return err
	}
	_, err := s.auth.Authenticate(bearer(c.Request))
	return err
}

// answerCluster answers with the cluster as it is now.
func (s *Server) answerCluster(c *gin.Context) error {
	ctx, cancel := context.WithTimeout(c.Request.Context(), statusTimeout)
	defer cancel()
	st := s.node.Status(ctx)
	c.Header("ETag", entityTag(st.ConfigIndex))
	return answer(c, http.StatusOK, st.Rev, marshal(wireCluster(st)))
}

func wireCluster(st cluster.Status) wire.Cluster {
	out := wire.Cluster{
		Cluster: st.Cluster, ID: st.ID, Term: st.Term, ConfigIndex: st.ConfigIndex,
		Applied: st.Applied, Commit: st.Commit, Rev: st.Rev, Members: []wire.Member{},
	}
	if st.Leader != "" {
		out.Leader = &st.Leader
	}
	for _, m := range st.Members {
		out.Members = append(out.Members, wire.Member{
			ID: m.ID, PeerAddr: m.PeerAddr, HTTPAddr: m.HTTPAddr, Voter: m.Voter, Leader: m.Leader,
			Applied: m.Applied, Lag: m.Lag, LastContactMs: m.LastContact.Milliseconds(),
			DiskMs: float64(m.Disk.Microseconds()) / 1000, Version: m.Version, Healthy: m.Healthy,
		})
	}
	return out
}

// change runs a change of membership and answers with the cluster afterwards.
func (s *Server) change(c *gin.Context, in *input, run func(ctx context.Context) error) error {
	if err := s.operator(c, in); err != nil {
		return err
	}
	if err := run(c.Request.Context()); err != nil {
		return err
	}
	return s.answerCluster(c)
}

// memberID takes the member in the path.
func (in *input) memberID() string { return in.segment("id", badStore) }

// addMember answers POST /v1/cluster/members.
func (s *Server) addMember(c *gin.Context, in *input) error {
	ifConfig, o := in.configIndex(), in.object()
	id := o.bounded("id", maxStoreBytes)
	if wrong := badStore(id); wrong != "" {
		o.refuse("id", "%s", wrong)
	}
	addr := o.bounded("peer_addr", maxKeyBytes)
	if addr == "" {
		o.refuse("peer_addr", "is missing")
	}
	replica := o.flag("replica")
	o.done()
	return s.change(c, in, func(ctx context.Context) error {
		return s.node.AddMember(ctx, id, addr, replica, ifConfig)
	})
}

// removeMember answers DELETE /v1/cluster/members/{id}.
func (s *Server) removeMember(c *gin.Context, in *input) error {
	id, force, ifConfig := in.memberID(), in.flag("force"), in.configIndex()
	return s.change(c, in, func(ctx context.Context) error {
		return s.node.RemoveMember(ctx, id, force, ifConfig)
	})
}

// promoteMember answers POST /v1/cluster/members/{id}/promote.
func (s *Server) promoteMember(c *gin.Context, in *input) error {
	id, ifConfig := in.memberID(), in.configIndex()
	return s.change(c, in, func(ctx context.Context) error { return s.node.Promote(ctx, id, ifConfig) })
}

// demoteMember answers POST /v1/cluster/members/{id}/demote.
func (s *Server) demoteMember(c *gin.Context, in *input) error {
	id, ifConfig := in.memberID(), in.configIndex()
	return s.change(c, in, func(ctx context.Context) error { return s.node.Demote(ctx, id, ifConfig) })
}

// transferLeadership answers POST /v1/cluster/transfer.
func (s *Server) transferLeadership(c *gin.Context, in *input) error {
	o := in.object()
	to := o.bounded("to", maxStoreBytes)
	if o.has("to") && badStore(to) != "" {
		o.refuse("to", "is not the id of a member")
	}
	o.done()
	return s.change(c, in, func(ctx context.Context) error { return s.node.Transfer(ctx, to) })
}
