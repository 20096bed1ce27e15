package api

import (
	"crypto/sha256"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/fsm"
)

// input is what a request says besides its body: the names in its path, its query
// and its headers, read one by one like the members of an object. done refuses
// query parameters that nobody took.
type input struct {
	c       *gin.Context
	query   url.Values
	taken   []string // of the query
	headers []string // that were taken
	body    []byte
	fault   *fault
}

func newInput(c *gin.Context) *input {
	in := &input{c: c, fault: &fault{}}
	var err error
	if in.query, err = url.ParseQuery(c.Request.URL.RawQuery); err != nil {
		in.refuse("query", "%v", err)
	}
	return in
}

func (in *input) refuse(field, format string, args ...any) {
	if in.fault.err == nil {
		in.fault.err = wire.Errorf(wire.BadRequest, field+": "+format, args...).With("field", field)
	}
}

// done is the first thing wrong with the request. A condition that nobody asked for
// is one: what the client wants done only if it holds must not be done all the same.
func (in *input) done() error {
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if in.writes() && in.c.Request.Header.Get(name) != "" && !slices.Contains(in.headers, name) {
			in.refuse(name, "is for writes of one key")
		}
	}
	for name := range in.query {
		if !slices.Contains(in.taken, name) {
			in.refuse(name, "unknown query parameter")
		}
	}
	if in.fault.err != nil {
		return in.fault.err
	}
	return nil
}

// writes reports whether the request may change something.
func (in *input) writes() bool {
	return in.c.Request.Method != http.MethodGet && in.c.Request.Method != http.MethodHead
}

// segment is a name in the path, unescaped.
func (in *input) segment(name string, wrong func(string) string) string {
	s, err := url.PathUnescape(in.c.Param(name))
	if err != nil {
		in.refuse(name, "%v", err)
	} else if w := wrong(s); w != "" {
		in.refuse(name, "%s", w)
	}
	return s
}

func (in *input) room() string  { return in.segment("room", badRoom) }
func (in *input) store() string { return in.segment("store", badStore) }
func (in *input) key() string   { return in.segment("key", badKey) }

// text takes a query parameter; it may stand there once.
func (in *input) text(name string) (string, bool) {
	in.taken = append(in.taken, name)
	values, ok := in.query[name]
	if !ok {
		return "", false
	}
	if len(values) > 1 {
		in.refuse(name, "may stand only once")
	}
	return values[0], true
}

// list takes a query parameter that may be repeated.
func (in *input) list(name string) []string {
	in.taken = append(in.taken, name)
	return in.query[name]
}

