package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"conclave/client/wire"
)

// HTTPConfig is a Config for HTTP.
type HTTPConfig struct {
	Config
	// Patience is how long a call goes on trying while no server can serve it; 0
	// means 15 s, a negative one tries once. The end of the call's context ends
	// it too.
	Patience time.Duration
}

// HTTP calls the HTTP interface. It serves tools and servers, which have no peer
// in the rooms they work on. It stays with the server that answered last and
// goes to the next of the list when that one fails.
//
// Errors of the retry class safe are retried with backoff for as long as the
// Patience lasts. An unknown outcome is repeated only when that is harmless:
// reads, renewals, and writes to a room, which carry an Idempotency-Key of their
// own (or the caller's).
//
// All methods may be called from any goroutine.
type HTTP struct {
	cfg      Config
	log      *slog.Logger
	bases    []string
	patience time.Duration
	client   *http.Client
	current  atomic.Uint32 // index of the server that is asked first

	ctx    context.Context // ends with Close, and with it the locks
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // the goroutines that keep locks
}

// attemptLimit bounds one attempt; servers answer sooner, if they can at all.
const attemptLimit = 10 * time.Second

// maxAnswer bounds the body of an answer.
const maxAnswer = 64 << 20

// NewHTTP makes an HTTP client. It contacts nobody yet.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	bases, err := cfg.servers()
	if err != nil {
		return nil, err
	}
	dial := cfg.DialContext
	if dial == nil {
		dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}).DialContext
	}
	h := &HTTP{cfg: cfg.Config, log: cfg.logger(), bases: bases, patience: cfg.Patience}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	if h.patience == 0 {
		h.patience = 15 * time.Second
	}
	h.client = &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dial,
		TLSClientConfig:     cfg.TLS,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     60 * time.Second,
		ForceAttemptHTTP2:   true,
	}}
	return h, nil
}

// Close stops to keep the locks that were not unlocked, which leaves them to
// their leases, and closes idle connections. Running calls go on.
func (h *HTTP) Close() error {
	h.cancel(ErrClosed)
	h.work.Wait()
	h.client.CloseIdleConnections()
	return nil
}

// call is one request as it is repeated.
type call struct {
	do, path string // do is the method
	query    url.Values
	header   http.Header
	body     []byte
	repeat   bool          // an unknown outcome may be repeated
	drawn    bool          // the Idempotency-Key is ours
	wait     time.Duration // how much longer than usual the server may take
}

// write makes c a repeatable write: it gets an Idempotency-Key unless the caller
// brought one.
func (c *call) write(key string) *call {
	if c.drawn = key == ""; c.drawn {
		key = rand.Text()
	}
	c.header.Set("Idempotency-Key", key)
	c.repeat = true
	return c
}

