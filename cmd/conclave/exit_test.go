package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"conclave/client/wire"
)

func TestExitCode_of_every_code_on_the_wire(t *testing.T) {
	for code, class := range wire.Codes {
		want := exitRefused
		switch {
		case code == wire.LockTimeout:
			want = exitTimedOut
		case class.Retry != wire.RetryNever:
			want = exitUnavailable
		}
		if got := exitCode(fmt.Errorf("wrapped: %w", wire.Errorf(code, "x"))); got != want {
			t.Errorf("%s: exit code %d, want %d", code, got, want)
		}
	}
	if got := exitCode(nil); got != exitDone {
		t.Errorf("no error: exit code %d", got)
	}
	if got := exitCode(errors.New("some file")); got != exitUnavailable {
		t.Errorf("any error: exit code %d", got)
	}
}

func TestReport_puts_the_code_first(t *testing.T) {
	conflict := wire.Errorf(wire.Conflict, "moved on").With("exists", true).With("version", 3.0).With("rev", 1041.0)
	for _, c := range []struct {
		err    error
		asJSON bool
		want   string
	}{
		{wire.Errorf(wire.Locked, "by ada"), false, "locked: by ada\n"},
		{fmt.Errorf("in a call: %w", conflict), false, "conflict: moved on\n  it is at version 3, rev 1041\n"},
		{conflict, true, `{"code":"conflict","message":"moved on","retry":"never","details":{"exists":true,"rev":1041,"version":3}}` + "\n"},
		{usagef("no such flag"), false, "usage: no such flag\n"},
		{errors.New("disk full"), false, "unavailable: disk full\n"},
		{fmt.Errorf("get: %w", context.Canceled), false, "interrupted: get: context canceled\n"},
		{&exitError{7, nil}, false, ""},
	} {
		var out bytes.Buffer
		report(&out, c.err, c.asJSON)
		if out.String() != c.want {
			t.Errorf("report(%v) wrote %q, want %q", c.err, &out, c.want)
		}
	}
}
