package api

import (
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
)

// The routes that stay open; metrics and cors treat them apart.
const (
	routeSocket = "/v1/rooms/:room/socket"
	routeEvents = "/v1/rooms/:room/events"
)

// handler serves one route. What it returns is answered as a problem; then it
// must not have written anything.
type handler func(c *gin.Context, in *input) error

// routes is every route of the server. Each is described in openapi.yaml.
func (s *Server) routes() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	// A redirect would send a write somewhere else than it was meant for.
	g.RedirectTrailingSlash = false
	g.HandleMethodNotAllowed = true
	// Names are matched as they were escaped, so that a%2Fb stays one segment,
	// and unescaped by input: gin itself would turn a plus into a space.
	g.UseEscapedPath = true
	g.UnescapePathValues = false
	// A panic inside counted or cors is answered too; an error is counted, and
	// marked for browsers, like any answer.
	g.Use(s.recovered, s.counted, s.cors)
	g.NoRoute(s.handle(func(*gin.Context, *input) error {
		return wire.Errorf(wire.NotFound, "no such route")
	}))
	g.NoMethod(func(c *gin.Context) {
		s.failStatus(c, http.StatusMethodNotAllowed, wire.Errorf(wire.BadRequest, "the method %s is not allowed here", c.Request.Method).With("field", "method"))
	})

	read := func(r gin.IRoutes, path string, h handler) {
		r.GET(path, s.handle(h))
		r.HEAD(path, s.handle(h)) // net/http drops the body
	}

	read(g, "/v1", s.getServer)
	read(g, "/livez", s.getLive)
	read(g, "/readyz", s.getReady)
	read(g, "/openapi.json", s.getOpenAPI)
	metrics := gin.WrapH(s.metrics.handler())
	g.GET("/metrics", metrics)
	g.HEAD("/metrics", metrics)

	read(g, "/v1/rooms", s.listRooms)
	room := g.Group("/v1/rooms/:room")
	read(room, "", s.getRoom)
	room.PUT("", s.handle(s.putRoom))
	room.DELETE("", s.handle(s.deleteRoom))

	read(room, "/stores", s.listStores)
	read(room, "/stores/:store", s.getStore)
	room.PUT("/stores/:store", s.handle(s.putStore))
	room.PATCH("/stores/:store", s.handle(s.patchStore))
	read(room, "/stores/:store/keys/:key", s.getKey)
	room.PUT("/stores/:store/keys/:key", s.handle(s.putKey))
	room.PATCH("/stores/:store/keys/:key", s.handle(s.patchKey))
	room.DELETE("/stores/:store/keys/:key", s.handle(s.deleteKey))
	room.POST("/txn", s.handle(s.postTxn))

	read(room, "/locks", s.listLocks)
	read(room, "/locks/:store/:key", s.getLock)
	room.POST("/locks/:store/:key", s.handle(s.acquireLock))
	room.PUT("/locks/:store/:key", s.handle(s.renewLock))
	room.DELETE("/locks/:store/:key", s.handle(s.releaseLock))

	read(room, "/peers", s.listPeers)
	read(room, "/peers/:peer", s.getPeer)
	room.POST("/peers", s.handle(s.postPeer))
	room.PATCH("/peers/:peer", s.handle(s.patchPeer))
	room.DELETE("/peers/:peer", s.handle(s.deletePeer))
	room.PUT("/peers/:peer/alive", s.handle(s.keepPeer))

	room.POST("/messages", s.handle(s.postMessage))
	g.GET(routeEvents, s.serveEvents)
	g.GET(routeSocket, s.serveSocket)

	read(g, "/v1/cluster", s.getCluster)
	g.POST("/v1/cluster/members", s.handle(s.addMember))
	g.DELETE("/v1/cluster/members/:id", s.handle(s.removeMember))
	g.POST("/v1/cluster/members/:id/promote", s.handle(s.promoteMember))
	g.POST("/v1/cluster/members/:id/demote", s.handle(s.demoteMember))
	g.POST("/v1/cluster/transfer", s.handle(s.transferLeadership))
	return g
}

// handle makes a gin handler of ours.
func (s *Server) handle(h handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c, newInput(c)); err != nil {
			s.fail(c, err)
		}
	}
}

// fail answers with an error, and logs it under a request id if it is a bug.
func (s *Server) fail(c *gin.Context, err error) {
	e := wireError(err)
	if e.Code == wire.Internal {
		e = s.bug(err, "method", c.Request.Method, "path", c.Request.URL.Path)
	}
	s.failStatus(c, wire.Codes[e.Code].Status, e)
}

func (s *Server) failStatus(c *gin.Context, status int, e *wire.Error) {
	if !c.Writer.Written() {
		writeProblemStatus(c.Writer, status, e)
	}
}

// bug logs what should not happen, and where, and gives the client an id to ask about.
func (s *Server) bug(err error, where ...any) *wire.Error {
	id := randomName("r")
	s.log.Error("internal error", append([]any{"request", id, "err", err}, where...)...)
	return wire.Errorf(wire.Internal, "internal error; the log has it as %s", id).With("request_id", id)
}

// recovered turns a panic into an internal error. http.ErrAbortHandler is no bug.
func (s *Server) recovered(c *gin.Context) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			s.fail(c, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			c.Abort()
		}
	}()
	c.Next()
}
