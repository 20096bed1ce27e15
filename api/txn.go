package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/fsm"
	"conclave/lock"
)

// postTxn answers POST …/txn: conditions, and two branches of which one runs whole
// or not at all. The locks that it acquires are ?owner='s, or the peer's that
// asks; either is one and the same for all operations, since an operation has no
// owner of its own.
func (s *Server) postTxn(c *gin.Context, in *input) error {
	cmd, owner := s.opens(in, writing(in, fsm.CommandTxn)), in.owner()
	o := in.object()
	by := in.claims(owner)
	cmd.Txn = o.transaction(by)
	o.done()
	// Whoever acquires must be somebody: unlike POST …/locks there is no place in
	// the answer for a name made up.
	for _, branch := range [][]fsm.Operation{cmd.Txn.Then, cmd.Txn.Else} {
		for _, op := range branch {
			if op.Kind == fsm.OpAcquire && by.LockOwner() == (lock.Owner{}) {
				in.refuse("owner", "an acquire needs an owner")
			}
		}
	}
	r, err := s.do(in, cmd, owner)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, appendTxnResult(nil, cmd.Txn, r))
}