// number takes an integer from min to max.
func (in *input) number(name string, min, max int64) (n int64, ok bool) {
	s, ok := in.text(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < min || n > max {
		in.refuse(name, "must be an integer from %d to %d", min, max)
	}
	return n, true
}

// counter takes a revision, version or fence, 0 when absent.
func (in *input) counter(name string) (uint64, bool) {
	n, ok := in.number(name, 0, maxNumber-1)
	return uint64(n), ok
}

// fence takes a fence, 0 when absent.
func (in *input) fence() uint64 {
	n, _ := in.number("fence", 1, maxNumber-1)
	return uint64(n)
}

// fences takes the fences of locked keys, as a JSON object: {key: fence}.
func (in *input) fences() []fsm.KeyFence {
	text, ok := in.text("fences")
	if !ok {
		return nil
	}
	o, err := parseObject([]byte(text), "fences")
	if err != nil {
		in.refuse("fences", "%s", err.Message)
		return nil
	}
	o.path, o.fault = "fences.", in.fault
	return o.asFences()
}

// flag takes a boolean; a bare name is true.
func (in *input) flag(name string) bool {
	s, ok := in.text(name)
	switch {
	case !ok || s == "false" || s == "0":
		return false
	case s == "" || s == "true" || s == "1":
		return true
	}
	in.refuse(name, "must be true or false")
	return false
}

// owner takes the name under which a caller without a socket owns locks.
func (in *input) owner() string {
	s, ok := in.text("owner")
	if ok {
		if w := badKey(s); w != "" {
			in.refuse("owner", "%s", w)
		}
	}
	return s
}

// header takes a header that may stand there once.
func (in *input) header(name string) (string, bool) {
	in.headers = append(in.headers, name)
	values := in.c.Request.Header.Values(name)
	if len(values) == 0 {
		return "", false
	}
	if len(values) > 1 {
		in.refuse(name, "may stand only once")
	}
	return values[0], true
}

// session takes the session that the request is meant for, "" for any.
func (in *input) session() string {
	s, ok := in.header(headerSession)
	if ok && badID(s) {
		in.refuse(headerSession, "is not the id of a session")
	}
	return s
}

// claims is whom the request says it comes from, owner being its name for locks.
// Forms depend on it; whether it is true, Server.caller finds out.
func (in *input) claims(owner string) fsm.Caller {
	if peer, _ := in.header(headerPeer); peer != "" {
		return fsm.Caller{Kind: fsm.CallerPeer, Peer: peer}
	}
	return fsm.Caller{Owner: owner}
}

// conditions takes the conditions of a write: If-Match, If-None-Match and
// if_version. All that are given must hold.
func (in *input) conditions() *fsm.If {
	var cond fsm.If
	given := false
	if tag, ok := in.header("If-Match"); ok {
		given = true
		if tag == "*" {
			cond.Exists = true
		} else {
			cond.Rev = in.entityTag("If-Match", tag)
		}
	}
	if tag, ok := in.header("If-None-Match"); ok {
		given, cond.Absent = true, true
		if tag != "*" {
			in.refuse("If-None-Match", `of a write must be "*"`)
		}
	}
	if n, ok := in.counter("if_version"); ok {
		given, cond.Version = true, &n
	}
	if !given {
		return nil
	}
	return &cond
}

// configIndex takes the configuration that a change of membership was meant for,
// 0 for any.
func (in *input) configIndex() uint64 {
	tag, ok := in.header("If-Match")
	if !ok || tag == "*" {
		return 0
	}
	if n := in.entityTag("If-Match", tag); n != nil {
		return *n
	}
	return 0
}

// entityTag reads one strong entity tag, which is a number in quotation marks.
func (in *input) entityTag(name, tag string) *uint64 {
	inside, quoted := strings.CutPrefix(tag, `"`)
	inside, closed := strings.CutSuffix(inside, `"`)
	n, err := strconv.ParseUint(inside, 10, 64)
	if !quoted || !closed || err != nil || n >= maxNumber || n == 0 {
		in.refuse(name, `must be one revision in quotation marks, like "12"`)
		return nil
	}
	return &n
}

// mediaType is the type of the body, "" when there is no telling. What curl sends
// for -d when nobody told it a type counts as JSON, like no type at all.
func (in *input) mediaType() string {
	text, _ := in.header("Content-Type")
	kind, _, err := mime.ParseMediaType(text)
	switch {
	case text == "" || kind == "application/x-www-form-urlencoded":
		return "application/json"
	case err != nil:
		return ""
	}
	return kind
}

// readBody reads the body once.
func (in *input) readBody() []byte {
	if in.body == nil && in.fault.err == nil {
		if coding, _ := in.header("Content-Encoding"); coding != "" && coding != "identity" {
			in.refuse("Content-Encoding", "bodies are not compressed")
			return nil
		}
		body, err := readBody(in.c.Writer, in.c.Request)
		if err != nil {
			in.fault.err = wireError(err)
		}
		in.body = body
	}
	return in.body
}

// value takes the body as one JSON value. It is the only copy: the command aliases
// the body that was read.
func (in *input) value() []byte {
	body := in.readBody()
	if in.fault.err != nil {
		return nil
	}
	value, err := compactJSON(body, "value")
	if err != nil {
		in.fault.err = err
	}
	return value
}

// object takes the body as a JSON object; without a body it is empty, so that
// requests whose members are all optional need none. Its faults are the input's:
// one done tells of both.
func (in *input) object() *object {
	body := in.readBody()
	o := &object{fault: in.fault}
	if in.fault.err != nil || len(body) == 0 {
		return o
	}
	parsed, err := parseObject(body, "body")
	if err != nil {
		in.fault.err = err
		return o
	}
	parsed.fault = in.fault
	return parsed
}

// maxIdempotencyKey bounds Idempotency-Key, in bytes.
const maxIdempotencyKey = 128

// remember gives a command the identity of its request. The hash tells whether a
// repeat is the same request.
func (in *input) remember(cmd *fsm.Command) {
	key, ok := in.header("Idempotency-Key")
	if !ok {
		return
	}
	if key == "" || len(key) > maxIdempotencyKey {
		in.refuse("Idempotency-Key", "must have 1 to %d characters", maxIdempotencyKey)
	}
	r := in.c.Request
	parts := []string{
		r.Method, r.URL.EscapedPath(), r.URL.RawQuery, string(in.readBody()),
		r.Header.Get("If-Match"), r.Header.Get("If-None-Match"), r.Header.Get(headerSession), r.Header.Get(headerPeer),
	}
	if r.Method == http.MethodPatch {
		parts = append(parts, in.mediaType()) // one body, several meanings
	}
	h := sha256.New()
	for _, part := range parts {
		// Lengths keep two requests apart whose parts join to the same bytes.
		h.Write(strconv.AppendInt(nil, int64(len(part)), 10))
		h.Write([]byte{':'})
		h.Write([]byte(part))
	}
	cmd.Idem, cmd.Hash = key, h.Sum(nil)
}

// request is net/http's, which unlike gin's context may outlive the handler.
func (in *input) request() *http.Request { return in.c.Request }
