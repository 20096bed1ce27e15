package fsm

import (
	"bytes"
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestEqualJSON(t *testing.T) {
	equal := [][]string{
		{`1`, `1.0`, `10e-1`, `0.1e1`, `1E0`, `1e+0`, `0.01e2`, `100e-2`, ` 1 `},
		{`0`, `-0`, `0.000`, `0e99999999999999999999`, `-0E-5`},
		{`1e400`, `10e399`, `0.1e401`, "1" + strings.Repeat("0", 400)},
		{`-1.50`, `-15e-1`},
		{`1e-400`, `0.1e-399`},
		{`12345678901234567890.10`, `12345678901234567890.1`},
		{`"a"`, `"\u0061"`},
		{`"/"`, `"\/"`},
		{`"😀"`, `"\ud83d\ude00"`},
		{`"\n"`, `"\u000a"`, `"\u000A"`},
		{`"\ud800"`, `"\uD800"`},
		{`"é"`, `"\u00e9"`},
		{`{"a":1,"b":[2,{"c":null}]}`, `{ "b" : [2.0,{"c":null}] , "a" : 1e0 }`},
		{`[]`, `[ ]`},
		{`{}`, `{ }`},
		{`true`},
		{`null`},
	}
	for i, group := range equal {
		for _, a := range group {
			for j, other := range equal {
				for _, b := range other {
					if got := bytes.Equal(canonical([]byte(a)), canonical([]byte(b))); got != (i == j) {
						t.Errorf("canonical of %s and %s: %v", a, b, got)
					}
					if got := EqualJSON([]byte(a), []byte(b)); got != (i == j) {
						t.Errorf("%s and %s: %v", a, b, got)
					}
				}
			}
		}
	}
	for _, pair := range [][2]string{
		{`1`, `"1"`},
		{`[1,2]`, `[2,1]`},
		{`[1]`, `[1,1]`},
		{`{"a":1}`, `{"a":1,"b":1}`},
		{`{"a":1}`, `{"b":1}`},
		{`1e400`, `1e401`},
		{`"\ud800"`, `"\ufffd"`},
		{`"é"`, `"e\u0301"`},
		{`null`, `false`},
		{`1`, `-1`},
		{`[]`, `{}`},
		{`1e99999999999999999999`, `10e99999999999999999998`}, // beyond arithmetic: equal only as written
		{`01`, `1`},
		{`1.`, `1`},
		{`+1`, `1`},
		{`.5`, `0.5`},
		{`1 2`, `1`},
		{`"a`, `"a"`},
		{`{"a":1,"a":1}`, `{"a":1}`},
	} {
		if EqualJSON([]byte(pair[0]), []byte(pair[1])) || bytes.Equal(canonical([]byte(pair[0])), canonical([]byte(pair[1]))) {
			t.Errorf("%s and %s are equal", pair[0], pair[1])
		}
	}
}

// TestEqualJSON_IsBounded: neither depth nor exponents cost more than their text.
func TestEqualJSON_IsBounded(t *testing.T) {
	deep := strings.Repeat("[", 1<<19)
	if EqualJSON([]byte(deep), []byte(deep+" ")) {
		t.Error("half a text is a value")
	}
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if !EqualJSON(nested(maxJSONDepth), append(nested(maxJSONDepth), ' ')) {
		t.Error("nested as deep as allowed")
	}
	if EqualJSON(nested(maxJSONDepth+2), append(nested(maxJSONDepth+2), ' ')) {
		t.Error("nested deeper than allowed")
	}
	allocs := testing.AllocsPerRun(10, func() { EqualJSON([]byte(`1e999999999999`), []byte(`10e999999999998`)) })
	if allocs > 20 {
		t.Errorf("%v allocations for an exponent", allocs)
	}
}

// FuzzEqualJSON compares with encoding/json and exact fractions, where those can
// say.
func FuzzEqualJSON(f *testing.F) {
	for _, pair := range [][2]string{
		{`1`, `1.0`},
		{`{"a":[1,2e3]}`, `{"a":[1,2000]}`},
		{`"\ud83d\ude00"`, `"😀"`},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`},
		{`1e400`, `1e-400`},
		{`[[[]]]`, `[[{}]]`},
		{`-0`, `0`},
		{`"\u0000"`, `""`},
	} {
		f.Add([]byte(pair[0]), []byte(pair[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		got := EqualJSON(a, b)
		if got != EqualJSON(b, a) || got != bytes.Equal(canonical(a), canonical(b)) {
			t.Fatal("not symmetric, or the canonical texts say otherwise")
		}
		if !EqualJSON(a, append([]byte(nil), a...)) {
			t.Fatal("not equal to itself")
		}
		x, ok := reference(t, a)
		if !ok {
			return
		}
		if spaced := append(append([]byte(" "), a...), ' '); !EqualJSON(a, spaced) {
			t.Fatalf("%q: white space matters", a)
		}
		if y, ok := reference(t, b); ok {
			if want := reflect.DeepEqual(x, y); got != want {
				t.Fatalf("%q and %q: got %v, want %v", a, b, got, want)
			}
		}
	})
}

// reference is a value by the standard library, its numbers as exact fractions;
// ok is false for what it sees otherwise than EqualJSON: broken UTF-8, lone
// surrogates, double members, exponents too large to expand, depth.
func reference(t *testing.T, text []byte) (v any, ok bool) {
	_, parsed := parseJSON(text)
	if !json.Valid(text) {
		if parsed {
			t.Fatalf("%q is no JSON, and was parsed", text)
		}
		return nil, false
	}
	if strings.Contains(strings.ToLower(string(text)), `\ud`) || !utf8.Valid(text) || len(text) > 1<<16 {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if !parsed { // double members, or too deep: the only things that JSON allows and EqualJSON does not
		if count(v) == bytes.Count(text, []byte(":"))-colons(v) && bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")) < maxJSONDepth {
			t.Fatalf("%q is JSON, and was not parsed", text)
		}
		return nil, false
	}
	return fractions(v)
}

// count is the number of members of all objects in a value, colons that of
// colons in its strings.
func count(v any) (n int) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			n += count(item)
		}
	case map[string]any:
		for _, item := range v {
			n += 1 + count(item)
		}
	}
	return n
}

func colons(v any) (n int) {
	switch v := v.(type) {
	case string:
		n = strings.Count(v, ":")
	case []any:
		for _, item := range v {
			n += colons(item)
		}
	case map[string]any:
		for name, item := range v {
			n += strings.Count(name, ":") + colons(item)
		}
	}
	return n
}

// fractions writes numbers as fractions; ok is false if one is too large to.
func fractions(v any) (any, bool) {
	switch v := v.(type) {
	case json.Number:
		_, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
		if len(exponent) > 4 {
			return nil, false
		}
		r, ok := new(big.Rat).SetString(v.String())
		if !ok {
			return nil, false
		}
		return r.String(), true
	case string:
		return "string " + v, true // never equal to a fraction
	case []any:
		for i := range v {
			var ok bool
			if v[i], ok = fractions(v[i]); !ok {
				return nil, false
			}
		}
	case map[string]any:
		for name := range v {
			var ok bool
			if v[name], ok = fractions(v[name]); !ok {
				return nil, false
			}
		}
	}
	return v, true
}

// TestEqualJSON_Large: comparing the largest values there are stays cheap enough
// for the one goroutine that applies.
func TestEqualJSON_Large(t *testing.T) {
	var b strings.Builder
	b.WriteString("{")
	for i := range 30_000 {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(`"` + time.Duration(i).String() + `":-9e0`)
	}
	b.WriteString("}")
	text := b.String()
	other := strings.ReplaceAll(text, "-9e0", "-9")
	if !json.Valid([]byte(text)) || !EqualJSON([]byte(text), []byte(other)) {
		t.Error("a large object is not equal to itself")
	}
}
