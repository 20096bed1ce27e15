package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// What a server and its clients say to each other is recorded here, as the samples
// of testdata/wire; its README tells how they are laid out.

// sampleDir has the samples.
const sampleDir = "testdata/wire"

// sample is one frame of a recorded conversation, or the end of it.
type sample struct {
	From   string          `json:"from"` // client, server
	Frame  json.RawMessage `json:"frame,omitempty"`
	Close  int             `json:"close,omitempty"` // code of the close frame
	Reason string          `json:"reason,omitempty"`
}

// exchange is one request over HTTP and its answer.
type exchange struct {
	Request  sampleRequest  `json:"request"`
	Response sampleResponse `json:"response"`
}

type sampleRequest struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
}

type sampleResponse struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
}

// sampleHeaders are those of an answer that stand in a sample.
var sampleHeaders = []string{"Conclave-Rev", "Content-Type", "ETag", "Retry-After"}

// sampleEvent is one event of a stream of Server-Sent Events.
type sampleEvent struct {
	ID   string          `json:"id,omitempty"`
	Data json.RawMessage `json:"data"`
}

// What differs from run to run, or would fill pages, stands in a sample as this.
var changing = []struct {
	text   *regexp.Regexp
	sample string
}{
	// A name that was drawn: its prefix tells what it names.
	{regexp.MustCompile(`\b([kor])[0-9a-v]{26}\b`), `${1}0123456789abcdefghijklmnop`},
	{regexp.MustCompile(`"now":"[^"]*"`), `"now":"2026-07-01T12:00:00.000Z"`},
	// Filler, where a sample needs much.
	{regexp.MustCompile(`[xv]{100,}`), `xxx`},
}

func unchanging(text string) string {
	for _, ch := range changing {
		text = ch.text.ReplaceAllString(text, ch.sample)
	}
	return text
}

// conversation records what a client and the server say to each other.
type conversation struct {
	c       *wsClient
	samples []sample
}

func (v *conversation) add(from, text string) {
	v.samples = append(v.samples, sample{From: from, Frame: json.RawMessage(unchanging(text))})
}

// ask sends a request and records it.
func (v *conversation) ask(text string) (id uint64) {
	v.c.t.Helper()
	v.add("client", text)
	v.c.write(text)
	var sent struct{ ID uint64 }
	v.c.decode([]byte(text), &sent)
	return sent.ID
}

// say sends a request and records it with all frames up to its answer.
func (v *conversation) say(text string) (answer wsFrame) {
	v.c.t.Helper()
	id := v.ask(text)
	for {
		if f := v.hear(); f.ID == id {
			return f
		}
	}
}

// next is say with the id after the last one.
func (v *conversation) next(members string) (answer wsFrame) {
	v.c.t.Helper()
	v.c.id++
	return v.say(fmt.Sprintf(`{"id":%d,%s}`, v.c.id, members))
}

// fence is next for an acquire that is granted.
func (v *conversation) fence(members string) (fence uint64) {
	v.c.t.Helper()
	var grant struct{ Fence uint64 }
	v.c.decode(v.next(members).OK, &grant)
	return grant.Fence
}

// hear records one more frame.
func (v *conversation) hear() wsFrame {
	v.c.t.Helper()
	f := v.c.read()
	v.add("server", f.raw)
	return f
}

// hearClose records the close frame, which comes next.
func (v *conversation) hearClose() {
	v.c.t.Helper()
	f, err := v.c.tryRead()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		v.c.t.Fatalf("got %s, %v; want a close frame", f.raw, err)
	}
	v.samples = append(v.samples, sample{From: "server", Close: closed.Code, Reason: closed.Text})
}

// exchanges records requests over HTTP.
type exchanges struct {
	s    *testServer
	list []exchange
}

// ask sends a request and records it with its answer.
func (x *exchanges) ask(method, path, body string, headers ...string) reply {
	x.s.t.Helper()
	r := x.s.do(method, path, body, headers...)
	x.add(method, path, body, headers, r)
	return r
}

// add records a request that was answered.
func (x *exchanges) add(method, path, body string, headers []string, r reply) {
	e := exchange{
		Request:  sampleRequest{Method: method, Path: path, Body: json.RawMessage(unchanging(body))},
		Response: sampleResponse{Status: r.status, Headers: map[string]string{}, Body: json.RawMessage(unchanging(r.body))},
	}
	for i := 0; i < len(headers); i += 2 {
		if e.Request.Headers == nil {
			e.Request.Headers = map[string]string{}
		}
		e.Request.Headers[headers[i]] = unchanging(headers[i+1])
	}
	for _, name := range sampleHeaders {
		if v := r.header.Get(name); v != "" {
			e.Response.Headers[name] = v
		}
	}
	x.list = append(x.list, e)
}

// web is the same server as those who speak HTTP to it know it.
func (s *socketServer) web() *testServer { return (*testServer)(s) }

// compareSamples compares recordings with a file of them, one a line.
func compareSamples[T any](t *testing.T, name string, samples []T) {
	t.Helper()
	var got bytes.Buffer
	got.WriteString("[\n")
	for i, s := range samples {
		if i > 0 {
			got.WriteString(",\n")
		}
		got.Write(marshal(s))
	}
	got.WriteString("\n]\n")
	compareFile(t, name, got.String())
}

// compareFile compares with a file, which the flag -update writes anew.
func compareFile(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join(sampleDir, name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./api -update writes the samples)", err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("%s (-is +was said):\n%s", path, d)
	}
}

// readSamples reads a file of recordings.
func readSamples[T any](t *testing.T, path string) (samples []T) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := strictly(text, &samples); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return samples
}

// strictly decodes JSON that has no members but those of into.
func strictly(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	return dec.Decode(into)
}

// request is the request of a sample as net/http has it.
func (r *sampleRequest) request() (*http.Request, error) {
	u, err := url.ParseRequestURI(r.Path)
	if err != nil {
		return nil, err
	}
	req := &http.Request{Method: r.Method, URL: u, Header: http.Header{}}
	for name, v := range r.Headers {
		req.Header.Set(name, v)
	}
	return req, nil
}
