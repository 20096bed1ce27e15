package api

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// The samples are the contract, so they are read here as a client in another language
// would read them: from the files alone. What they have is held to client/wire and to
// openapi.yaml, and what the program has must be among them.

// The requests of a socket, as client/wire has their members.
type (
	alone  struct{} // id and do
	listed struct {
		Store       string  `json:"store,omitempty"`
		Key         string  `json:"key,omitempty"`
		Prefix      string  `json:"prefix,omitempty"`
		Limit       int     `json:"limit,omitempty"`
		After       string  `json:"after,omitempty"`
		Consistency string  `json:"consistency,omitempty"`
		MinRev      *uint64 `json:"min_rev,omitempty"`
	}
	acquired struct {
		wire.Op
		WaitMs *int64 `json:"wait_ms,omitempty"`
	}
	watched struct {
		Watch []wire.Filter `json:"watch"`
	}
	unwatched struct {
		Watch uint64 `json:"watch"`
	}
	cancelled struct {
		Request uint64 `json:"request"`
	}
	self struct {
		Name *string `json:"name,omitempty"`
		Ref  *string `json:"ref,omitempty"`
		Data any     `json:"data,omitempty"`
	}
	removed struct {
		Peer string `json:"peer"`
	}
)

// verbShape is what a verb is asked with, besides id and do, and answered with.
type verbShape struct {
	asked, answered func() any
}

func shapeOf[Asked, Answered any]() verbShape {
	return verbShape{func() any { return new(Asked) }, func() any { return new(Answered) }}
}

var verbShapes = map[string]verbShape{
	"hello":       shapeOf[wire.Hello, wire.Welcome](),
	"get":         shapeOf[listed, wire.Got](),
	"list":        shapeOf[listed, wire.Entries](),
	"put":         shapeOf[wire.Op, wire.Written](),
	"delete":      shapeOf[wire.Op, wire.Deleted](),
	"update":      shapeOf[wire.Op, wire.Computed](),
	"append":      shapeOf[wire.Op, wire.Computed](),
	"remove":      shapeOf[wire.Op, wire.Computed](),
	"add":         shapeOf[wire.Op, wire.Computed](),
	"patch":       shapeOf[wire.Op, wire.Computed](),
	"merge":       shapeOf[wire.Op, wire.Done](),
	"replace":     shapeOf[wire.Op, wire.Done](),
	"txn":         shapeOf[wire.Txn, wire.TxnResult](),
	"watch":       shapeOf[watched, wire.Done](),
	"unwatch":     shapeOf[unwatched, alone](),
	"acquire":     shapeOf[acquired, wire.Grant](),
	"renew":       shapeOf[wire.Op, wire.Renewed](),
	"release":     shapeOf[wire.Op, wire.Done](),
	"cancel":      shapeOf[cancelled, alone](),
	"locks":       shapeOf[listed, wire.Locks](),
	"validate":    shapeOf[wire.Op, wire.Valid](),
	"peers":       shapeOf[listed, wire.Peers](),
	"send":        shapeOf[wire.Op, wire.Done](),
	"set_self":    shapeOf[self, wire.Done](),
	"remove_peer": shapeOf[removed, wire.Done](),
	"leave":       shapeOf[alone, alone](),
	"ping":        shapeOf[alone, wire.Pong](),
}

// answerShapes are what operations of openapi.yaml answer when they succeed.
var answerShapes = map[string]func() any{
	"getServer": into[wire.ServerInfo], "getReady": into[wire.Ready], "getLive": into[struct {
		Live bool `json:"live"`
	}],
	"listRooms": into[wire.Rooms], "openRoom": into[wire.Room], "getRoom": into[wire.Room], "endRoom": into[wire.Done],
	"listStores": into[wire.Stores], "listEntries": into[wire.Entries], "replaceStore": into[wire.Done], "mergeStore": into[wire.Done],
	"getKey": into[wire.Entry], "putKey": into[wire.Written], "patchKey": into[wire.Computed], "deleteKey": into[wire.Deleted],
	"transact": into[wire.TxnResult], "send": into[wire.Done],
	"listLocks": into[wire.Locks], "getLock": into[wire.Lock], "acquireLock": into[wire.Grant], "renewLock": into[wire.Renewed], "releaseLock": into[wire.Done],
	"listPeers": into[wire.Peers], "join": into[wire.Joined], "getPeer": into[wire.Peer], "setPeer": into[wire.Done], "removePeer": into[wire.Done],
	"keepPeer":   into[wire.Renewed],
	"getCluster": into[wire.Cluster], "addMember": into[wire.Cluster], "removeMember": into[wire.Cluster], "promoteMember": into[wire.Cluster],
	"demoteMember": into[wire.Cluster], "transferLeadership": into[wire.Cluster],
}

