package api

import (
	"errors"
	"io"
	"net/http"

	"conclave/client/wire"
	"conclave/fsm"
)

// maxBodyBytes bounds a request's body, and a frame of a socket: no command may
// be larger.
const maxBodyBytes = fsm.MaxCommandBytes

// readBody reads a body that it has bounded first.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBodyBytes {
		return nil, overLimit("body_bytes", maxBodyBytes, r.ContentLength)
	}
	limited := http.MaxBytesReader(w, r.Body, maxBodyBytes)
	var body []byte
	var err error
	if r.ContentLength >= 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(limited, body)
	} else {
		body, err = io.ReadAll(limited)
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, overLimit("body_bytes", maxBodyBytes, maxBodyBytes+1)
	case err != nil:
		return nil, wire.Errorf(wire.BadRequest, "body: %v", err).With("field", "body")
	}
	return body, nil
}
