package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCompactJSON(t *testing.T) {
	deep := strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)
	many := func(last string) string {
		var b strings.Builder
		for i := range 40 {
			fmt.Fprintf(&b, `"m%d":1,`, i)
		}
		return "{" + b.String() + last + "}"
	}
	for name, tc := range map[string]struct{ in, want string }{
		"digits stay":                    {`1.50e+400`, `1.50e+400`},
		"negative zero stays":            {`-0`, `-0`},
		"white space goes":               {" {\t\"a\" : [ 1 ,\n2 ] , \"b c\":\" d \" }\r\n", `{"a":[1,2],"b c":" d "}`},
		"leading white space only":       {"  true", `true`},
		"trailing white space only":      {"null \n", `null`},
		"escapes stay":                   {`"\u0041\/\ud83d\ude00"`, `"\u0041\/\ud83d\ude00"`},
		"half a surrogate pair stays":    {`"\ud800"`, `"\ud800"`},
		"UTF-8 stays":                    {`"ß😀"`, `"ß😀"`},
		"the deepest":                    {deep, deep},
		"many members":                   {many(`"n":1`), many(`"n":1`)},
		"same name in different objects": {`{"a":{"a":1},"b":{"a":1}}`, `{"a":{"a":1},"b":{"a":1}}`},
		"halves of pairs are two names":  {`{"\ud800":1,"\ud801":2}`, `{"\ud800":1,"\ud801":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compactJSON([]byte(tc.in), "value")
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	for name, in := range map[string]string{
		"nothing":                        "",
		"white space":                    "  ",
		"two values":                     "1 2",
		"a comma after the last item":    "[1,]",
		"a comma after the last member":  `{"a":1,}`,
		"no comma":                       "[1 2]",
		"an end too early":               `{"a":[1,2`,
		"a string without end":           `"abc`,
		"an escape without end":          `"\`,
		"a short escape":                 `"\u12"`,
		"an unknown escape":              `"\x41"`,
		"a control character":            "\"a\nb\"",
		"no UTF-8":                       "\"\xff\"",
		"a surrogate in UTF-8":           "\"\xed\xa0\x80\"",
		"a leading zero":                 "012",
		"a bare point":                   "1.",
		"a bare exponent":                "1e",
		"a plus":                         "+1",
		"NaN":                            "NaN",
		"a literal cut short":            "tru",
		"single quotes":                  "'a'",
		"a comment":                      "1//",
		"a name that is no string":       `{1:2}`,
		"a duplicate":                    `{"a":1,"a":2}`,
		"a duplicate in escapes":         `{"a":1,"\u0061":2}`,
		"a duplicate deep down":          `[{"x":[{"a":1,"b":{},"a":2}]}]`,
		"a duplicate after an inner one": `{"a":{"b":1},"c":{"b":1,"d":2},"a":3}`,
		"a duplicate among many":         many(`"m2":1`),
		"the last of many twice":         many(`"m39":1`),
		"too deep":                       "[" + deep + "]",
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			if got, err := compactJSON([]byte(in), "value"); err == nil {
				t.Errorf("got %s, want an error", got)
			} else if err.Code != "bad_request" || err.Details["field"] != "value" {
				t.Errorf("got %v %v, want a bad_request that names the field", err, err.Details)
			}
		})
	}
}

// A text that needs no change is not copied: values of puts are passed on as they
// came in.
func TestCompactJSON_copiesNothingWithoutWhiteSpace(t *testing.T) {
	in := []byte(`{"a":[1,2,"x"]}`)
	got, err := compactJSON(in, "value")
	if err != nil {
		t.Fatal(err)
	}
	if &got[0] != &in[0] {
		t.Error("the text was copied")
	}
}

// FuzzCompactJSON holds the scanner against the standard library, which accepts
// more: duplicates, bad UTF-8, any depth.
func FuzzCompactJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e3,"x\n\u00e4"],"b":{"c":null}}`, ` [true , false] `, `{"a":1,"\u0061":2}`, `"\ud800"`, `-0.0`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.Clone(data)
		got, refused := compactJSON(data, "value")
		if !bytes.Equal(in, data) {
			t.Fatal("the input was changed")
		}
		if refused != nil {
			return
		}
		if !json.Valid(in) || !utf8.Valid(in) {
			t.Fatalf("accepted %q", in)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, in); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("got %q, want %q", got, want.Bytes())
		}
		if got[0] == '{' {
			var names map[string]json.RawMessage
			if err := json.Unmarshal(got, &names); err != nil {
				t.Fatal(err)
			}
			o := split(got, "", &fault{})
			for _, m := range o.members {
				// encoding/json turns half a surrogate pair into U+FFFD.
				if raw, ok := names[string(m.name)]; ok && !bytes.Equal(raw, m.raw) {
					t.Fatalf("member %q: got %q, want %q", m.name, m.raw, raw)
				}
			}
		}
	})
}

func BenchmarkCompactJSON(b *testing.B) {
	frame := []byte(`{"id":12,"do":"put","key":"poll/7","value":{"question":"` + strings.Repeat("x", 200) + `","options":[1,2,3]}}`)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		o, err := parseObject(frame, "frame")
		if err != nil || o.raw("value") == nil {
			b.Fatal(err)
		}
	}
}
