package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"conclave/client/wire"
)

// Changes of membership take ifConfig, the configuration index that the caller
// saw (Cluster.ConfigIndex): another one is refused with conflict, 0 accepts any.
// Their outcome is not remembered by the servers, so an unknown one is returned,
// not repeated: look at Cluster.

// Cluster shows the cluster as the server that answers sees it.
func (h *HTTP) Cluster(ctx context.Context) (*wire.Cluster, error) {
	return get[wire.Cluster](ctx, h, "/v1/cluster")
}

// AddMember adds the node that answers at peerAddr, under that id. It is promoted
// once caught up, unless it shall stay a replica.
func (h *HTTP) AddMember(ctx context.Context, id, peerAddr string, replica bool, ifConfig uint64) error {
	body := struct {
		ID       string `json:"id"`
		PeerAddr string `json:"peer_addr"`
		Replica  bool   `json:"replica,omitempty"`
	}{id, peerAddr, replica}
	return h.change(ctx, http.MethodPost, "/v1/cluster/members", body, nil, ifConfig)
}

// RemoveMember removes a member. One whose loss would cost the quorum is removed
// only with force.
func (h *HTTP) RemoveMember(ctx context.Context, id string, force bool, ifConfig uint64) error {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	return h.change(ctx, http.MethodDelete, memberPath(id), nil, q, ifConfig)
}

// Promote makes a non-voter that has caught up a voter.
func (h *HTTP) Promote(ctx context.Context, id string, ifConfig uint64) error {
	return h.change(ctx, http.MethodPost, memberPath(id)+"/promote", nil, nil, ifConfig)
}

// Demote makes a voter a non-voter.
func (h *HTTP) Demote(ctx context.Context, id string, ifConfig uint64) error {
	return h.change(ctx, http.MethodPost, memberPath(id)+"/demote", nil, nil, ifConfig)
}

// Transfer hands leadership to a member, or with "" to the best one.
func (h *HTTP) Transfer(ctx context.Context, to string) error {
	body := struct {
		To string `json:"to,omitempty"`
	}{to}
	return h.change(ctx, http.MethodPost, "/v1/cluster/transfer", body, nil, 0)
}

func memberPath(id string) string { return "/v1/cluster/members/" + url.PathEscape(id) }

// change runs a change of the cluster.
func (h *HTTP) change(ctx context.Context, method, path string, body any, q url.Values, ifConfig uint64) error {
	c, err := newCall(method, path, body)
	if err != nil {
		return err
	}
	if q != nil {
		c.query = q
	}
	if ifConfig != 0 {
		c.header.Set("If-Match", strconv.Quote(strconv.FormatUint(ifConfig, 10)))
	}
	return h.do(ctx, c, nil)
}