func into[T any]() any { return new(T) }

// unsampled are the operations that answer with no message of ours, or with streams,
// which have files of their own.
var unsampled = []string{"getMetrics", "getOpenAPI", "openSocket"}

// found is everything that was seen in samples, by a name that says what it is.
type found map[string]bool

func (f found) note(parts ...any) { f[strings.TrimSpace(fmt.Sprintln(parts...))] = true }

// faithful decodes a text strictly and compares what is encoded again.
func faithful(t *testing.T, where string, text []byte, shape any) {
	t.Helper()
	if err := strictly(text, shape); err != nil {
		t.Errorf("%s: client/wire does not know %s: %v", where, text, err)
		return
	}
	var sent, understood any
	if err := strictly(text, &sent); err != nil {
		t.Fatal(err)
	}
	if err := strictly(marshal(shape), &understood); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(withoutNoSession(sent), understood); d != "" {
		t.Errorf("%s: client/wire understands otherwise (-sent +understood):\n%s", where, d)
	}
}

// withoutNoSession leaves out the null by which a snapshot says that the room has no
// session, and which wire.Snapshot says with "".
func withoutNoSession(v any) any {
	if object, ok := v.(map[string]any); ok {
		if snap, ok := object["snapshot"].(map[string]any); ok && snap["session"] == nil {
			delete(snap, "session")
		}
	}
	return v
}

// members are the members of an object but id and do, as a text again.
func members(t *testing.T, text []byte, but ...string) []byte {
	t.Helper()
	o, err := parseObject(text, "sample")
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{'{'}
	for _, m := range o.members {
		if slices.Contains(but, string(m.name)) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(appendString(b, string(m.name)), ':'), m.raw...)
	}
	return append(b, '}')
}

// readConversation reads a file of what a socket said.
func readConversation(t *testing.T, c *contract, path string, seen found) {
	asked := map[uint64]string{} // verbs by id
	refused := map[uint64]bool{}
	samples := readSamples[sample](t, path)
	for i, s := range samples {
		if s.From == "server" && s.Frame != nil {
			var f wire.Frame
			if err := strictly(s.Frame, &f); err == nil && f.Error != nil && f.Error.Code == wire.BadRequest {
				refused[f.ID] = true
			}
		}
		if s.Close != 0 && (s.From != "server" || i != len(samples)-1 || s.Frame != nil) {
			t.Errorf("%s: a close frame is the server's last", path)
		}
	}
	for i, s := range samples {
		where := fmt.Sprintf("%s, %d", filepath.Base(path), i+1)
		switch {
		case s.Close != 0:
			seen.note("close", s.Close)
		case s.From == "client":
			var r struct {
				ID uint64
				Do string
			}
			o, err := parseObject(s.Frame, "request")
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			r.Do, _ = o.str("do")
			if id := o.counter("id", 1); id != nil {
				r.ID = *id
			}
			asked[r.ID] = r.Do
			seen.note("asked", r.Do)
			shape, known := verbShapes[r.Do]
			switch {
			case refused[r.ID]: // for its form: no shape need have it
			case !known:
				t.Errorf("%s: a request without a shape: %s", where, s.Frame)
			case r.Do == "hello":
				faithful(t, where, s.Frame, shape.asked())
			default:
				text := members(t, s.Frame, "id", "do")
				// An Op says what it does; other requests leave that to the frame.
				switch shape.asked().(type) {
				case *wire.Op, *acquired:
					text = members(t, s.Frame, "id")
				}
				faithful(t, where, text, shape.asked())
				if r.Do == "txn" {
					fits(t, c, where, string(text), "Txn")
				}
			}
		case s.From == "server":
			readFrame(t, c, where, s.Frame, asked, seen)
		default:
			t.Errorf("%s: is from %q", where, s.From)
		}
	}
}

