package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"conclave/client/wire"
)

// The document is one by OpenAPI's own schema (spec.openapis.org/oas/3.1/schema), and
// its schemas are ones of JSON Schema 2020-12.
func TestOpenAPI_isValid(t *testing.T) {
	if err := validDocument(t, openapiJSON()); err != nil {
		t.Errorf("openapi.yaml: %v", err)
	}
	// A check that cannot fail is none.
	for what, spoil := range map[string]func(doc map[string]any){
		"a member that OpenAPI does not have": func(doc map[string]any) { under(doc, "paths", "/v1", "get")["sumary"] = "x" },
		"a parameter without a place":         func(doc map[string]any) { delete(under(doc, "components", "parameters", "raw"), "in") },
		"no version":                          func(doc map[string]any) { delete(doc, "openapi") },
		"a type that does not exist":          func(doc map[string]any) { under(doc, "components", "schemas", "Rev")["type"] = "integr" },
		"a reference to nothing": func(doc map[string]any) {
			delete(under(doc, "components", "schemas"), "Entry")
		},
	} {
		doc := decoded(t)
		spoil(doc)
		if validDocument(t, marshal(doc)) == nil {
			t.Errorf("%s passes", what)
		}
	}
}

func validDocument(t *testing.T, text []byte) error {
	t.Helper()
	rules, err := os.ReadFile("testdata/openapi/schema-3.1.json")
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	tree, err := jsonschema.UnmarshalJSON(bytes.NewReader(rules))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiler.AddResource("oas", tree); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("oas")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if err := schema.Validate(doc); err != nil {
		return err
	}
	c, err := newContract(text)
	if err != nil {
		return err
	}
	for name := range under(c.doc, "components", "schemas") {
		if _, err := c.schema("components", "schemas", name); err != nil {
			return fmt.Errorf("schema %s: %w", name, err)
		}
	}
	return nil
}

// Every route has its description, and every description its route. HEAD goes with GET.
func TestOpenAPI_describesTheRoutes(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, Config{})
	served := map[string]bool{}
	for _, r := range s.routes().Routes() {
		var segments []string
		for segment := range strings.SplitSeq(r.Path, "/") {
			if name, ok := strings.CutPrefix(segment, ":"); ok {
				segment = "{" + name + "}"
			}
			segments = append(segments, segment)
		}
		served[strings.ToLower(r.Method)+" "+strings.Join(segments, "/")] = true
	}
	described := map[string]bool{}
	ids := map[string]bool{}
	for path := range under(c.doc, "paths") {
		for method := range under(c.doc, "paths", path) {
			if method == "parameters" {
				continue
			}
			described[method+" "+path] = true
			op := under(c.doc, "paths", path, method)
			id, _ := op["operationId"].(string)
			if tags, _ := op["tags"].([]any); ids[id] || id == "" || op["summary"] == nil || len(tags) != 1 {
				t.Errorf("%s %s: needs an operationId of its own, a summary and a tag", method, path)
			}
			ids[id] = true
		}
	}
	for route := range served {
		get := strings.Replace(route, "head ", "get ", 1)
		if !described[get] {
			t.Errorf("%s is served and not described in openapi.yaml", route)
		}
	}
	for route := range described {
		if !served[route] {
			t.Errorf("%s is described in openapi.yaml and not served", route)
		}
	}
}

// A comma ends a text that is not quoted, and what follows becomes a member without a
// value.
func TestOpenAPI_textsAreWhole(t *testing.T) {
	var look func(place string, node any)
	look = func(place string, node any) {
		switch node := node.(type) {
		case []any:
			for i, item := range node {
				look(fmt.Sprintf("%s/%d", place, i), item)
			}
		case map[string]any:
			for name, item := range node {
				if item == nil {
					t.Errorf("%s/%s has no value", place, name)
				}
				look(place+"/"+name, item)
			}
		}
	}
	look("", decoded(t))
}

