package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
)

// getServer answers GET /v1.
func (s *Server) getServer(c *gin.Context, in *input) error {
	if err := in.done(); err != nil {
		return err
	}
	return answer(c, http.StatusOK, s.node.View().Rev(), marshal(wire.ServerInfo{
		V: wire.Version, Version: s.cfg.Version, Node: s.node.ID(), Features: s.common(),
	}))
}

// getLive answers /livez: the process answers.
func (s *Server) getLive(c *gin.Context, _ *input) error {
	c.JSON(http.StatusOK, gin.H{"live": true})
	return nil
}

// getReady answers /readyz: whether to send clients here, and if not, why.
func (s *Server) getReady(c *gin.Context, _ *input) error {
	reasons := s.node.Ready()
	if s.isClosing() {
		reasons = append(reasons, "draining")
	}
	if len(reasons) > 0 {
		c.JSON(http.StatusServiceUnavailable, wire.Ready{Ready: false, Reasons: reasons})
		return nil
	}
	c.JSON(http.StatusOK, wire.Ready{Ready: true, Reasons: []string{}})
	return nil
}