// fits holds a text to a schema of openapi.yaml.
func fits(t *testing.T, c *contract, where, text, schema string) {
	t.Helper()
	if err := c.fits(text, "components", "schemas", schema); err != nil {
		t.Errorf("%s: %v\n%s", where, err, text)
	}
}

func readFrame(t *testing.T, c *contract, where string, text []byte, asked map[uint64]string, seen found) {
	t.Helper()
	f := new(wire.Frame)
	faithful(t, where, text, f)
	switch {
	case f.ID != 0:
		do := asked[f.ID]
		if do == "" && !strings.HasPrefix(where, "ws_waiting.json") { // which has one side only
			t.Errorf("%s: answers nothing", where)
		}
		switch {
		case f.Error != nil:
			seen.note("refused", do)
			seen.note("error", f.Error.Code)
			if class := wire.Codes[f.Error.Code]; class.Retry != f.Error.Retry {
				t.Errorf("%s: retry is %s, want %s", where, f.Error.Retry, class.Retry)
			}
			fits(t, c, where, string(marshal(f.Error.Code)), "Code")
			if f.Error.Details != nil {
				fits(t, c, where, string(marshal(f.Error.Details)), "Details")
			}
		case f.Waiting != nil:
			seen.note("waiting")
		case do != "":
			seen.note("answered", do)
			if shape, ok := verbShapes[do]; ok {
				faithful(t, where, f.OK, shape.answered())
			}
			helloForms(do, f, seen)
			if schema := verbSchemas[do]; schema != "" {
				fits(t, c, where, string(f.OK), schema)
			}
		}
		return
	case f.Snapshot != nil:
		seen.note("snapshot, more", *f.More)
		seen.note("snapshot, for a request", f.For != 0)
		seen.note("snapshot, of a session", f.Snapshot.Session != "")
	case f.Events != nil:
		if len(f.Events) > 1 {
			seen.note("events of a transaction")
		}
		for _, e := range f.Events {
			seen.note("event", e.Type, e.State, e.Reason)
		}
	case f.Ephemeral != nil:
		seen.note("ephemeral")
	case f.Reset != "":
		seen.note("reset", f.Reset)
	default:
		seen.note("bookmark")
	}
	fits(t, c, where, string(text), "Frame")
}

// verbSchemas are the schemas that answers over a socket share with HTTP.
var verbSchemas = map[string]string{
	"put": "Written", "delete": "Deleted", "update": "Computed", "append": "Computed", "remove": "Computed", "add": "Computed",
	"patch": "Computed", "merge": "Done", "replace": "Done", "txn": "TxnResult", "send": "Done", "set_self": "Done", "remove_peer": "Done",
	"release": "Done", "watch": "Done",
}

// helloForms notes which of its forms a hello was answered in.
func helloForms(do string, f *wire.Frame, seen found) {
	var w wire.Welcome
	if do != "hello" || strictly(f.OK, &w) != nil {
		return
	}
	who := "peer"
	if w.Peer == "" {
		who = "observer"
	}
	seen.note("hello", who, w.Session != nil, w.PeerResumed, w.StreamResumed)
}

// readExchanges reads a file of requests over HTTP.
func readExchanges(t *testing.T, c *contract, path string, seen found) {
	for i, e := range readSamples[exchange](t, path) {
		where := fmt.Sprintf("%s, %d", filepath.Base(path), i+1)
		req, err := e.Request.request()
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		header := http.Header{}
		for name, v := range e.Response.Headers {
			header.Set(name, v)
		}
		for _, fault := range c.check(req, string(e.Request.Body), e.Response.Status, header, string(e.Response.Body)) {
			t.Errorf("%s: %s", where, fault)
		}
		if header.Get("Content-Type") == "application/problem+json" {
			var p wire.Problem
			faithful(t, where, e.Response.Body, &p)
			seen.note("problem", p.Code)
			if p.Status != e.Response.Status || p.Status != 405 && p.Status != wire.Codes[p.Code].Status {
				t.Errorf("%s: %s with the status %d", where, p.Code, e.Response.Status)
			}
			continue
		}
		o := c.operation(req)
		if o == nil {
			t.Errorf("%s: no such operation", where)
			continue
		}
		seen.note("operation", o.id())
		shape := answerShapes[o.id()]
		switch {
		case e.Response.Body == nil || req.URL.Query().Has("raw"):
			continue
		case req.URL.Query().Has("fence") && o.id() == "getLock":
			shape = into[wire.Valid]
		case shape == nil:
			t.Errorf("%s: an answer without a shape: %s", where, e.Response.Body)
			continue
		}
		faithful(t, where, e.Response.Body, shape())
	}
}

