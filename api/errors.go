package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

// retryAfter is what a refusal that is safe to repeat asks for when it does not
// say itself, in milliseconds: about the time in which a cluster finds a leader.
const retryAfter = 1_000

// wireError makes any error the protocol's. What is none of the known kinds is a
// bug: it becomes internal, and its text stays out of the answer.
func wireError(err error) *wire.Error {
	var (
		known       *wire.Error
		refused     *fsm.Refusal
		unavailable *cluster.UnavailableError
		unknown     *cluster.UnknownError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refused):
		return refusal(refused)
	case errors.As(err, &unavailable):
		return wire.Errorf(wire.Unavailable, "%s", unavailable.Reason)
	case errors.As(err, &unknown):
		return wire.Errorf(wire.UnknownOutcome, "%s", unknown.Reason)
	// Whoever gave up cannot know more than that; a node says it better when asked.
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return wire.Errorf(wire.UnknownOutcome, "the request was given up")
	}
	return wire.Errorf(wire.Internal, "internal error")
}

// refusal translates the state's no, with the details that are set.
func refusal(r *fsm.Refusal) *wire.Error {
	code := wire.Code(r.Code)
	if _, ok := wire.Codes[code]; !ok {
		return wire.Errorf(wire.Internal, "refused with the unknown code %q", r.Code)
	}
	message := r.Message
	if message == "" {
		message = string(code)
	}
	e := wire.Errorf(code, "%s", message)
	d := &r.Details
	switch {
	case d.Exists != nil: // a conflict over an entry
		e.With("exists", *d.Exists).With("version", d.Version).With("rev", d.Rev)
	case d.Rev != 0: // a conflict over the configuration
		e.With("rev", d.Rev)
	}
	if code == wire.LimitExceeded {
		e.With("limit", d.Limit).With("max", d.Max).With("actual", d.Actual)
	}
	if code == wire.UnknownOutcome && d.Reason == "forgotten" {
		e.Retry = wire.RetryNever // an id older than what is remembered: asking again cannot help
	}
	for _, s := range []struct{ name, value string }{
		{"store", d.Store}, {"key", d.Key}, {"owner", d.Owner}, {"type", d.Type}, {"reason", d.Reason}, {"field", d.Field},
	} {
		if s.value != "" {
			e.With(s.name, s.value)
		}
	}
	if d.Fence != 0 {
		e.With("fence", d.Fence)
	}
	if d.Value != nil {
		e.With("value", json.RawMessage(d.Value))
	}
	if d.Index != nil {
		e.With("index", *d.Index)
	}
	return e
}

// outcome is the error of a command: of its way to the log, or its refusal.
func outcome(r *fsm.Result, err error) error {
	if err != nil {
		return err
	}
	if r.Refusal != nil {
		return r.Refusal
	}
	return nil
}

// writeProblem answers with an RFC 9457 problem document.
func writeProblem(w http.ResponseWriter, e *wire.Error) {
	writeProblemStatus(w, wire.Codes[e.Code].Status, e)
}

func writeProblemStatus(w http.ResponseWriter, status int, e *wire.Error) {
	// Only what is certainly not applied asks to be repeated: proxies and clients
	// act on Retry-After without knowing our codes.
	if e.Retry == wire.RetrySafe {
		ms := retryAfter
		if n, ok := e.Details["retry_after_ms"].(int); ok {
			ms = n
		}
		w.Header().Set("Retry-After", strconv.Itoa((ms+999)/1000))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Del("ETag")
	w.WriteHeader(status)
	// Errors that the client is no longer there to read are nobody's.
	_, _ = w.Write(marshal(wire.Problem{
		Type:    "about:blank",
		Title:   http.StatusText(status),
		Status:  status,
		Detail:  e.Message,
		Code:    e.Code,
		Retry:   e.Retry,
		Details: e.Details,
	}))
}

// marshal encodes a value of this package's own making. Unlike json.Marshal it
// leaves the bytes of values as they are ("<" stays "<").
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("api: encode an answer: " + err.Error())
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
