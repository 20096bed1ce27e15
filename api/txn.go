package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/fsm"
	"conclave/lock"
)

// postTxn answers POST …/txn. The locks that it acquires are ?owner='s.
func (s *Server) postTxn(c *gin.Context, in *input) error {
	cmd, owner := s.opens(in, writing(in, fsm.CommandTxn)), in.owner()
	o := in.object()
	by := in.claims(owner)
	cmd.Txn = o.transaction(by)
	o.done()
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
	return answer(c, http.StatusOK, r.Rev, encodeTxnResult(cmd.Txn, r))
}
