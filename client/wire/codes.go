// Package wire holds the JSON shapes of the Conclave protocol, version 1, and
// its table of error codes. The server (package api) and the Go client share
// it, so that the two cannot drift apart. It holds data and no behaviour beyond
// encoding; it imports the standard library only.
package wire

import "fmt"

// Code names an error on the wire. The set is closed: see Codes.
type Code string

// The codes of protocol section 2.
const (
	BadRequest      Code = "bad_request"
	Unauthenticated Code = "unauthenticated"
	Forbidden       Code = "forbidden"
	NotFound        Code = "not_found"
	NoSession       Code = "no_session"
	Conflict        Code = "conflict"
	Locked          Code = "locked"
	StaleFence      Code = "stale_fence"
	NotHolder       Code = "not_holder"
	LockTimeout     Code = "lock_timeout"
	WrongType       Code = "wrong_type"
	LimitExceeded   Code = "limit_exceeded"
	RateLimited     Code = "rate_limited"
	SessionEnded    Code = "session_ended"
	Unavailable     Code = "unavailable"
	UnknownOutcome  Code = "unknown_outcome"
	Internal        Code = "internal"
)

// Retry says whether repeating a request can help, and whether it is safe.
type Retry string

// The retry classes: never (the answer will not change by asking again), safe
// (certainly not applied), unknown (may have been applied: repeat only with the
// same request id).
const (
	RetryNever   Retry = "never"
	RetrySafe    Retry = "safe"
	RetryUnknown Retry = "unknown"
)

// Class is what the table says about one code.
type Class struct {
	Status int // HTTP status
	Retry  Retry
}

// Codes is the one table from error code to HTTP status and retry class.
var Codes = map[Code]Class{
	BadRequest:      {400, RetryNever},
	Unauthenticated: {401, RetryNever},
	Forbidden:       {403, RetryNever},
	NotFound:        {404, RetryNever},
	NoSession:       {404, RetryNever},
	Conflict:        {412, RetryNever},
	Locked:          {423, RetryNever},
	StaleFence:      {412, RetryNever},
	NotHolder:       {409, RetryNever},
	LockTimeout:     {409, RetryNever},
	WrongType:       {409, RetryNever},
	LimitExceeded:   {413, RetryNever},
	RateLimited:     {429, RetrySafe},
	SessionEnded:    {410, RetryNever},
	Unavailable:     {503, RetrySafe},
	UnknownOutcome:  {504, RetryUnknown},
	Internal:        {500, RetryUnknown},
}

// Error is a refusal as it travels over a WebSocket, and as the Go client
// returns it. Over HTTP the same members stand in an RFC 9457 problem.
type Error struct {
	Code    Code           `json:"code"`
	Message string         `json:"message"`
	Retry   Retry          `json:"retry"`
	Details map[string]any `json:"details,omitempty"`
}

// Errorf makes an Error with the retry class that the table gives its code.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Retry: Codes[code].Retry}
}

// With returns e with one more detail. It changes e: use it on a fresh Error.
func (e *Error) With(name string, value any) *Error {
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	e.Details[name] = value
	return e
}

// Error makes *Error an error.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is lets errors.Is compare by code: errors.Is(err, &wire.Error{Code: wire.Conflict}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// Problem is an RFC 9457 problem document, the body of every HTTP error.
type Problem struct {
	Type    string         `json:"type"`
	Title   string         `json:"title"`
	Status  int            `json:"status"`
	Detail  string         `json:"detail"`
	Code    Code           `json:"code"`
	Retry   Retry          `json:"retry"`
	Details map[string]any `json:"details,omitempty"`
}

// Close codes of the WebSocket. 4000–4099: come back and resume. 4100–4199: do
// not come back.
const (
	CloseSlow            = 4001
	CloseDraining        = 4002
	CloseNoQuorum        = 4003
	CloseTokenExpired    = 4004
	CloseUnauthenticated = 4100
	CloseForbidden       = 4101
	CloseRemoved         = 4102
	CloseSessionEnded    = 4103
	CloseProtocol        = 4104
	CloseReplaced        = 4105
	CloseTooMany         = 4106
)
