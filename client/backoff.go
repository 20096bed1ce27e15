package client

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff bounds between attempts: exponential with full jitter, so that the
// clients of a lost node do not come back to the next one in step.
const (
	backoffBase = 100 * time.Millisecond
	backoffCap  = 5 * time.Second
)

// backoff is the wait before attempt n (0 is the first one after a failure).
func backoff(n int) time.Duration {
	bound := backoffCap
	if n < 6 { // 100 ms << 6 is over the cap
		bound = min(backoffBase<<n, backoffCap)
	}
	return rand.N(bound)
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
