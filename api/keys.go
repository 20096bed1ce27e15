package api

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/fsm"
)

// The routes of one key. Conditions stand in headers, as HTTP has them, or in the
// query where HTTP has nothing (versions, fences); they end up in the same
// operation that a socket's put or a transaction makes.

// getKey answers GET …/stores/{store}/keys/{key}.
func (s *Server) getKey(c *gin.Context, in *input) error {
	store, key, raw := in.store(), in.key(), in.flag("raw")
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	e := sess.Entry(store, key)
	if e == nil {
		return wire.Errorf(wire.NotFound, "no such key").With("store", store).With("key", key)
	}
	c.Header("ETag", entityTag(e.Rev))
	if has(c.Request.Header.Values("If-None-Match"), entityTag(e.Rev)) {
		return answer(c, http.StatusNotModified, v.Rev(), nil)
	}
	// The bare value is the bytes that were put, so that scripts need no JSON
	// around it; its revision is in the headers.
	if raw {
		return answer(c, http.StatusOK, v.Rev(), e.Value)
	}
	return answer(c, http.StatusOK, v.Rev(), appendEntry(nil, e))
}

// has reports whether an If-None-Match names the tag. It compares weakly, as RFC
// 9110 says for reads; tags that are not ours match nothing.
func has(headers []string, tag string) bool {
	for _, h := range headers {
		for t := range strings.SplitSeq(h, ",") {
			t = strings.TrimSpace(t)
			if t == "*" || strings.TrimPrefix(t, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// putKey answers PUT …/stores/{store}/keys/{key}: the body is the value.
func (s *Server) putKey(c *gin.Context, in *input) error {
	cmd, owner := s.opens(in, writing(in, fsm.CommandTxn)), in.owner()
	op := fsm.Operation{
		Kind: fsm.OpPut, Store: in.store(), Key: in.key(), Value: in.value(), If: in.conditions(), Fence: in.fence(),
	}
	in.ends(&op)
	cmd.Txn = single(op)
	r, err := s.do(in, cmd, owner)
	if err != nil {
		return err
	}
	return answerEntry(c, op.Kind, r)
}

// patchKey answers PATCH …/stores/{store}/keys/{key}: the body says how the value
// follows from the one that is there.
func (s *Server) patchKey(c *gin.Context, in *input) error {
	cmd, owner := s.opens(in, writing(in, fsm.CommandTxn)), in.owner()
	op := fsm.Operation{Store: in.store(), Key: in.key(), If: in.conditions(), Fence: in.fence()}
	in.ends(&op)
	in.keyPatch(&op)
	cmd.Txn = single(op)
	r, err := s.do(in, cmd, owner)
	if err != nil {
		return err
	}
	return answerEntry(c, op.Kind, r)
}

// keyPatch takes the body of a patch, whose type says what it means.
func (in *input) keyPatch(op *fsm.Operation) {
	switch in.mediaType() {
	case "application/merge-patch+json":
		op.Kind, op.Value = fsm.OpPatch, in.value()
	case "application/json-patch+json":
		op.Kind, op.Steps, op.Value = fsm.OpPatch, true, in.value()
		if len(op.Value) > 0 && op.Value[0] != '[' {
			in.refuse("value", "a JSON patch must be an array")
		}
	case "application/json":
		o := in.object()
		o.keyPatch(op)
		o.done()
	default:
		in.refuse("Content-Type", "must be application/json, application/merge-patch+json or application/json-patch+json")
	}
}

// ends takes when an entry that is written ends.
func (in *input) ends(op *fsm.Operation) {
	op.TTL, _ = in.number("ttl_ms", 1, maxEntryTTL)
	if peer, ok := in.text("bind"); ok {
		if op.Bind = peer; badID(peer) {
			in.refuse("bind", "is not the id of a peer")
		}
	}
}

// answerEntry answers a write of one entry. What takes items out of an absent one
// makes none, and has no ETag.
func answerEntry(c *gin.Context, kind fsm.OpKind, r *fsm.Result) error {
	op := &r.Ops[0]
	// Also of a repeated request, whose answer is remembered: 201 stays 201.
	status := http.StatusOK
	if op.Created {
		status = http.StatusCreated
	}
	if op.Rev != 0 {
		c.Header("ETag", entityTag(op.Rev))
	}
	return answer(c, status, r.Rev, appendVerb(nil, kind, r))
}

// deleteKey answers DELETE …/stores/{store}/keys/{key}. An absent key is no error:
// afterwards it is absent, as asked for. There is no ETag, for there is no entry.
func (s *Server) deleteKey(c *gin.Context, in *input) error {
	cmd, owner := s.opens(in, writing(in, fsm.CommandTxn)), in.owner()
	cmd.Txn = single(fsm.Operation{
		Kind: fsm.OpDelete, Store: in.store(), Key: in.key(), If: in.conditions(), Fence: in.fence(),
	})
	r, err := s.do(in, cmd, owner)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, appendVerb(nil, fsm.OpDelete, r))
}
