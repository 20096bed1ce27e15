package client

import (
	"context"
	"errors"
	"fmt"

	"conclave/client/wire"
)

// ErrClosed is the error of calls on a Room, a Watch or a Client that was closed.
var ErrClosed = errors.New("closed")

// InterruptedError says that a call ended before its answer came: its context
// ended, or the room was closed. Err is the reason (context.Canceled,
// context.DeadlineExceeded, ErrClosed, …).
type InterruptedError struct {
	Do string // the verb
	// MayHaveApplied is set when the change was handed to a connection: then the
	// servers may have applied it, or will have in a moment. It is never set for
	// reads.
	MayHaveApplied bool
	Err            error
	// Last is why the connection is away, if it is.
	Last error
}

// Error tells what is known of the outcome.
func (e *InterruptedError) Error() string {
	known := "nothing was changed"
	if e.MayHaveApplied {
		known = "it may have been applied"
	}
	if e.Last != nil {
		return fmt.Sprintf("%s: %v: %s (%v)", e.Do, e.Err, known, e.Last)
	}
	return fmt.Sprintf("%s: %v: %s", e.Do, e.Err, known)
}

// Unwrap gives the reason.
func (e *InterruptedError) Unwrap() error { return e.Err }

// TokenError is a failure of the TokenSource. It ends what asked for the token.
type TokenError struct{ Err error }

// Error names the failure.
func (e *TokenError) Error() string { return "get token: " + e.Err.Error() }

// Unwrap gives the failure.
func (e *TokenError) Unwrap() error { return e.Err }

// CloseError is why a server ended a connection; Code is a WebSocket close code,
// those of the protocol are in package wire.
type CloseError struct {
	Code int
	Text string
}

// Error names the close code.
func (e *CloseError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("closed by the server: %d", e.Code)
	}
	return fmt.Sprintf("closed by the server: %d %s", e.Code, e.Text)
}

// Unwrap gives the refusal that the close code stands for, if it has one, so that
// IsSessionEnded and the like work on it.
func (e *CloseError) Unwrap() error {
	switch e.Code {
	case wire.CloseUnauthenticated, wire.CloseTokenExpired:
		return wire.Errorf(wire.Unauthenticated, "%s", e.Text)
	case wire.CloseForbidden:
		return wire.Errorf(wire.Forbidden, "%s", e.Text)
	case wire.CloseSessionEnded:
		return wire.Errorf(wire.SessionEnded, "%s", e.Text)
	case wire.CloseProtocol:
		return wire.Errorf(wire.BadRequest, "%s", e.Text)
	}
	return nil
}

// final reports whether a close code forbids coming back.
func (e *CloseError) final() bool { return e.Code >= 4100 && e.Code <= 4199 }

// HasCode reports whether err is a refusal with that code.
func HasCode(err error, code wire.Code) bool {
	return errors.Is(err, &wire.Error{Code: code})
}

// The refusals that programs ask for most.
func IsConflict(err error) bool     { return HasCode(err, wire.Conflict) }     // a condition failed
func IsNotFound(err error) bool     { return HasCode(err, wire.NotFound) }     // no such key, lock, peer
func IsLocked(err error) bool       { return HasCode(err, wire.Locked) }       // somebody holds the key
func IsStaleFence(err error) bool   { return HasCode(err, wire.StaleFence) }   // the lock was lost
func IsSessionEnded(err error) bool { return HasCode(err, wire.SessionEnded) } // the room's session is over

// MayHaveApplied reports whether the change that a call asked for may have been
// applied although the call returned err. It is false for refusals and for what
// certainly never reached the log.
func MayHaveApplied(err error) bool {
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) {
		return interrupted.MayHaveApplied
	}
	var e *wire.Error
	if errors.As(err, &e) {
		return e.Code == wire.UnknownOutcome || e.Retry == wire.RetryUnknown
	}
	return false
}

// ConflictError is a conflict with what its details say of the key as it is now.
type ConflictError struct {
	*wire.Error
	Exists  bool
	Version uint64
	Rev     uint64
}

// Unwrap gives the refusal.
func (e *ConflictError) Unwrap() error { return e.Error }

// AsConflict returns the state that a refused condition met, for a caller that
// wants to decide anew without another read.
func AsConflict(err error) (*ConflictError, bool) {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.Conflict {
		return nil, false
	}
	exists, _ := e.Details["exists"].(bool)
	return &ConflictError{e, exists, number(e.Details["version"]), number(e.Details["rev"])}, true
}

// number reads a revision out of decoded details; revisions stay below 2^53, so
// a float64 holds them exactly.
func number(v any) uint64 {
	f, ok := v.(float64)
	if !ok || f < 0 {
		return 0
	}
	return uint64(f)
}

// ended reports whether err is the end of ctx itself.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}