// newCall makes a call; body is encoded as JSON unless it is nil.
func newCall(method, path string, body any) (*call, error) {
	c := &call{do: method, path: path, query: url.Values{}, header: http.Header{}, repeat: method == http.MethodGet}
	if body != nil {
		var err error
		if c.body, err = marshal(body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		c.header.Set("Content-Type", "application/json")
	}
	return c, nil
}

// do runs a call until a server answers it for good, and decodes the answer into
// out unless that is nil.
func (h *HTTP) do(ctx context.Context, c *call, out any) error {
	giveUp := time.Now().Add(h.patience + c.wait)
	unsure := false // an attempt may have been applied
	for n := 0; ; n++ {
		server := h.current.Load()
		err := h.attempt(ctx, c, h.base(server), out)
		if err == nil {
			return nil
		}
		if ended(ctx, err) {
			return &InterruptedError{Do: c.name(), MayHaveApplied: c.do != http.MethodGet, Err: ctx.Err()}
		}
		unsure = unsure || MayHaveApplied(err)
		wait, again := c.again(err, n)
		if !again || h.patience < 0 || time.Now().Add(wait).After(giveUp) {
			return err
		}
		if !HasCode(err, wire.RateLimited) {
			h.current.CompareAndSwap(server, server+1)
		}
		h.log.Debug("trying again", "call", c.name(), "server", h.base(server), "err", err)
		if sleep(ctx, wait) != nil {
			return &InterruptedError{Do: c.name(), MayHaveApplied: unsure && c.do != http.MethodGet, Err: ctx.Err(), Last: err}
		}
		if c.drawn && !unsure {
			// Certainly not applied, so it may be another request: the servers
			// remember, say, an acquire whose wait a draining node has ended.
			c.header.Set("Idempotency-Key", rand.Text())
		}
	}
}

// again decides whether, and after which wait, a call is repeated.
func (c *call) again(err error, n int) (time.Duration, bool) {
	var e *wire.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	switch {
	case e.Code == wire.RateLimited:
		return retryAfter(e) + backoff(n), true
	case e.Retry == wire.RetrySafe, e.Code == wire.UnknownOutcome && e.Retry == wire.RetryUnknown && c.repeat:
		return backoff(n), true
	}
	return 0, false
}

func (c *call) name() string { return c.do + " " + c.path }

func (h *HTTP) base(server uint32) string { return h.bases[int(server)%len(h.bases)] }

// attempt makes one HTTP request. What kept it from an answer comes back as a
// *wire.Error with the class that fits: a connection that was never made is
// unavailable, one that broke leaves the outcome unknown.
func (h *HTTP) attempt(ctx context.Context, c *call, base string, out any) error {
	limited, cancel := context.WithTimeout(ctx, attemptLimit+c.wait)
	defer cancel()
	// What has an Idempotency-Key net/http repeats by itself, when a connection that
	// it had kept breaks. What comes of the repeat says nothing of the first try.
	var conns atomic.Int32
	limited = httptrace.WithClientTrace(limited, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { conns.Add(1) }})
	resp, err := h.send(limited, c, base)
	if err != nil {
		if err = notAnswered(ctx, c, base, err); conns.Load() > 0 {
			err = unsure(c, err)
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		if err = refusal(resp); conns.Load() > 1 {
			err = unsure(c, err)
		}
		return err
	}
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	} else {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
	}
	if err != nil {
		return notAnswered(ctx, c, base, err)
	}
	return nil
}

// send sends a call to a server and returns its answer's head.
func (h *HTTP) send(ctx context.Context, c *call, base string) (*http.Response, error) {
	target := base + c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.do, target, bytes.NewReader(c.body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	req.Header = c.header.Clone()
	req.Header.Set("User-Agent", h.cfg.agent())
	if err := h.cfg.authorize(ctx, req.Header); err != nil {
		return nil, err
	}
	return h.client.Do(req)
}

// notAnswered turns a broken exchange into an error with a retry class. The
// end of the caller's own context stays what it is.
func notAnswered(parent context.Context, c *call, base string, err error) error {
	if parent.Err() != nil {
		return parent.Err()
	}
	var token *TokenError
	if errors.As(err, &token) {
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return wire.Errorf(wire.Unavailable, "%s: %v", base, err)
	}
	return wire.Errorf(wire.UnknownOutcome, "%s at %s: %v", c.name(), base, err)
}

// unsure is what err says of a write that was sent before: that this time it was
// not applied leaves open whether it was then.
func unsure(c *call, err error) error {
	var e *wire.Error
	if c.do != http.MethodGet && errors.As(err, &e) && e.Retry == wire.RetrySafe {
		return wire.Errorf(wire.UnknownOutcome, "%s was sent on a connection that broke, and then: %v", c.name(), err)
	}
	return err
}

// refusal reads the problem document of an answer that is no success. An answer
// of something else than a Conclave server (a proxy) leaves the outcome unknown
// when it is a server error, and is a bad request else.
func refusal(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var p wire.Problem
	if json.Unmarshal(body, &p) == nil && p.Code != "" {
		message := p.Detail
		if message == "" {
			message = p.Title
		}
		return &wire.Error{Code: p.Code, Message: message, Retry: p.Retry, Details: p.Details}
	}
	text := strings.TrimSpace(string(body[:min(len(body), 200)]))
	if resp.StatusCode >= 500 {
		return wire.Errorf(wire.UnknownOutcome, "%s: %s", resp.Status, text)
	}
	return wire.Errorf(wire.BadRequest, "%s: %s", resp.Status, text)
}

// setMillis sets a duration parameter, in whole milliseconds, unless it is 0.
func setMillis(q url.Values, name string, d time.Duration) {
	if d != 0 {
		q.Set(name, strconv.FormatInt(d.Milliseconds(), 10))
	}
}

// setNumber sets a numeric parameter unless it is 0.
func setNumber[N int | uint64](q url.Values, name string, n N) {
	if n != 0 {
		q.Set(name, fmt.Sprint(n))
	}
}

// setString sets a parameter unless it is empty.
func setString(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}
