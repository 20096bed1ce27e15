package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"conclave/client/wire"
)

// The exit codes. A script tells from them whether to go on, to look at the
// answer, to mend its command line, or to try again.
const (
	exitDone        = 0
	exitRefused     = 1   // the cluster said no; its code is on stderr
	exitUsage       = 2   // the command line, the environment or the config file is wrong
	exitUnavailable = 3   // no answer, or an unknown outcome; of serve: it stopped itself
	exitTimedOut    = 124 // a wait ran out, as with timeout(1)
)

// usageError is a mistake on the command line, in the environment or in the
// config file: trying again without changing something is pointless.
type usageError struct{ err error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// exitError ends the process with a code of its own. A nil err says nothing.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// exitCode maps an error to the process's exit code.
func exitCode(err error) int {
	var (
		exit    *exitError
		usage   *usageError
		refused *wire.Error
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused):
		switch {
		case refused.Code == wire.LockTimeout:
			return exitTimedOut
		case wire.Codes[refused.Code].Retry == wire.RetryNever:
			return exitRefused
		}
	}
	return exitUnavailable
}

// report writes an error to stderr: its code first, so that a script can read
// it; with --json the error as the API gives it.
func report(w io.Writer, err error, asJSON bool) {
	var exit *exitError
	if errors.As(err, &exit) && exit.err == nil {
		return
	}
	var refused *wire.Error
	if !errors.As(err, &refused) {
		code := wire.Unavailable
		if exitCode(err) == exitUsage {
			code = "usage"
		} else if errors.Is(err, context.Canceled) {
			code = "interrupted"
		}
		refused = &wire.Error{Code: code, Message: err.Error(), Retry: wire.Codes[code].Retry}
	}
	if asJSON {
		line, _ := json.Marshal(refused) // of strings and decoded JSON: cannot fail
		fmt.Fprintf(w, "%s\n", line)
		return
	}
	fmt.Fprintln(w, refused.Error())
	if refused.Code == wire.Conflict && refused.Details["exists"] == true {
		fmt.Fprintf(w, "  it is at version %v, rev %v\n", refused.Details["version"], refused.Details["rev"])
	}
}
