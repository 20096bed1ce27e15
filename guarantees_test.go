package conclave_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	// heading is a promise in docs/guarantees.md: its number.
	heading = regexp.MustCompile(`(?m)^## (G\d+) `)
	// shows is the name of a test that shows promises: TestG3_…, or TestG3_G7_… for two.
	shows = regexp.MustCompile(`^Test((?:G\d+_)+)\w+`)
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
	tests, shown, showing := declaredTests(t), map[string]bool{}, 0
	for name, path := range tests {
		m := shows.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		showing++
		for number := range strings.SplitSeq(strings.Trim(m[1], "_"), "_") {
			if shown[number] = true; !promised[number] {
				t.Errorf("%s: %s shows %s, which docs/guarantees.md does not promise", path, name, number)
			}
		}
	}
	for number := range promised {
		if !shown[number] {
			t.Errorf("docs/guarantees.md promises %s, and no test Test%s_… shows it", number, number)
		}
	}
	for _, m := range cited.FindAllSubmatch(page, -1) {
		if tests[string(m[1])] == "" {
			t.Errorf("docs/guarantees.md speaks of %s, which does not exist", m[1])
		}
	}
	if len(promised) < 10 || showing < 10 {
		t.Errorf("found %d promises and %d tests: this test does not read them any more", len(promised), showing)
	}
}