// situation is a way in which any request may fail, whatever it is.
type situation struct {
	name    string
	status  int
	prepare func(s *testServer)
	headers []string
	query   string
}

var situations = []situation{
	{name: "an unknown parameter", status: 400, query: "nope=1"},
	{name: "a bad token", status: 401, headers: []string{"Authorization", "Bearer bad"}},
	{name: "a foreign origin", status: 403, headers: []string{"Origin", "https://evil.example"}},
	{name: "another session", status: 410, headers: []string{"Conclave-Session", "snone"}},
	{name: "a bug", status: 500, headers: []string{"Authorization", "Bearer bug"}},
	{name: "no leader", status: 503, prepare: func(s *testServer) { s.store.breakWith(unavailable("no leader")) }},
	{name: "a lost leader", status: 504, prepare: func(s *testServer) { s.store.breakWith(unknownOutcome("the leader was lost")) }},
}

// tokens lets everybody in but two.
type tokens struct{}

func (tokens) Authenticate(token string) (Identity, error) {
	switch token {
	case "bad":
		return Identity{}, wire.Errorf(wire.Unauthenticated, "unknown token").With("reason", "unknown")
	case "bug":
		return Identity{}, fmt.Errorf("the key store is broken")
	}
	return Identity{}, nil
}

// requests are one that succeeds for each operation, in a room that stage has made.
var requests = map[string]struct {
	method, path, body string
	headers            []string
	status             int
}{
	"getServer":          {"GET", "/v1", "", nil, 200},
	"getLive":            {"GET", "/livez", "", nil, 200},
	"getReady":           {"GET", "/readyz", "", nil, 200},
	"getMetrics":         {"GET", "/metrics", "", nil, 200},
	"getOpenAPI":         {"GET", "/openapi.json", "", nil, 200},
	"listRooms":          {"GET", "/v1/rooms?prefix=r&limit=1&after=a&consistency=linearizable&min_rev=1", "", nil, 200},
	"getRoom":            {"GET", "/v1/rooms/r", "", nil, 200},
	"openRoom":           {"PUT", "/v1/rooms/new", `{"profile":"standard","linger_ms":0,"grace_ms":0,"idle_timeout_ms":1000,"stores":{"s":{"a/b":[1]}}}`, []string{"Idempotency-Key", "i"}, 201},
	"endRoom":            {"DELETE", "/v1/rooms/r", "", nil, 200},
	"listStores":         {"GET", "/v1/rooms/r/stores", "", nil, 200},
	"listEntries":        {"GET", "/v1/rooms/r/stores/default?prefix=k&limit=1&after=a", "", nil, 200},
	"replaceStore":       {"PUT", "/v1/rooms/r/stores/other?fences={\"pen\":FENCE}&owner=o", `{"pen":1,"a":null}`, nil, 200},
	"mergeStore":         {"PATCH", "/v1/rooms/r/stores/default?open_ms=1000", `{"set":{"x":{}},"delete":["y"]}`, nil, 200},
	"getKey":             {"GET", "/v1/rooms/r/stores/default/keys/k", "", nil, 200},
	"putKey":             {"PUT", "/v1/rooms/r/stores/default/keys/a%2Fb?ttl_ms=1000&bind=PEER&if_version=0", "1.50", []string{"If-None-Match", "*"}, 201},
	"patchKey":           {"PATCH", "/v1/rooms/r/stores/default/keys/list", `{"append":[1],"unique":true}`, nil, 201},
	"deleteKey":          {"DELETE", "/v1/rooms/r/stores/default/keys/pen?fence=FENCE&owner=o", "", nil, 200},
	"transact":           {"POST", "/v1/rooms/r/txn?owner=me", everyOperation, nil, 200},
	"listLocks":          {"GET", "/v1/rooms/r/locks?prefix=default/&limit=5", "", nil, 200},
	"getLock":            {"GET", "/v1/rooms/r/locks/default/pen", "", nil, 200},
	"acquireLock":        {"POST", "/v1/rooms/r/locks/default/mic", `{"owner":"me","ttl_ms":1000,"wait_ms":0,"data":{}}`, nil, 200},
	"renewLock":          {"PUT", "/v1/rooms/r/locks/default/pen", `{"fence":FENCE,"owner":"o"}`, nil, 200},
	"releaseLock":        {"DELETE", "/v1/rooms/r/locks/default/pen?break", "", nil, 200},
	"listPeers":          {"GET", "/v1/rooms/r/peers?limit=3&after=a", "", nil, 200},
	"join":               {"POST", "/v1/rooms/r/peers", `{"name":"Eve","ref":"u9","data":[],"ttl_ms":1000}`, nil, 201},
	"getPeer":            {"GET", "/v1/rooms/r/peers/PEER", "", nil, 200},
	"setPeer":            {"PATCH", "/v1/rooms/r/peers/PEER", `{"name":"Ada L.","data":null,"role":"host"}`, nil, 200},
	"removePeer":         {"DELETE", "/v1/rooms/r/peers/PEER", "", nil, 200},
	"keepPeer":           {"PUT", "/v1/rooms/r/peers/PEER/alive", "", []string{"Conclave-Peer", "PEER", "Conclave-Peer-Key", "KEY"}, 200},
	"send":               {"POST", "/v1/rooms/r/messages", `{"topic":"chat","data":1,"to":{"roles":["host"]},"echo":true}`, nil, 200},
	"getCluster":         {"GET", "/v1/cluster", "", nil, 200},
	"addMember":          {"POST", "/v1/cluster/members", `{"id":"n4","peer_addr":"h:1","replica":true}`, []string{"If-Match", `"3"`}, 200},
	"removeMember":       {"DELETE", "/v1/cluster/members/n1?force", "", nil, 200},
	"promoteMember":      {"POST", "/v1/cluster/members/n2/promote", "", nil, 200},
	"demoteMember":       {"POST", "/v1/cluster/members/n2/demote", "", []string{"If-Match", "*"}, 200},
	"transferLeadership": {"POST", "/v1/cluster/transfer", `{"to":"n2"}`, nil, 200},
}

