package conclave_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// heading is a promise in docs/guarantees.md: its number.
	heading = regexp.MustCompile(`(?m)^## (G\d+) `)
	// declared is a test that shows promises: TestG3_…, or TestG3_G7_… for two.
	declared = regexp.MustCompile(`(?m)^func (Test((?:G\d+_)+)\w+)\(t \*testing\.T\)`)
	// cited is such a test's name where the page speaks of it.
	cited = regexp.MustCompile("`(TestG\\d+_\\w+)`")
)

// A promise without a test would be a wish, and a test whose promise nobody wrote
// down would guard something that may be dropped unnoticed.
func TestGuarantees_promises_and_tests_match(t *testing.T) {
	page, err := os.ReadFile("docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	promised := map[string]bool{}
	for _, m := range heading.FindAllSubmatch(page, -1) {
		promised[string(m[1])] = true
	}
	tests, shown := map[string]bool{}, map[string]bool{}
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
			for _, number := range strings.Split(strings.Trim(string(m[2]), "_"), "_") {
				if shown[number] = true; !promised[number] {
					t.Errorf("%s: %s shows %s, which docs/guarantees.md does not promise", path, m[1], number)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for number := range promised {
		if !shown[number] {
			t.Errorf("docs/guarantees.md promises %s, and no test Test%s_… shows it", number, number)
		}
	}
	for _, m := range cited.FindAllSubmatch(page, -1) {
		if !tests[string(m[1])] {
			t.Errorf("docs/guarantees.md speaks of %s, which does not exist", m[1])
		}
	}
	if len(promised) < 10 || len(tests) < 10 {
		t.Errorf("found %d promises and %d tests: this test does not read them any more", len(promised), len(tests))
	}
}
