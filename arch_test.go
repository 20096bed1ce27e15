// Package conclave_test holds the rules of the architecture as tests. Each rule
// says in its failure why it is one.
package conclave_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pkg is what the rules look at: one package as `go list` describes it.
type pkg struct {
	ImportPath, Name, Doc, Dir string
	GoFiles, Imports, Deps     []string
	TestImports, XTestImports  []string
}

// allowed lists, for every package of ours, which packages of ours it may
// import. cmd ─► api ─► cluster ─► fsm ─► lock; client and api share the wire
// types. A package that is not in this table fails the test: add it on purpose.
var allowed = map[string][]string{
	"conclave/lock":         {},
	"conclave/fsm":          {"conclave/lock"},
	"conclave/cluster":      {"conclave/fsm", "conclave/lock"},
	"conclave/client/wire":  {},
	"conclave/client":       {"conclave/client/wire"},
	"conclave/api":          {"conclave/cluster", "conclave/fsm", "conclave/lock", "conclave/client/wire"},
	"conclave/cmd/conclave": {"conclave/api", "conclave/cluster", "conclave/fsm", "conclave/lock", "conclave/client", "conclave/client/wire"},
	// What users read and run: it knows what their programs know.
	"conclave/docs/guides": {"conclave/client", "conclave/client/wire"},
	// Support for tests, never part of a binary (see testSupport).
	"conclave/cluster/sim": {"conclave/cluster", "conclave/fsm", "conclave/lock"},
}

// testSupport are packages that exist for tests of other packages, and so may
// import testing: the simulated cluster fails the test that it serves.
var testSupport = []string{"conclave/cluster/sim"}

// stdOnly may import nothing but the standard library and each other: lock is
// replicated state and must stay a leaf, wire is shared with every client.
var stdOnly = []string{"conclave/lock", "conclave/client/wire"}

// clientDeps is what the Go client may import besides: it is embedded in other
// people's servers, which should not inherit our dependencies.
var clientDeps = []string{"github.com/gorilla/websocket"}

// raftUsers are the packages that may know raft: fsm for its adapter (Machine).
var raftUsers = []string{"conclave/cluster", "conclave/fsm", "conclave/cluster/sim"}

// impure are the files of the pure packages that touch the world, each with the reason.
var impure = map[string]string{
	"fsm/machine.go":  "the adapter to raft: streams snapshots, publishes views",
	"fsm/ring.go":     "outside the replicated state; read by other goroutines under a lock",
	"fsm/snapshot.go": "writes the snapshot's stream",
	"fsm/restore.go":  "reads the snapshot's stream",
	"fsm/event.go":    "caches an event's encoding, once for all goroutines",
}

// worldly are imports through which time, chance or the outside could reach
// replicated state, so that two replicas would differ.
var worldly = []string{
	"time", "math/rand", "math/rand/v2", "crypto/rand", "os", "io", "bufio", "net", "net/http", "syscall",
	"log", "log/slog", "sync", "sync/atomic", "runtime", "context", "unsafe",
}

func TestArch_imports_go_down(t *testing.T) {
	for _, p := range list(t) {
		for _, complaint := range checkImports(p) {
			t.Error(complaint)
		}
	}
}

func checkImports(p pkg) (complaints []string) {
	say := func(format string, args ...any) {
		complaints = append(complaints, p.ImportPath+" "+fmt.Sprintf(format, args...))
	}
	ours, known := allowed[p.ImportPath]
	if !known {
		say("is not in the table of packages: say in arch_test.go what it may import")
	}
	for _, path := range p.Imports {
		std := !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") && !strings.HasPrefix(path, "conclave")
		switch {
		case strings.HasPrefix(path, "conclave/"):
			if !slices.Contains(ours, path) {
				say("imports %s: imports go down only (cmd, api, cluster, fsm, lock), so that each layer can be read and tested without those above it", path)
			}
		case path == "testing" || path == "testing/synctest" || path == "pgregory.net/rapid":
			if !slices.Contains(testSupport, p.ImportPath) {
				say("imports %s in production code: it would register test flags in the binary", path)
			}
		case std:
		case slices.Contains(stdOnly, p.ImportPath):
			say("imports %s: it may import the standard library only", path)
		case p.ImportPath == "conclave/client" && !slices.Contains(clientDeps, path):
			say("imports %s: programs that embed the client would inherit it", path)
		case strings.HasPrefix(path, "github.com/hashicorp/raft") && !slices.Contains(raftUsers, p.ImportPath):
			say("imports %s: package cluster is the only one that knows raft, so that it can be replaced or run in a simulation", path)
		}
	}
	for _, banned := range []string{"util", "utils", "common", "helper", "helpers", "types", "models", "pkg", "misc"} {
		if p.Name == banned {
			say("has a name that says nothing: name a package after what it provides")
		}
	}
	if p.Doc == "" {
		say("has no package comment: say what it guarantees, what it must never do, who calls it")
	}
	return complaints
}

