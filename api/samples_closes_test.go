package api

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// closing is a close code: whether to come back and resume, and with which words a
// server closed a socket that way.
type closing struct {
	Code   int    `json:"code"`
	Name   string `json:"name"`
	Resume bool   `json:"resume"`
	Reason string `json:"reason,omitempty"`
}

// The close codes, with the words of a server where it can be had to close a socket
// that way at once.
func TestSocket_SpeaksTheSamplesOfCloses(t *testing.T) {
	said := map[int]string{}
	hear := func(c *wsClient) {
		t.Helper()
		v := &conversation{c: c}
		v.hearClose()
		said[v.samples[0].Close] = v.samples[0].Reason
	}
	s := newSocketServer(t, Config{Auth: tokens{}})
	old := s.join(sampleRoom, "")
	removed := s.join(sampleRoom, "")
	newer := s.join(sampleRoom, old.resuming())
	hear(old)
	s.web().do("DELETE", "/v1/rooms/"+sampleRoom+"/peers/"+removed.hello.Peer, "").want(200)
	hear(removed)
	binary := s.dial(sampleRoom)
	if err := binary.ws.WriteMessage(websocket.BinaryMessage, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	hear(binary)
	hear(s.dialWith(sampleRoom, http.Header{"Origin": {"https://elsewhere.example"}}, nil))
	stranger := s.dial(sampleRoom)
	stranger.fails(wire.Unauthenticated, "hello", `"v":1,"token":"bad"`)
	hear(stranger)
	stays := s.join("other", "")
	over := s.join("over", "")
	s.web().do("DELETE", "/v1/rooms/over", "").want(200)
	hear(over)

	full := newSocketServer(t, Config{MaxSockets: 1})
	full.join(sampleRoom, "")
	hear(full.dial(sampleRoom))

	headless := newSocketServer(t, Config{Pace: Pace{Leaderless: time.Millisecond, Ping: 100 * time.Millisecond}})
	alone := headless.join(sampleRoom, "")
	headless.store.loseLeader(time.Now())
	waitClose := func(c *wsClient) { // bookmarks may come before
		for {
			f, err := c.tryRead()
			var closed *websocket.CloseError
			if errors.As(err, &closed) {
				said[closed.Code] = closed.Text
				return
			}
			if err != nil {
				t.Fatalf("got %s, %v; want a close frame", f.raw, err)
			}
		}
	}
	waitClose(alone)

	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	waitClose(stays)
	waitClose(newer)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}

	// Those that take a while, or that no server says yet.
	for _, code := range []int{wire.CloseSlow, wire.CloseTokenExpired} {
		if _, ok := said[code]; !ok {
			said[code] = ""
		}
	}
	var closings []closing
	for name, value := range constants(t, "../client/wire/codes.go", func(name, _ string) bool { return strings.HasPrefix(name, "Close") }) {
		code, err := strconv.Atoi(value)
		if err != nil {
			t.Fatal(err)
		}
		words, ok := said[code]
		if !ok {
			t.Errorf("no socket was closed with %s (%d)", name, code)
		}
		closings = append(closings, closing{code, snake(strings.TrimPrefix(name, "Close")), code < 4100, words})
	}
	slices.SortFunc(closings, func(a, b closing) int { return a.Code - b.Code })
	compareSamples(t, "closes.json", closings)
}

// snake is a Go name as the wire writes names.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// constants are those of a file that are wanted by name and type, with their values
// as the program has them, strings without their quotes.
func constants(t *testing.T, path string, wanted func(name, kind string) bool) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			spec := spec.(*ast.ValueSpec)
			kind := ""
			if id, ok := spec.Type.(*ast.Ident); ok {
				kind = id.Name
			}
			for i, name := range spec.Names {
				if i >= len(spec.Values) || !wanted(name.Name, kind) {
					continue
				}
				if lit, ok := spec.Values[i].(*ast.BasicLit); ok {
					found[name.Name] = strings.Trim(lit.Value, `"`)
				}
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no such constants", path)
	}
	return found
}
