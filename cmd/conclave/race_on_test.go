//go:build race

package main

// raceEnabled says that the suite runs under the race detector; then so does the
// binary that the end-to-end tests start.
const raceEnabled = true
