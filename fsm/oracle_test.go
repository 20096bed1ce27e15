package fsm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"pgregory.net/rapid"
)

// TestCompute_AgreesWithALibrary compares patches with those of a library that many
// use, in what both of them can: it compares numbers as they are written, takes a
// missing member for null, and knows objects and arrays only as whole values.
func TestCompute_AgreesWithALibrary(t *testing.T) {
	options := jsonpatch.NewApplyOptions()
	options.SupportNegativeIndices, options.EscapeHTML = false, false
	both := 0
	rapid.Check(t, func(t *rapid.T) {
		one := func(label string) string {
			text := rapid.Custom(func(t *rapid.T) string { return drawJSON(t, 2) }).Filter(func(s string) bool {
				return s[0] == '{' || s[0] == '['
			}).Draw(t, label)
			return strings.ReplaceAll(text, "1.0", "7")
		}
		doc, steps, merge := one("document"), oracleSteps(t), one("merge")
		w := newWorld(t)
		ada := w.joined("r")
		do := func(value string, steps bool) Result {
			w.must(single("r", ada, putOp("k", doc)))
			return w.one(single("r", ada, Operation{Kind: OpPatch, Key: "k", Value: []byte(value), Steps: steps}))
		}

		if doc[0] == '{' && merge[0] == '{' {
			want, err := jsonpatch.MergePatch([]byte(doc), []byte(merge))
			if got := do(merge, false).Ops[0].Value; err != nil || !EqualJSON(got, want) {
				t.Fatalf("%s merged with %s: got %s, want %s %v", doc, merge, got, want, err)
			}
		}
		patch, err := jsonpatch.DecodePatch([]byte(steps))
		if err != nil {
			t.Fatal(err)
		}
		want, err := patch.ApplyWithOptions([]byte(doc), options)
		r := do(steps, true)
		switch {
		case r.Refusal != nil && err == nil:
			t.Fatalf("%s with %s: refused %v, want %s", doc, steps, r.Refusal, want)
		case r.Refusal != nil:
			if failed := errors.Is(err, jsonpatch.ErrTestFailed); failed && code(r) != CodeConflict && code(r) != CodeWrongType {
				t.Fatalf("%s with %s: got %v, want %v", doc, steps, r.Refusal, err)
			}
		case err != nil:
			if !strings.Contains(steps, `"path":""`) { // a whole value of another kind
				t.Fatalf("%s with %s: got %s, want %v", doc, steps, r.Ops[0].Value, err)
			}
		case !EqualJSON(r.Ops[0].Value, want):
			t.Fatalf("%s with %s: got %s, want %s", doc, steps, r.Ops[0].Value, want)
		default:
			both++
		}
	})
	if both < 10 {
		t.Errorf("only %d patches were applied by both", both)
	}
}

// oracleSteps is a JSON patch without what the library sees otherwise.
func oracleSteps(t *rapid.T) string {
	path := func() string {
		return strings.Join(slices.Concat([]string{""}, rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "0", "1", "-"}), 0, 2).Draw(t, "path")), "/")
	}
	var steps []string
	for range rapid.IntRange(1, 3).Draw(t, "steps") {
		value := strings.ReplaceAll(drawJSON(t, 1), "1.0", "7")
		from, at := path(), path()
		switch op := rapid.SampledFrom([]string{"add", "replace", "test", "copy", "move", "remove"}).Draw(t, "op"); {
		case op == "test" && value == "null", at == "" && op != "add" && op != "replace", from == "":
		case op == "copy" || op == "move":
			if !strings.HasPrefix(at+"/", from+"/") {
				steps = append(steps, fmt.Sprintf(`{"op":%q,"from":%q,"path":%q}`, op, from, at))
			}
		case op == "remove":
			steps = append(steps, fmt.Sprintf(`{"op":%q,"path":%q}`, op, at))
		default:
			steps = append(steps, fmt.Sprintf(`{"op":%q,"path":%q,"value":%s}`, op, at, value))
		}
	}
	return "[" + strings.Join(steps, ",") + "]"
}
