package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/fsm"
)

// The routes of whole stores.

// listStores answers GET …/stores. A session has few stores (a limit bounds them),
// so there are no pages.
func (s *Server) listStores(c *gin.Context, in *input) error {
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	list := wire.Stores{Stores: []wire.StoreInfo{}}
	for _, info := range sess.Stores() {
		list.Stores = append(list.Stores, wire.StoreInfo(info))
	}
	return answer(c, http.StatusOK, v.Rev(), marshal(list))
}

// getStore answers GET …/stores/{store}, a page of its entries.
func (s *Server) getStore(c *gin.Context, in *input) error {
	store, p := in.store(), in.page(true)
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	// The pages of one walk may be of different revisions; each says of which. Who
	// needs one moment of a large store watches it: a snapshot is of one view.
	b := appendString([]byte(`{"store":`), store)
	b = appendNumber(b, "rev", v.Rev())
	b = append(b, `,"entries":`...)
	b, found := appendEntries(b, sess, store, p)
	if !found && !hasStore(sess, store) {
		return wire.Errorf(wire.NotFound, "no such store").With("store", store)
	}
	return answer(c, http.StatusOK, v.Rev(), append(b, '}'))
}

// appendEntries appends a page of a store's entries.
func appendEntries(b []byte, sess *fsm.Session, store string, p page) (_ []byte, found bool) {
	g := p.begin(b)
	sess.Entries(store, p.prefix, p.after, func(e *fsm.Entry) bool {
		return g.add(e.Key, func(b []byte) []byte { return appendEntry(b, e) })
	})
	return g.end(), g.items > 0
}

// hasStore tells an empty page of a store from a store that does not exist. The
// default store always does.
func hasStore(sess *fsm.Session, store string) bool {
	for _, info := range sess.Stores() {
		if info.Store == store {
			return true
		}
	}
	return false
}

// putStore answers PUT …/stores/{store}: the store holds exactly the members of the
// body afterwards. So the fences of locked keys stand in the query.
func (s *Server) putStore(c *gin.Context, in *input) error {
	op := fsm.Operation{Kind: fsm.OpReplace, Fences: in.fences()}
	o := in.object()
	// Elsewhere no body is an empty object; here that would empty the store.
	if len(in.body) == 0 {
		o.refuse("body", "is missing")
	}
	op.Set = o.asEntries()
	return s.writeStore(c, in, op)
}

// patchStore answers PATCH …/stores/{store}: some keys are set, others deleted.
func (s *Server) patchStore(c *gin.Context, in *input) error {
	var op fsm.Operation
	o := in.object()
	o.storeEdit("merge", &op)
	o.done()
	return s.writeStore(c, in, op)
}

// writeStore makes one write of several keys.
func (s *Server) writeStore(c *gin.Context, in *input, op fsm.Operation) error {
	cmd, owner := s.opens(in, writing(in, fsm.CommandTxn)), in.owner()
	op.Store = in.store()
	cmd.Txn = single(op)
	r, err := s.do(in, cmd, owner)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, appendVerb(nil, op.Kind, r))
}