func TestArch_the_binary_holds_no_test_code(t *testing.T) {
	// Not testing itself: hashicorp/raft has a helper file that imports it.
	banned := append([]string{"pgregory.net/rapid", "github.com/anishathalye/porcupine", "github.com/google/go-cmp/cmp", "github.com/santhosh-tekuri/jsonschema/v6"}, testSupport...)
	for _, p := range list(t) {
		if p.Name != "main" {
			continue
		}
		for _, dep := range p.Deps {
			if slices.Contains(banned, dep) {
				t.Errorf("%s depends on %s: test code would be part of the product", p.ImportPath, dep)
			}
		}
	}
}

// Every module that we import ourselves has a line in docs/decisions.md, which says
// what for, and no line is left when the import goes.
func TestArch_dependencies_have_reasons(t *testing.T) {
	page, err := os.ReadFile("docs/decisions.md")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{} // modules of the page
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z]+(?:\.[a-z]+)+/\S+) \| `).FindAllSubmatch(page, -1) {
		used[string(m[1])] = false
	}
	for _, p := range list(t) {
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
				continue // the standard library, or ours
			}
			module := ""
			for m := range used {
				if (path == m || strings.HasPrefix(path, m+"/")) && len(m) > len(module) {
					module = m
				}
			}
			if module == "" {
				t.Errorf("%s imports %s: its module needs a line in docs/decisions.md that says why", p.ImportPath, path)
				continue
			}
			used[module] = true
		}
	}
	for module, ok := range used {
		if !ok {
			t.Errorf("docs/decisions.md gives a reason for %s, which nothing imports", module)
		}
	}
}

func TestArch_lock_and_fsm_are_pure(t *testing.T) {
	for _, p := range list(t) {
		if p.ImportPath != "conclave/lock" && p.ImportPath != "conclave/fsm" {
			continue
		}
		for _, name := range p.GoFiles {
			file := strings.TrimPrefix(p.ImportPath, "conclave/") + "/" + name
			if impure[file] != "" {
				continue
			}
			for _, complaint := range checkPure(t, file, filepath.Join(p.Dir, name), nil) {
				t.Error(complaint)
			}
		}
	}
}

// checkPure looks for whatever could make two replicas that apply the same
// entries differ. src may be given instead of the file on disk.
func checkPure(t *testing.T, name, path string, src any) (complaints []string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	say := func(pos token.Pos, format string, args ...any) {
		complaints = append(complaints, fmt.Sprintf("%s:%d %s: replicas that apply the same entries would differ, or a reader would wait",
			name, fset.Position(pos).Line, fmt.Sprintf(format, args...)))
	}
	for _, imp := range file.Imports {
		imported, _ := strconv.Unquote(imp.Path.Value)
		if slices.Contains(worldly, imported) {
			say(imp.Pos(), "imports %s", imported)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			say(n.Pos(), "starts a goroutine")
		case *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
			say(n.Pos(), "uses a channel")
		case *ast.BasicLit, nil:
			return false
		}
		return true
	})
	return complaints
}

// A rule that cannot fail is no rule: each is shown to complain.
func TestArch_rules_can_fail(t *testing.T) {
	bad := map[string]pkg{
		"imports conclave/api":            {ImportPath: "conclave/fsm", Doc: "d", Imports: []string{"conclave/api"}},
		"imports testing":                 {ImportPath: "conclave/api", Doc: "d", Imports: []string{"testing"}},
		"standard library only":           {ImportPath: "conclave/lock", Doc: "d", Imports: []string{"github.com/tidwall/btree"}},
		"would inherit it":                {ImportPath: "conclave/client", Doc: "d", Imports: []string{"github.com/gin-gonic/gin"}},
		"only one that knows raft":        {ImportPath: "conclave/api", Doc: "d", Imports: []string{"github.com/hashicorp/raft"}},
		"no package comment":              {ImportPath: "conclave/fsm"},
		"not in the table":                {ImportPath: "conclave/new", Doc: "d"},
		"a name that says nothing":        {ImportPath: "conclave/api", Name: "util", Doc: "d"},
		"imports conclave/client: import": {ImportPath: "conclave/api", Doc: "d", Imports: []string{"conclave/client"}},
	}
	for want, p := range bad {
		if got := checkImports(p); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("a package that should be told %q got %q", want, got)
		}
	}
	good := pkg{ImportPath: "conclave/api", Doc: "d", Imports: []string{"io", "conclave/fsm", "github.com/gin-gonic/gin"}}
	if got := checkImports(good); got != nil {
		t.Errorf("a good package got %q", got)
	}

	for want, body := range map[string]string{
		"imports time":       `import "time"; var now = time.Now()`,
		"starts a goroutine": `func f() { go f() }`,
		"uses a channel":     `var c chan int`,
	} {
		if got := checkPure(t, "x.go", "x.go", "package fsm\n"+body); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("code that should be told %q got %q", want, got)
		}
	}
}

// list describes every package of the module.
func list(t *testing.T) (pkgs []pkg) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json", "./...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 { // the top level has nothing but this test
			pkgs = append(pkgs, p)
		}
	}
}
