package fsm

// State is the replicated state. It is pure: Apply reads no clock, draws no
// random number, does no I/O and starts no goroutine; equal states that apply
// equal proposals stay equal. One goroutine owns it; readers use Views.
type State struct {
	rev, index uint64
	now        int64
}
