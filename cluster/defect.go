//go:build !broken

package cluster

// What a build with the tag "broken" can do wrong: see fsm/defect.go.
const (
	unconfirmed = false // a leader serves reads without asking whether it leads
	stubborn    = false // what a leader remembers outlives its term, and it acts on it when it leads again
	hasty       = false // a leader takes an entry for committed that its own disk does not have
	grudging    = false // a new leader gives a lease what is left of it by the log, which has no renewals
)
