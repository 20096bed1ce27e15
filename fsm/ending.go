package fsm

import (
	"bytes"
	"fmt"
)

// What is remembered of the requests that ended a session, for rememberFor: an
// End or a last Leave that is repeated gets its old answer, and does not touch
// the room's next session.
const maxEndings = 10_000

// endings are kept outside of sessions, for theirs is gone.
type endings struct {
	order     tree[*ending] // by rev, padded: the oldest first
	byRequest tree[*ending] // by room, kind and identity
}

// ending is one such request. Immutable.
type ending struct {
	rev     uint64
	request string // see endingKey
	hash    []byte
	result  Result
	expires int64 // cluster time
}

func (cmd *Command) endingKey() string {
	if cmd.Client != "" {
		return fmt.Sprintf("%s\x00c\x00%s\x00%d", cmd.Room, cmd.memoryKey(), cmd.Request)
	}
	return fmt.Sprintf("%s\x00i\x00%s", cmd.Room, cmd.memoryKey())
}

func (e *ending) orderKey() string { return fmt.Sprintf("%020d", e.rev) }

// recall finds the answer of a command that ended a session before.
func (e *endings) recall(cmd *Command, now int64) (*Result, *Refusal) {
	old, ok := e.byRequest.get(cmd.endingKey())
	switch {
	case !ok || old.expires <= now:
		return nil, nil
	case cmd.Client == "" && !bytes.Equal(old.hash, cmd.Hash):
		return nil, otherRequest()
	}
	r := old.result
	return &r, nil
}

// remember keeps the answer, and drops what is too old or too many.
func (s *State) rememberEnding(cmd *Command, r Result) {
	s.addEnding(&ending{
		rev: s.rev, request: cmd.endingKey(), hash: cmd.Hash, result: r, expires: s.now + rememberFor,
	})
	order := s.endings.order.write(s.gen)
	for {
		_, oldest, ok := order.Min()
		if !ok || oldest.expires > s.now && order.Len() <= maxEndings {
			return
		}
		order.Delete(oldest.orderKey())
		if now, _ := s.endings.byRequest.get(oldest.request); now == oldest {
			s.endings.byRequest.write(s.gen).Delete(oldest.request)
		}
	}
}

func (s *State) addEnding(e *ending) {
	s.endings.order.write(s.gen).Set(e.orderKey(), e)
	s.endings.byRequest.write(s.gen).Set(e.request, e)
}
