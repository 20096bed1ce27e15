package api

import (
	"errors"
	"io"
	"net/http"
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// maxBodyBytes bounds a request's body, and a frame of a socket: no command may
// be larger.
const maxBodyBytes = fsm.MaxCommandBytes

// bodyTimeout is how long a client may take to send a body.
const bodyTimeout = 30 * time.Second

// readBody reads a body that it has bounded first, in size and in time. When the
// bound is broken the connection ends with the answer; the rest is not read.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBodyBytes {
		w.Header().Set("Connection", "close")
		return nil, overLimit("body_bytes", maxBodyBytes, r.ContentLength)
	}
	// Not every connection has deadlines to set (HTTP/2 streams do); those that
	// have none are not ours to bound.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(bare(w), r.Body, maxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, overLimit("body_bytes", maxBodyBytes, maxBodyBytes+1)
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, wire.Errorf(wire.BadRequest, "body: %v", err).With("field", "body")
	}
	_ = deadline.SetReadDeadline(time.Time{})
	return body, nil
}

// bare is net/http's own writer, which MaxBytesReader must be given to end the
// connection.
func bare(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapped.Unwrap()
	}
}
