//go:build !broken

package sim

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCheckers_CatchBrokenBuilds builds Conclave without one guard after the other
// (fsm/defect.go) and has the checkers notice. That is a build of its own: nothing
// in this one can be switched off.
func TestCheckers_CatchBrokenBuilds(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-tags=broken", "-run=^TestBroken$", "-v", ".")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	caught := 0
	for line := range strings.Lines(string(out)) {
		if _, what, ok := strings.Cut(line, "caught without "); ok {
			caught++
			t.Log(strings.TrimSpace(what))
		}
	}
	if caught != 9 {
		t.Errorf("%d of 9 defects were tried:\n%s", caught, out)
	}
}
