package fsm

// Ring holds the recent frames of one session, for resumption and fan-out. The
// machine appends, any goroutine reads. It lives outside the replicated state:
// after a restart or an installed snapshot it is empty, with the session's last
// event revision as its floor.
type Ring struct{}

// Session is the id of the session whose ring it is.
func (r *Ring) Session() string { panic("not built") }

// Floor is the revision of the newest event that the ring no longer holds:
// whoever has seen everything up to it, or more, can go on without a gap.
func (r *Ring) Floor() uint64 { panic("not built") }

// After returns, oldest first, the frames with rev in (after, upTo], and whether
// the ring still holds everything after `after`. It stops early once the frames
// reach maxBytes (but returns at least one); more then says so.
func (r *Ring) After(after, upTo uint64, maxBytes int) (frames []*Frame, more, ok bool) {
	panic("not built")
}

// Backlog is the size in bytes (about, as encoded) of the frames after a revision.
func (r *Ring) Backlog(after uint64) int { panic("not built") }

// Closed reports that nothing will be appended any more: the session has ended
// (its last frame says so), or a restore has replaced the state.
func (r *Ring) Closed() (closed, restored bool) { panic("not built") }
