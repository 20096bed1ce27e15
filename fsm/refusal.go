package fsm

import (
	"strconv"
	"strings"
)

func refuse(code Code, message string) *Refusal { return &Refusal{Code: code, Message: message} }

func badRequest(field, message string) *Refusal {
	return &Refusal{Code: CodeBadRequest, Message: message, Details: Details{Field: field}}
}

func overLimit(limit string, most, actual int) *Refusal {
	return &Refusal{
		Code: CodeLimitExceeded, Message: "over the limit " + limit,
		Details: Details{Limit: limit, Max: int64(most), Actual: int64(actual)},
	}
}

// forgotten refuses a request so old that its answer is no longer kept: it is
// not known here whether it was applied, and it will not be applied again.
func forgotten() *Refusal {
	return &Refusal{
		Code: CodeUnknownOutcome, Message: "the answer to this request is no longer kept",
		Details: Details{Reason: "forgotten"},
	}
}

// size is about how many bytes a result holds on to, for the bounds on what is
// kept of results.
func (r *Result) size() int {
	n := 64 + len(r.Session) + len(r.Peer) + len(r.Key)
	if r.Refusal != nil {
		n += 128 + len(r.Refusal.Message) + len(r.Refusal.Details.Value)
	}
	for i := range r.Ops {
		op := &r.Ops[i]
		n += 64 + len(op.Value)
		if op.Entry != nil {
			n += 128 + size(op.Entry.Key, op.Entry.Value)
		}
	}
	return n
}

func sessionEnded() *Refusal { return refuse(CodeSessionEnded, "the session is over") }

// gone refuses a peer that is not in the session. Ids of its own making tell
// peers of earlier sessions apart: they are revisions.
func (s *Session) gone(peer string) *Refusal {
	if strings.HasPrefix(peer, "p") {
		if rev, err := strconv.ParseUint(peer[1:], 36, 64); err == nil && rev < s.StartedRev {
			return sessionEnded()
		}
	}
	return refuse(CodeNotFound, "no such peer")
}
