package cluster

import (
	"fmt"
	"runtime/debug"
)

// DamagedError says that a file of the data directory is not as it was written:
// the disk has changed it. Nothing that stands on it can be trusted, least of all
// the node's vote, so such a node neither starts nor goes on.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }

func damaged(path, format string, args ...any) error {
	return &DamagedError{path, fmt.Errorf(format, args...)}
}

// guard turns a panic of bolt, and a memory fault where its file has become
// shorter, into an error: bolt trusts its pages. Use it as `defer guard(path, &err)()`.
func guard(path string, err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			*err = damaged(path, "%v", r)
		}
	}
}