// everyOperation is a transaction of all operations.
const everyOperation = `{"if":[{"key":"k","exists":true,"version":1},{"store":"s","key":"k","absent":true}],"then":[
	{"do":"get","key":"k"},{"do":"put","key":"a","value":1,"ttl_ms":1000,"if":{"absent":true}},{"do":"update","key":"o","value":{"a":1}},
	{"do":"append","key":"l","values":[1,1],"unique":true},{"do":"remove","key":"l","values":[1]},{"do":"add","key":"n","by":1.5},
	{"do":"patch","key":"o","merge":{"b":2}},{"do":"patch","key":"o","ops":[{"op":"test","path":"/a","value":1}]},
	{"do":"delete","key":"a"},{"do":"delete","prefix":"zz"},{"do":"merge","set":{"m":1},"delete":["q"]},
	{"do":"replace","store":"whole","data":{"x":1}},{"do":"send","topic":"chat","data":{},"to":{"refs":["u1"]}},
	{"do":"acquire","key":"free","ttl_ms":1000}],"else":[{"do":"release","key":"pen","fence":1}]}`

// stage opens the room of the requests and gives their words for what it holds.
func (s *testServer) stage() *strings.Replacer {
	s.t.Helper()
	s.do("PUT", "/v1/rooms/r", `{"stores":{"default":{"k":{"a":1}},"other":{"z":1}}}`).want(201)
	fence := s.do("POST", locks+"pen", `{"owner":"o","ttl_ms":60000}`).want(200).number("fence")
	other := s.do("POST", "/v1/rooms/r/locks/other/pen", `{"owner":"o","ttl_ms":60000}`).want(200).number("fence")
	peer := s.do("POST", peers, `{"name":"Ada","ref":"u7","data":{},"ttl_ms":60000}`).want(201)
	return strings.NewReplacer(
		`{"pen":FENCE}`, url.QueryEscape(fmt.Sprintf(`{"pen":%d}`, other)),
		"FENCE", fmt.Sprint(fence), "PEER", peer.text("peer"), "KEY", peer.text("resume_key"),
	)
}

