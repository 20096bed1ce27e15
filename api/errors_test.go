package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

func unavailable(reason string) error    { return &cluster.UnavailableError{Reason: reason} }
func unknownOutcome(reason string) error { return &cluster.UnknownError{Reason: reason} }

func TestWireError(t *testing.T) {
	for name, tc := range map[string]struct {
		err     error
		code    wire.Code
		retry   wire.Retry
		details string
	}{
		"not handed over":   {unavailable("no leader"), "unavailable", "safe", `null`},
		"maybe applied":     {fmt.Errorf("put: %w", unknownOutcome("lost")), "unknown_outcome", "unknown", `null`},
		"given up":          {context.Canceled, "unknown_outcome", "unknown", `null`},
		"out of time":       {context.DeadlineExceeded, "unknown_outcome", "unknown", `null`},
		"a bug":             {errors.New("secret"), "internal", "unknown", `null`},
		"the protocol's":    {wire.Errorf(wire.RateLimited, "slow down").With("retry_after_ms", 70), "rate_limited", "safe", `{"retry_after_ms":70}`},
		"conflict":          {&fsm.Refusal{Code: fsm.CodeConflict, Details: fsm.Details{Key: "k", Exists: ptr(true), Version: 3, Rev: 9, Value: []byte(`"<"`)}}, "conflict", "never", `{"exists":true,"key":"k","rev":9,"value":"<","version":3}`},
		"conflict, absent":  {&fsm.Refusal{Code: fsm.CodeConflict, Details: fsm.Details{Key: "k", Exists: ptr(false)}}, "conflict", "never", `{"exists":false,"key":"k","rev":0,"version":0}`},
		"other membership":  {&fsm.Refusal{Code: fsm.CodeConflict, Details: fsm.Details{Rev: 7}}, "conflict", "never", `{"rev":7}`},
		"locked":            {&fsm.Refusal{Code: fsm.CodeLocked, Details: fsm.Details{Store: "s", Key: "k", Owner: "p1", Fence: 8}}, "locked", "never", `{"fence":8,"key":"k","owner":"p1","store":"s"}`},
		"stale fence, free": {&fsm.Refusal{Code: fsm.CodeStaleFence, Details: fsm.Details{Key: "k"}}, "stale_fence", "never", `{"key":"k"}`},
		"over a limit":      {&fsm.Refusal{Code: fsm.CodeLimitExceeded, Details: fsm.Details{Limit: "stores", Max: 0, Actual: 1}}, "limit_exceeded", "never", `{"actual":1,"limit":"stores","max":0}`},
		"wrong type":        {&fsm.Refusal{Code: fsm.CodeWrongType, Details: fsm.Details{Key: "k", Type: "number"}}, "wrong_type", "never", `{"key":"k","type":"number"}`},
		"in a transaction":  {&fsm.Refusal{Code: fsm.CodeNotHolder, Details: fsm.Details{Index: ptr(0)}}, "not_holder", "never", `{"index":0}`},
		"forgotten":         {&fsm.Refusal{Code: fsm.CodeUnknownOutcome, Details: fsm.Details{Reason: "forgotten"}}, "unknown_outcome", "never", `{"reason":"forgotten"}`},
		"stale generation":  {&fsm.Refusal{Code: fsm.CodeUnavailable, Details: fsm.Details{Reason: "stale_generation"}}, "unavailable", "safe", `{"reason":"stale_generation"}`},
		"a field":           {&fsm.Refusal{Code: fsm.CodeBadRequest, Details: fsm.Details{Field: "id"}}, "bad_request", "never", `{"field":"id"}`},
		"an unknown code":   {&fsm.Refusal{Code: "odd"}, "internal", "unknown", `null`},
	} {
		t.Run(name, func(t *testing.T) {
			got := wireError(tc.err)
			if got.Code != tc.code || got.Retry != tc.retry {
				t.Errorf("got %s, %s; want %s, %s", got.Code, got.Retry, tc.code, tc.retry)
			}
			if got.Message == "" || got.Message == "secret" {
				t.Errorf("got the message %q", got.Message)
			}
			if diff := cmp.Diff(tc.details, string(marshal(got.Details))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every code that the state machine can answer is in the protocol's table.
func TestRefusal_knowsEveryCode(t *testing.T) {
	for _, code := range []fsm.Code{
		fsm.CodeBadRequest, fsm.CodeForbidden, fsm.CodeNotFound, fsm.CodeNoSession, fsm.CodeConflict, fsm.CodeLocked,
		fsm.CodeStaleFence, fsm.CodeNotHolder, fsm.CodeLockTimeout, fsm.CodeWrongType, fsm.CodeLimitExceeded,
		fsm.CodeSessionEnded, fsm.CodeUnavailable, fsm.CodeUnknownOutcome, fsm.CodeInternal,
	} {
		if got := refusal(&fsm.Refusal{Code: code}); string(got.Code) != string(code) {
			t.Errorf("%s became %s", code, got.Code)
		}
	}
}
