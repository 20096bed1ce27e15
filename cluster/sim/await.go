package sim

import (
	"testing"
	"time"
)

// patience bounds every wait for a condition: generous, so that it ends broken
// tests only.
const patience = 2 * time.Minute

// await polls until a condition holds, and ends the test if it never does.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
