package api

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"conclave/fsm"
)

// Messages are events that leave no state. What is decided here is their form;
// who gets them is up to each watcher's stream (see stream.passes).

// message takes what a send has.
func (o *object) message() *fsm.Message {
	m := &fsm.Message{Data: o.required("data"), Echo: o.flag("echo")}
	m.Topic, _ = o.str("topic")
	if wrong := badKey(m.Topic); wrong != "" {
		o.refuse("topic", "%s", wrong)
	}
	to := o.object("to")
	if to == nil {
		return m
	}
	m.Peers = to.names("peers", badID)
	m.Refs = to.names("refs", badText)
	m.Roles = to.names("roles", badText)
	to.done()
	switch n := len(m.Peers) + len(m.Refs) + len(m.Roles); {
	case n == 0:
		// It would be for everybody: the last thing that a list turned out empty means.
		o.refuse("to", "names nobody; leave it out to send to all")
	case n > fsm.MaxRecipients:
		o.refuse("to", "must name at most %d", fsm.MaxRecipients)
	}
	return m
}

// names takes an array of names.
func (o *object) names(name string, bad func(string) bool) (names []string) {
	for _, raw := range o.array(name, fsm.MaxRecipients) {
		s, whole := text(raw)
		if !whole || bad(s) {
			o.refuse(name, "%s is not the name of anybody", raw)
			return nil
		}
		names = append(names, s)
	}
	return names
}

// badText reports what no peer's ref or role can be.
func badText(s string) bool {
	return s == "" || len(s) > max(maxPeerRef, maxPeerName) || strings.IndexByte(s, 0) >= 0
}

// postMessage answers POST …/messages: a send, of a peer or of a server.
func (s *Server) postMessage(c *gin.Context, in *input) error {
	cmd := s.opens(in, writing(in, fsm.CommandTxn))
	o := in.object()
	m, ephemeral := o.message(), o.flag("ephemeral")
	o.done()
	if ephemeral {
		return s.postEphemeral(c, in, cmd, m)
	}
	cmd.Txn = single(fsm.Operation{Kind: fsm.OpSend, Message: m})
	r, err := s.do(in, cmd, "")
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, appendVerb(nil, fsm.OpSend, r))
}
