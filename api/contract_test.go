package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// contract is openapi.yaml as the tests hold the server to it: an object has the
// members that are described and no others, which the document itself does not say
// of answers, so that clients ignore what they do not know.
type contract struct {
	doc map[string]any // all references but those to schemas resolved

	mu       sync.Mutex // guards all below
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // by where they stand
	seen     map[string]int                // exchanges by operation and status
}

// contractURL is where the schemas stand for the compiler.
const contractURL = "conclave:openapi.json"

// theContract is made once: its schemas take a moment to compile.
var theContract = sync.OnceValues(func() (*contract, error) { return newContract(openapiJSON()) })

func newContract(text []byte) (*contract, error) {
	tree, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	doc, ok := tree.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the document is no object")
	}
	c := &contract{compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}, seen: map[string]int{}}
	closeObjects(doc)
	resolved, err := resolve(doc, doc, 0)
	if err != nil {
		return nil, err
	}
	c.doc = resolved.(map[string]any)
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	return c, c.compiler.AddResource(contractURL, c.doc)
}

// resolve replaces the references to what is no schema by what they name.
func resolve(doc map[string]any, node any, depth int) (any, error) {
	if depth > 64 {
		return nil, fmt.Errorf("references go round in a circle")
	}
	switch node := node.(type) {
	case []any:
		out := make([]any, len(node))
		for i, item := range node {
			var err error
			if out[i], err = resolve(doc, item, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		if ref, ok := node["$ref"].(string); ok && !strings.HasPrefix(ref, "#/components/schemas/") {
			named := any(doc)
			for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				if named, ok = lookup(named, name); !ok {
					return nil, fmt.Errorf("%s names nothing", ref)
				}
			}
			return resolve(doc, named, depth+1)
		}
		out := make(map[string]any, len(node))
		for name, item := range node {
			var err error
			if out[name], err = resolve(doc, item, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return node, nil
}

// lookup is what an object, or the objects in it, have under names.
func lookup(node any, names ...string) (any, bool) {
	for _, name := range names {
		object, ok := node.(map[string]any)
		if !ok {
			return nil, false
		}
		if node, ok = object[name]; !ok {
			return nil, false
		}
	}
	return node, true
}

func under(node any, names ...string) map[string]any {
	found, _ := lookup(node, names...)
	object, _ := found.(map[string]any)
	return object
}

// closeObjects has the schemas of objects refuse members that they do not describe.
func closeObjects(node any) {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			closeObjects(item)
		}
	case map[string]any:
		if _, ok := node["properties"].(map[string]any); ok && node["type"] == "object" && node["additionalProperties"] == nil {
			node["additionalProperties"] = false
		}
		for _, item := range node {
			closeObjects(item)
		}
	}
}

// schema compiles the schema at a place in the document.
func (c *contract) schema(place ...string) (*jsonschema.Schema, error) {
	for i, name := range place {
		place[i] = strings.NewReplacer("~", "~0", "/", "~1", "%", "%25", "{", "%7B", "}", "%7D", "+", "%2B").Replace(name)
	}
	pointer := contractURL + "#/" + strings.Join(place, "/")
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemas[pointer]; s != nil {
		return s, nil
	}
	s, err := c.compiler.Compile(pointer)
	if err == nil {
		c.schemas[pointer] = s
	}
	return s, err
}

// fits holds a JSON text to the schema at a place.
func (c *contract) fits(text string, place ...string) error {
	s, err := c.schema(place...)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// operation is what describes a request.
type operation struct {
	path, method string
	item, op     map[string]any
}

// operation finds what describes a request. Names in a path are segments as they
// were escaped.
func (c *contract) operation(r *http.Request) *operation {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for path := range under(c.doc, "paths") {
		template := strings.Split(path, "/")
		fits := len(template) == len(segments)
		for i := 0; fits && i < len(template); i++ {
			fits = template[i] == segments[i] || template[i] != "" && template[i][0] == '{' && segments[i] != ""
		}
		if !fits {
			continue
		}
		o := &operation{path: path, method: strings.ToLower(r.Method), item: under(c.doc, "paths", path)}
		if o.method == "head" {
			o.method = "get"
		}
		if o.op = under(o.item, o.method); o.op != nil {
			return o
		}
	}
	return nil
}

func (o *operation) id() string { return fmt.Sprint(o.op["operationId"]) }

// parameter is one that an operation takes, and where its schema stands.
type parameter struct {
	in, name string
	required bool
	list     bool
	place    []string
}

func (o *operation) parameters() (ps []parameter) {
	for _, from := range []struct {
		list  any
		place []string
	}{{o.item["parameters"], []string{"paths", o.path}}, {o.op["parameters"], []string{"paths", o.path, o.method}}} {
		list, _ := from.list.([]any)
		for i, item := range list {
			p := parameter{
				in: fmt.Sprint(under(item)["in"]), name: fmt.Sprint(under(item)["name"]), required: under(item)["required"] == true,
				list:  under(item, "schema")["type"] == "array",
				place: slices.Concat(from.place, []string{"parameters", strconv.Itoa(i), "schema"}),
			}
			if content := under(item, "content", "application/json"); content != nil {
				p.place = slices.Concat(from.place, []string{"parameters", strconv.Itoa(i), "content", "application/json", "schema"})
			}
			ps = append(ps, p)
		}
	}
	return ps
}

// maxExchanges is how many exchanges of one operation and status are checked: enough
// to see all shapes, few enough to cost little.
const maxExchanges = 20

// check holds one exchange to the contract. A request that was refused for its form
// need not fit; all others must, and every answer.
func (c *contract) check(r *http.Request, body string, status int, header http.Header, answer string) (faults []string) {
	o := c.operation(r)
	if o == nil || status == http.StatusMethodNotAllowed {
		return nil
	}
	key := fmt.Sprintf("%s %d", o.id(), status)
	c.mu.Lock()
	c.seen[key]++
	enough := c.seen[key] > maxExchanges
	c.mu.Unlock()
	if enough {
		return nil
	}
	say := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s %s, answered with %d: ", r.Method, r.URL, status)+fmt.Sprintf(format, args...))
	}
	code := strconv.Itoa(status)
	response := under(o.op, "responses", code)
	if response == nil {
		say("%s has no such status; got %.300s", o.id(), answer)
		return faults
	}
	if status != http.StatusBadRequest && status != http.StatusRequestEntityTooLarge {
		c.checkRequest(o, r, body, say)
	}
	place := []string{"paths", o.path, o.method, "responses", code}
	for name := range under(response, "headers") {
		values := header.Values(name)
		if len(values) == 0 && under(response, "headers", name)["required"] == true {
			say("no %s", name)
		}
		for _, v := range values {
			if err := c.fits(string(marshal(v)), slices.Concat(place, []string{"headers", name, "schema"})...); err != nil {
				say("%s: %v", name, err)
			}
		}
	}
	content := under(response, "content")
	if r.Method == http.MethodHead || content == nil {
		return faults
	}
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	switch {
	case content[kind] == nil:
		say("the type %q is not described", kind)
	case strings.HasPrefix(kind, "text/"): // checked by those who read the stream
	default:
		if err := c.fits(answer, slices.Concat(place, []string{"content", kind, "schema"})...); err != nil {
			say("%v\n%.500s", err, answer)
		}
	}
	// What GET of a key answers is an entry, unless the bare value was asked for.
	if o.id() == "getKey" && status == http.StatusOK && !r.URL.Query().Has("raw") {
		if err := c.fits(answer, "components", "schemas", "Entry"); err != nil {
			say("%v\n%.500s", err, answer)
		}
	}
	return faults
}

// checkRequest holds a request to the contract that the server took as well formed.
func (c *contract) checkRequest(o *operation, r *http.Request, body string, say func(string, ...any)) {
	described := map[string]bool{}
	query := r.URL.Query()
	for _, p := range o.parameters() {
		described[p.in+" "+p.name] = true
		var values []string
		switch p.in {
		case "query":
			values = query[p.name]
		case "header":
			values = r.Header.Values(p.name)
		default:
			continue // the path has fitted
		}
		if len(values) == 0 && p.required {
			say("%s is required", p.name)
		}
		texts := []string{}
		for _, v := range values {
			texts = append(texts, c.literal(v, p))
		}
		if p.list {
			texts = []string{"[" + strings.Join(texts, ",") + "]"}
		}
		for _, text := range texts {
			if err := c.fits(text, slices.Clone(p.place)...); err != nil {
				say("%s: %v", p.name, err)
			}
		}
	}
	for name := range query {
		if !described["query "+name] {
			say("the query parameter %s is not described", name)
		}
	}
	for _, name := range []string{
		"If-Match", "If-None-Match", "Idempotency-Key", "Last-Event-ID", "Conclave-Session", "Conclave-Peer", "Conclave-Peer-Key",
	} {
		// A condition on what has no tag does not apply to a read, as HTTP has it.
		if o.method == "get" && strings.HasPrefix(name, "If-") {
			continue
		}
		if r.Header.Get(name) != "" && !described["header "+name] {
			say("the header %s is not described", name)
		}
	}
	c.checkBody(o, r, body, say)
}

// literal is a parameter as JSON: a number where the schema wants one.
func (c *contract) literal(v string, p parameter) string {
	if c.fits(v, slices.Clone(p.place)...) == nil {
		return v
	}
	return string(marshal(v))
}

func (c *contract) checkBody(o *operation, r *http.Request, body string, say func(string, ...any)) {
	described := under(o.op, "requestBody")
	if body == "" {
		if described["required"] == true {
			say("a body is required")
		}
		return
	}
	kind := r.Header.Get("Content-Type")
	if o.id() != "patchKey" || kind == "" || strings.Contains(kind, "x-www-form-urlencoded") {
		kind = "application/json" // nobody else looks at it
	}
	kind, _, _ = strings.Cut(kind, ";")
	if under(described, "content", kind) == nil {
		say("a body of the type %q is not described", kind)
	} else if err := c.fits(body, "paths", o.path, o.method, "requestBody", "content", kind, "schema"); err != nil {
		say("the body does not fit: %v\n%.300s", err, body)
	}
}

// checked holds an exchange of a test to the contract.
func checked(t testing.TB, r *http.Request, status int, header http.Header, answer string) {
	t.Helper()
	c, err := theContract()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	var body []byte
	if r.GetBody != nil {
		if again, err := r.GetBody(); err == nil {
			body, _ = io.ReadAll(again)
		}
	}
	for _, fault := range c.check(r, string(body), status, header, answer) {
		t.Error(fault)
	}
}

// decoded is a copy of the document, to be changed by a test.
func decoded(t *testing.T) (doc map[string]any) {
	t.Helper()
	if err := json.Unmarshal(openapiJSON(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}
