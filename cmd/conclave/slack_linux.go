package main

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is by how much the kernel may delay a node's timers.
const timerSlack = time.Millisecond

// coarsenTimers lets the kernel wake this process's threads up to a millisecond late
// instead of 50 µs, which no deadline of a node notices. While one of its threads waits
// for the disk, Go's runtime looks after that every 20 µs; with some hundred fsyncs a
// second, this took a fifth of a node's processor time.
//
// Threads inherit the setting, and the runtime's own exist before main begins. So it
// is set on the main thread and the program begun once more in its place, as the same
// process, which its parent does not notice. Where that cannot be, it goes on without.
func coarsenTimers() {
	if unix.Gettid() != os.Getpid() {
		return // the new program would lack what belongs to the main thread: dev's hold on its children
	}
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(slack) >= timerSlack {
		return // there is none; or it is set, by an earlier call or by the service manager
	}
	self, err := os.Executable() // not /proc/self/exe, by whose last word top would call it
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(self, os.Args, os.Environ())
}
