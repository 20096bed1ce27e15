package api

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"net/http"
	"strings"

	"conclave/client/wire"
	"conclave/fsm"
)

// Identity is who a caller is.
type Identity struct {
	Subject string // of the token; "" without one
}

// Authenticator establishes who a caller is from the token it presents, "" when
// there is none. Its errors are *wire.Error, unauthenticated.
type Authenticator interface {
	Authenticate(token string) (Identity, error)
}

// NoAuth is the Authenticator that asks for nothing: every caller has every right.
type NoAuth struct{}

// Authenticate lets everybody in, whatever the token.
func (NoAuth) Authenticate(string) (Identity, error) { return Identity{}, nil }

// bearer is the token of a request, "" when it has none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// The headers by which a peer without a socket acts, and the one that names the
// session that a request is meant for.
const (
	headerPeer    = "Conclave-Peer"
	headerPeerKey = "Conclave-Peer-Key"
	headerSession = "Conclave-Session"
)

// caller establishes on whose behalf a request in a room runs: a peer that shows
// its key, else a server. owner is the name under which a server owns locks.
func (s *Server) caller(r *http.Request, room, owner string) (fsm.Caller, error) {
	id, err := s.auth.Authenticate(bearer(r))
	if err != nil {
		return fsm.Caller{}, err
	}
	by := fsm.Caller{Kind: fsm.CallerServer, User: id.Subject, Owner: owner}
	peer, key := r.Header.Get(headerPeer), r.Header.Get(headerPeerKey)
	if peer == "" && key == "" {
		return by, nil
	}
	if peer == "" || key == "" {
		return by, wire.Errorf(wire.BadRequest, "%s and %s go together", headerPeer, headerPeerKey).With("field", headerPeer)
	}
	if owner != "" && owner != peer {
		return by, wire.Errorf(wire.BadRequest, "owner: a peer owns its locks itself").With("field", "owner")
	}
	if err := s.provePeer(r.Context(), room, r.Header.Get(headerSession), peer, key); err != nil {
		return by, err
	}
	return fsm.Caller{Kind: fsm.CallerPeer, Peer: peer, User: id.Subject}, nil
}

// provePeer checks a peer's key. This node may not have heard of the peer yet, so
// only a linearizable read can say no. A session that is named, and over, explains
// better than its peer why that is gone.
func (s *Server) provePeer(ctx context.Context, room, session, peer, key string) error {
	if sess := s.node.View().Session(room); sess != nil {
		if p := sess.Peer(peer); p != nil && sameSecret(p.Key, key) {
			return nil
		}
	}
	view, err := s.node.Read(ctx)
	if err != nil {
		return err
	}
	sess, err := liveSession(view, room, session)
	if err != nil {
		return err
	}
	p := sess.Peer(peer)
	if p == nil {
		return wire.Errorf(wire.NotFound, "no peer %s in this session", peer).With("peer", peer)
	}
	if !sameSecret(p.Key, key) {
		return wire.Errorf(wire.Forbidden, "this is not the key of peer %s", peer).With("action", "act").With("peer", peer)
	}
	return nil
}

func sameSecret(want, got string) bool {
	return subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}

// randomName draws a name that nobody guesses or draws again: 128 bits behind a
// prefix that says what it names.
func randomName(prefix string) string {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	return prefix + shortName(b[:])
}

var nameEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

func shortName(b []byte) string { return nameEncoding.EncodeToString(b) }
