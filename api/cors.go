package api

import (
	"net"
	"net/http"
	"net/url"
	"slices"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
)

// What browsers may send and read (protocol section 3).
const (
	corsMethods = "GET, HEAD, PUT, POST, PATCH, DELETE"
	corsHeaders = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, " +
		headerSession + ", " + headerPeer + ", " + headerPeerKey
	corsExposed = "ETag, Conclave-Rev, Retry-After"
	corsMaxAge  = "7200" // s; what browsers keep at most
)

// cors answers preflights and marks what browsers may read, errors included. A
// request from a foreign origin is refused rather than only unreadable: a page
// may send some requests without asking, and on loopback no token protects us.
// Sockets are let through: they refuse with a close code, which browsers do see.
func (s *Server) cors(c *gin.Context) {
	origin := c.GetHeader("Origin")
	if origin == "" {
		return
	}
	h := c.Writer.Header()
	h.Add("Vary", "Origin")
	if !s.originAllowed(c.Request) {
		if c.FullPath() != routeSocket {
			c.Abort()
			s.fail(c, wire.Errorf(wire.Forbidden, "the origin %q is not allowed", origin).With("action", "origin"))
		}
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", corsExposed)
	if c.Request.Method == http.MethodOptions && c.GetHeader("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", corsMethods)
		h.Set("Access-Control-Allow-Headers", corsHeaders)
		h.Set("Access-Control-Max-Age", corsMaxAge)
		c.AbortWithStatus(http.StatusNoContent)
	}
}

// originAllowed reports whether a page of the request's origin may call; callers
// that are no browser name none.
func (s *Server) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(s.cfg.Origins, "*") || slices.Contains(s.cfg.Origins, origin) {
		return true
	}
	// "null" (a sandboxed frame, a file) has no host and is nobody's.
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if u.Host == r.Host {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return s.cfg.Dev && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}