// Each operation is asked once so that it succeeds, and in each situation in which it
// says that it may fail. testServer holds all answers to the document.
func TestOpenAPI_answersAreAsDescribed(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	for path := range under(c.doc, "paths") {
		for method := range under(c.doc, "paths", path) {
			op := under(c.doc, "paths", path, method)
			id, _ := op["operationId"].(string)
			if id == "" || id == "openSocket" || id == "watchEvents" {
				continue // see TestOpenAPI_streams
			}
			r, ok := requests[id]
			if !ok {
				t.Errorf("no request for %s", id)
				continue
			}
			s := newTestServer(t, Config{Auth: tokens{}})
			words := s.stage()
			headers := slices.Clone(r.headers)
			for i := range headers {
				headers[i] = words.Replace(headers[i])
			}
			target, body := words.Replace(r.path), words.Replace(r.body)
			for _, sit := range situations {
				if under(op, "responses", fmt.Sprint(sit.status)) == nil {
					continue // what it answers then is described, or the check of the others finds it
				}
				if id == "getReady" && sit.status == 503 {
					continue
				}
				if sit.prepare != nil {
					sit.prepare(s)
				}
				asked := target
				switch {
				case sit.query == "":
				case strings.Contains(asked, "?"):
					asked += "&" + sit.query
				default:
					asked += "?" + sit.query
				}
				if got := s.do(r.method, asked, body, slices.Concat(headers, sit.headers)...); got.status != sit.status {
					t.Errorf("%s with %s: got %d %s, described is %d", id, sit.name, got.status, got.body, sit.status)
				}
				s.store.breakWith(nil)
			}
			if got := s.do(r.method, target, body, headers...); got.status != r.status {
				t.Errorf("%s: got %d %s, want %d", id, got.status, got.body, r.status)
			}
		}
	}
}

// The two routes that stay open. What a stream carries are frames as described.
func TestOpenAPI_streams(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, Config{Auth: tokens{}})
	s.stage()
	events := "/v1/rooms/r/events"
	s.do("GET", events+"?topic=a*b", "").want(400)
	s.do("GET", events+"?key=a", "", "Authorization", "Bearer bad").want(401)
	s.do("GET", events, "", "Origin", "https://evil.example").want(403)
	s.do("GET", events, "", "Conclave-Session", "snone").want(410)
	s.do("GET", events, "", "Authorization", "Bearer bug").want(500)
	s.do("GET", "/v1/rooms/r/socket", "").want(400)
	s.store.breakWith(unavailable("no leader"))
	s.do("GET", events, "").want(503)
	s.store.breakWith(nil)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.http.URL+events+"?type=put&type=peer&key=k&topic=*&store=default", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	checked(t, req, res.StatusCode, res.Header, "")
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for _, want := range []string{"snapshot", "events"} {
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			if !strings.HasPrefix(data, `{"`+want) {
				t.Errorf("got %s, want %s", data, want)
			}
			if err := c.fits(data, "components", "schemas", "Frame"); err != nil {
				t.Errorf("%s: %v", data, err)
			}
			break
		}
		s.do("PUT", keys+"k", "2")
	}
}

