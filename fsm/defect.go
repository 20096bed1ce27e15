//go:build !broken

package fsm

// What a build with the tag "broken" can do wrong, one at a time, so that tests can
// show that the simulation's checkers notice it (cluster/sim, TestBroken). In all
// other builds these are constants: nothing can switch them on, and the compiler
// leaves nothing of them.
const (
	unfenced  = false // a lock guards nothing
	untermed  = false // the timers of any leader count, also of one that was deposed
	forgetful = false // a repeated request is applied again
	eventless = false // of several frames of a room in one publication only the last is told
	torn      = false // what is refused half way stays half done
	undying   = false // what names a session is applied in whichever is live
)