func readStreams(t *testing.T, c *contract, path string, seen found) {
	for i, s := range readSamples[streamed](t, path) {
		for n, e := range s.Events {
			readFrame(t, c, fmt.Sprintf("%s, %d, event %d", filepath.Base(path), i+1, n+1), e.Data, nil, seen)
		}
		seen.note("operation", "watchEvents")
	}
}

// readAll reads all files of a folder.
func readAll(t *testing.T, c *contract, dir string) found {
	t.Helper()
	seen := found{}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		switch _, shape := samples[name]; {
		case shape, name == "closes", name == "codes":
		case strings.HasPrefix(name, "ws_"):
			readConversation(t, c, path, seen)
		case strings.HasPrefix(name, "http_"):
			readExchanges(t, c, path, seen)
		case strings.HasPrefix(name, "sse_"):
			readStreams(t, c, path, seen)
		default:
			t.Errorf("%s: the README has no such kind of file", path)
		}
	}
	return seen
}

// wanted is what must be among the samples: what the program has, by its own lists.
func wanted(t *testing.T, c *contract) (want []string) {
	t.Helper()
	add := func(parts ...any) { want = append(want, strings.TrimSpace(fmt.Sprintln(parts...))) }
	for do := range verbs {
		add("asked", do)
		add("answered", do)
	}
	for _, do := range laterVerbs {
		add("refused", do)
	}
	for code := range wire.Codes {
		add("error", code)
		add("problem", code)
	}
	for _, why := range constants(t, "stream.go", func(_, kind string) bool { return kind == "reset" }) {
		add("reset", why)
	}
	variants, _ := under(c.doc, "components", "schemas", "Event")["oneOf"].([]any)
	for _, v := range variants {
		kind := under(v, "properties", "type")["const"]
		states, _ := under(v, "properties", "state")["enum"].([]any)
		reasons, _ := under(v, "properties", "reason")["enum"].([]any)
		for _, reason := range reasons {
			switch kind {
			case "peer":
				add("event peer left", reason)
			case "session":
				add("event session ended", reason)
			default: // an event without a state has an empty place for it
				add("event", kind, "", reason)
			}
		}
		for _, state := range states {
			if len(reasons) == 0 || state != "left" && state != "ended" {
				add("event", kind, state)
			}
		}
		if len(states)+len(reasons) == 0 {
			add("event", kind)
		}
	}
	for path := range under(c.doc, "paths") {
		for method := range under(c.doc, "paths", path) {
			if id, ok := under(c.doc, "paths", path, method)["operationId"].(string); ok && !slices.Contains(unsampled, id) {
				add("operation", id)
			}
		}
	}
	return append(want, []string{
		"waiting", "ephemeral", "bookmark", "events of a transaction",
		"snapshot, more true", "snapshot, more false", "snapshot, for a request true", "snapshot, for a request false",
		"snapshot, of a session false",
		// who, of a session, peer resumed, stream resumed
		"hello peer true false false", "hello peer true true true", "hello peer true true false",
		"hello observer true false false", "hello observer true false true", "hello observer false false false",
		"refused hello",
	}...)
}

// Every message of the protocol has a sample, and every sample is understood.
func TestSamples_areComplete(t *testing.T) {
	c, err := newContract(openapiJSON())
	if err != nil {
		t.Fatal(err)
	}
	seen := readAll(t, c, sampleDir)
	for _, want := range wanted(t, c) {
		if !seen[want] {
			t.Errorf("no sample has: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("they have:\n%s", strings.Join(slices.Sorted(maps.Keys(seen)), "\n"))
	}
}

// A file that no test says any more would be a contract that nobody keeps.
func TestSamples_areAllSaid(t *testing.T) {
	var text strings.Builder
	tests, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tests {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	files, err := filepath.Glob(filepath.Join(sampleDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		if _, shape := samples[strings.TrimSuffix(name, ".json")]; !shape && !strings.Contains(text.String(), `"`+name+`"`) {
			t.Errorf("no test says %s", name)
		}
	}
}