// The samples of what the server sends to watchers are frames and shapes as described.
func TestOpenAPI_describesTheSamples(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	for file, schema := range map[string]string{
		"entry": "Entry", "entry_plain": "Entry", "peer": "Peer", "peer_gone": "Peer", "lock": "Lock", "lock_queue": "Lock",
		"event_put": "Event", "event_delete": "Event", "event_lock": "Event", "event_lock_released": "Event", "event_peer": "Event",
		"event_peer_left": "Event", "event_message": "Event", "event_session": "Event", "frame": "Frame", "txn": "TxnResult",
	} {
		text, err := os.ReadFile("testdata/wire/" + file + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.fits(string(text), "components", "schemas", schema); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The lists that the document repeats are those of the program.
func TestOpenAPI_listsTheCodes(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[wire.Code]bool{}
	codes, _ := under(c.doc, "components", "schemas", "Code")["enum"].([]any)
	for _, code := range codes {
		name, _ := code.(string)
		listed[wire.Code(name)] = true
		if _, ok := wire.Codes[wire.Code(name)]; !ok {
			t.Errorf("the code %s is described and not in use", name)
		}
	}
	for code := range wire.Codes {
		if !listed[code] {
			t.Errorf("the code %s is not described", code)
		}
	}
}

// A check that cannot fail is none: what is not described is found.
func TestOpenAPI_findsWhatIsNotDescribed(t *testing.T) {
	c, err := newContract(openapiJSON())
	if err != nil {
		t.Fatal(err)
	}
	entry := `{"key":"k","value":{"any":"thing"},"version":1,"rev":2,"created_rev":2,"by":{"kind":"server"},"at":"2026-07-01T12:00:00.000Z"}`
	head := http.Header{"Conclave-Rev": {"2"}, "Etag": {`"2"`}, "Content-Type": {"application/json"}}
	problem := http.Header{"Content-Type": {"application/problem+json"}}
	text := `{"type":"about:blank","title":"t","status":404,"detail":"d","code":"%s","retry":"never"%s}`
	const path = "/v1/rooms/r/stores/s/keys/a%2Fb"
	for _, tc := range []struct {
		what, method, path, body string
		status                   int
		header                   http.Header
		answer                   string
		ok                       bool
	}{
		{"what is described", "GET", path, "", 200, head, entry, true},
		{"a member too many", "GET", path, "", 200, head, strings.Replace(entry, `"rev"`, `"more":1,"rev"`, 1), false},
		{"a member deep inside", "GET", path, "", 200, head, strings.Replace(entry, `"kind"`, `"more":1,"kind"`, 1), false},
		{"a member too few", "GET", path, "", 200, head, strings.Replace(entry, `"version":1,`, "", 1), false},
		{"another type", "GET", path, "", 200, head, strings.Replace(entry, `"version":1`, `"version":"1"`, 1), false},
		{"no revision", "GET", path, "", 200, http.Header{"Etag": {`"2"`}, "Content-Type": {"application/json"}}, entry, false},
		{"a tag without quotes", "GET", path, "", 200, http.Header{"Conclave-Rev": {"2"}, "Etag": {"2"}, "Content-Type": {"application/json"}}, entry, false},
		{"another status", "GET", path, "", 418, head, entry, false},
		{"a problem", "GET", path, "", 404, problem, fmt.Sprintf(text, "not_found", ""), true},
		{"a code of another status", "GET", path, "", 404, problem, fmt.Sprintf(text, "locked", ""), false},
		{"a detail that is not described", "GET", path, "", 404, problem, fmt.Sprintf(text, "not_found", `,"details":{"colour":"red"}`), false},
		{"a problem of another type", "GET", path, "", 404, http.Header{"Content-Type": {"application/json"}}, fmt.Sprintf(text, "not_found", ""), false},
		{"an unknown parameter", "GET", path + "?x=1", "", 200, head, entry, false},
		{"a parameter out of range", "GET", path + "?consistency=none", "", 200, head, entry, false},
		{"a body with more", "POST", "/v1/rooms/r/txn", `{"then":[],"more":1}`, 200, head, `{"applied":true,"rev":1,"results":[]}`, false},
		{"an operation with more", "POST", "/v1/rooms/r/txn", `{"then":[{"do":"get","key":"k","fence":1}]}`, 200, head, `{"applied":true,"rev":1,"results":[]}`, false},
	} {
		r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
		if faults := c.check(r, tc.body, tc.status, tc.header, tc.answer); (len(faults) == 0) != tc.ok {
			t.Errorf("%s: %q", tc.what, faults)
		}
	}
}
