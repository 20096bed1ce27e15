package conclave_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	// ofVendors are tests of what another system's users are used to, or ask for.
	ofVendors = regexp.MustCompile(`^Test(100ms|RealtimeKit|Daily|UsersAsk)_`)
	quoted    = regexp.MustCompile("`(Test\\w+)`")
)

// Who moves here reads docs/migrating.md: every row of its tables has a test that
// shows it, and every test that bears a vendor's name has its row.
func TestMigrating_rows_and_tests_match(t *testing.T) {
	page, err := os.ReadFile("docs/migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	rows := 0
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasSuffix(line, "| test |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		names := quoted.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 3 || len(names) == 0 {
			t.Errorf("this row names no test: %s", line)
		}
		for _, m := range names {
			named[m[1]] = true
		}
	}
	if rows < 40 {
		t.Errorf("found %d rows: this test does not read them any more", rows)
	}

	tests := declaredTests(t)
	for name, path := range tests {
		if ofVendors.MatchString(name) && !named[name] {
			t.Errorf("%s: docs/migrating.md has no row for %s", path, name)
		}
	}
	for name := range named {
		if tests[name] == "" {
			t.Errorf("docs/migrating.md names %s, which does not exist", name)
		}
	}
}
