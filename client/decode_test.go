package client

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// FuzzDecodeFrame: what is decoded here is what the standard library makes of it. The
// seeds are the samples of all messages, and what they do not show.
func FuzzDecodeFrame(f *testing.F) {
	files, err := filepath.Glob("../api/testdata/wire/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no samples: ", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var compact bytes.Buffer
		if json.Compact(&compact, data) == nil {
			f.Add(compact.Bytes())
		}
		f.Add(data)
	}
	for _, s := range []string{
		`{"id":7,"ok":{"rev":1,"version":2}}`, `{"id":7,"ok":null}`, `{"id":7,"ok":true ,"rev":1}`, `{"rev":9}`, `{"rev":null}`, `{}`,
		`{"events":[],"rev":3}`, `{"events":[{"type":"put","key":"a","value":[1,{"b":"]}\""}],"rev":3},{"type":"delete","key":"a","rev":4}],"rev":4}`,
		`{"events":[{"type":"put","key":"\u0061","rev":3}]}`, `{"events":[{"key":"ä"}]}`, `{"events":[{"by":{"kind":"peer","peer":"p"}}]}`,
		`{"id":1234567890123456789012}`, `{"id":1.5}`, `{"id":1e3}`, `{"id":-1}`, `{"ID":3}`, `{"id":3`, `{"id":3}}`, `{"id":03}`, `{"ok":tru}`, `[]`, `3`, ``,
		`{"events":[{"value":"a","value":"b"}],"events":[{"key":"c"}]}`, `{"events":[{"by":{"kind":"a"},"by":{"peer":"b"}}]}`, `{"events":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want := new(wire.Frame)
		wantErr := json.Unmarshal(data, want)
		got, err := decodeFrame(bytes.Clone(data))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s: %v, the standard library says %v", data, err, wantErr)
		}
		if err == nil {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: (-standard library +here)\n%s", data, diff)
			}
		}
	})
}

// TestDecodeFrame_TakesTheUsual: what servers send most is not left to the standard library.
func TestDecodeFrame_TakesTheUsual(t *testing.T) {
	for _, data := range []string{usualAnswer, usualEvents} {
		s := scan{in: []byte(data)}
		if !s.frame(new(wire.Frame)) || s.at != len(data) {
			t.Errorf("at byte %d it gives up on %s", s.at, data)
		}
	}
}

const (
	usualAnswer = `{"id":182,"ok":{"rev":18231,"version":17}}`
	usualEvents = `{"events":[{"type":"put","store":"default","key":"key-17","value":{"text":"The quick brown fox jumps over the lazy dog, and the [dog] \"sleeps\" on"},` +
		`"version":17,"rev":18231,"created_rev":33,"by":{"kind":"peer","peer":"p-83jd93jd"},"at":"2026-11-28T10:00:00.123Z"}],"rev":18231}`
)

func BenchmarkDecodeFrame(b *testing.B) {
	for name, data := range map[string]string{"answer": usualAnswer, "events": usualEvents} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decodeFrame([]byte(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
