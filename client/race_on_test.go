//go:build race

package client

import "runtime"

// Go 1.26 fires timers of one bubble on several threads at once, with one context for
// the race detector, which then crashes (unlockAndRun in runtime/time.go). On one
// thread it does not, and it finds races by the order of events, not by luck.
func init() { runtime.GOMAXPROCS(1) }
