package client

import (
	"context"
	"io"
	"net/http"
	"strconv"
)

// Transport sends requests to a resource outside of Conclave under the lock: it
// adds the fence, which Fencing or the resource itself checks, refuses to send
// once the lock is known to be lost, and ends what is under way when it is. A nil
// base is http.DefaultTransport.
func (l *Lock) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return lockTransport{l, base}
}

type lockTransport struct {
	l    *Lock
	base http.RoundTripper
}

func (t lockTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.l.Err(); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, lostError(t.l, err)
	}
	ctx, cancel := t.l.Context(req.Context())
	req = req.Clone(ctx)
	req.Header.Set(FenceHeader, strconv.FormatUint(t.l.fence, 10))
	res, err := t.base.RoundTrip(req)
	if err != nil {
		cancel()
		if lost := t.l.Err(); lost != nil {
			err = lostError(t.l, lost)
		}
		return nil, err
	}
	res.Body = &lockedBody{res.Body, cancel}
	return res, nil
}

// lockedBody ends the watch over the lock with the answer.
type lockedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *lockedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
