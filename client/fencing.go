package client

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"conclave/client/wire"
)

// FenceHeader carries the fence of a lock to a resource outside of Conclave.
const FenceHeader = "Conclave-Fence"

// Fencing guards a resource outside of Conclave by fencing tokens, as Kleppmann
// describes them ("How to do distributed locking", 2016): the resource refuses a
// request whose fence is older than one that it has seen. So a holder that was
// paused, or whose request was under way for long, cannot undo what the next
// holder did, whatever any clock says.
//
// Looking at the fence first and working then is not enough: a request may pause
// in between. So requests with a newer fence end those with older ones (their
// context is cancelled) and wait until they have returned; those with the same
// fence run side by side.
//
// It is for exclusive locks. Those who share a lock, or hold its permits, have
// fences of their own, of which the oldest is as good as the newest. And it
// orders requests of one process: with several before one resource, the resource
// has to compare fences itself, in the same step in which it writes ("update …
// where fence <= ?"); FenceOf gives it the number.
type Fencing struct {
	// Resource names what a request is about, so that each has a fence of its own;
	// nil: all are about one. The name is usually the lock's key. Without Validate
	// there must be few names: each that was seen is kept.
	Resource func(*http.Request) string

	// Validate asks whether a fence is a current grant, as HTTP.Validate and
	// Room.Validate do, when a fence is newer than all before. Without it, anybody
	// could shut out all holders to come by a great number, and a holder that is
	// late but the last to write is let in; which is in order, but late.
	Validate func(ctx context.Context, resource string, fence uint64) (bool, error)
	// Always asks for every request, not only for the first with a fence.
	Always bool

	// Load and Save keep the newest fence of a resource where a restart of this
	// process does not lose it; Load answers 0 when there is none. Save is called
	// before the first request with a fence is let in. With Validate they are not
	// needed.
	Load func(ctx context.Context, resource string) (uint64, error)
	Save func(ctx context.Context, resource string, fence uint64) error
}

// Handler lets requests to next only in the order of their fences. Refusals are
// problem documents: 428 without a fence, 400 for what is none, 412 (stale_fence)
// for one that is over, 503 (unavailable) when that cannot be found out or the
// requests before do not end.
func (f Fencing) Handler(next http.Handler) http.Handler {
	return &fenceHandler{Fencing: f, next: next, gates: map[string]*gate{}}
}

// FenceOf is the fence with which Fencing let a request in; ok is false without.
func FenceOf(ctx context.Context) (fence uint64, ok bool) {
	fence, ok = ctx.Value(fenceKey{}).(uint64)
	return fence, ok
}

type fenceKey struct{}

type fenceHandler struct {
	Fencing
	next http.Handler

	mu    sync.Mutex
	gates map[string]*gate // guarded by mu
}

// gate is the entrance to one resource.
type gate struct {
	turn   chan struct{} // held by the one request that is entering
	loaded bool          // Load was asked; owned by who has the turn

	mu      sync.Mutex
	newest  uint64             // guarded by mu
	running map[*admitted]bool // requests that were let in and have not returned; guarded by mu
}

// admitted is a request that was let in.
type admitted struct {
	fence  uint64
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (f *fenceHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fence, status, bad := fenceHeader(r)
	if bad != nil {
		problem(w, status, bad)
		return
	}
	resource := ""
	if f.Resource != nil {
		resource = f.Resource(r)
	}
	ctx, e, no := f.enter(r.Context(), resource, fence)
	if no != nil {
		problem(w, wire.Codes[no.Code].Status, no)
		return
	}
	defer f.leave(resource, e)
	f.next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, fenceKey{}, fence)))
}

// fenceHeader reads the one header that a request must have.
func fenceHeader(r *http.Request) (fence uint64, status int, bad *wire.Error) {
	values := r.Header.Values(FenceHeader)
	if len(values) == 0 {
		return 0, http.StatusPreconditionRequired, wire.Errorf(wire.BadRequest, "%s: is missing; take the lock first", FenceHeader).With("field", FenceHeader)
	}
	fence, err := strconv.ParseUint(values[0], 10, 53)
	if err != nil || fence == 0 || len(values) > 1 {
		return 0, http.StatusBadRequest, wire.Errorf(wire.BadRequest, "%s: must be one number from 1 to 2^53-1", FenceHeader).With("field", FenceHeader)
	}
	return fence, 0, nil
}

// enter lets a request in, in its turn.
func (f *fenceHandler) enter(ctx context.Context, resource string, fence uint64) (context.Context, *admitted, *wire.Error) {
	g := f.gate(resource)
	if g != nil && g.isStale(fence) {
		return nil, nil, staleFence(resource, g)
	}
	if no := f.validate(ctx, g, resource, fence); no != nil {
		return nil, nil, no
	}
	if g = f.makeGate(resource); !g.take(ctx) {
		return nil, nil, wire.Errorf(wire.Unavailable, "requests before this one have not ended")
	}
	defer func() { <-g.turn }()
	if !g.loaded && f.Load != nil {
		newest, err := f.Load(ctx, resource)
		if err != nil {
			return nil, nil, wire.Errorf(wire.Unavailable, "the newest fence could not be read")
		}
		g.raise(newest)
	}
	g.loaded = true
	if g.isStale(fence) {
		return nil, nil, staleFence(resource, g)
	}
	if fence > g.newest {
		if f.Save != nil {
			if err := f.Save(ctx, resource, fence); err != nil {
				return nil, nil, wire.Errorf(wire.Unavailable, "the fence could not be kept")
			}
		}
		// From here on whoever is older is refused, whatever becomes of this request.
		g.raise(fence)
	}
	if !g.outlast(ctx, fence) {
		return nil, nil, wire.Errorf(wire.Unavailable, "a request of an earlier holder has not ended")
	}
	inner, cancel := context.WithCancelCause(ctx)
	e := &admitted{fence, cancel, make(chan struct{})}
	g.mu.Lock()
	g.running[e] = true
	g.mu.Unlock()
	return inner, e, nil
}

// validate asks about a fence that is new here. g is nil for a new resource.
func (f *fenceHandler) validate(ctx context.Context, g *gate, resource string, fence uint64) *wire.Error {
	if f.Validate == nil || !f.Always && g != nil && g.knows(fence) {
		return nil
	}
	switch valid, err := f.Validate(ctx, resource, fence); {
	case err != nil:
		return wire.Errorf(wire.Unavailable, "whether the fence is current could not be found out")
	case !valid:
		return wire.Errorf(wire.StaleFence, "fence %d is no current grant", fence).With("key", resource)
	}
	return nil
}

func (f *fenceHandler) gate(resource string) *gate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gates[resource]
}

func (f *fenceHandler) makeGate(resource string) *gate {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.gates[resource]
	if g == nil {
		g = &gate{turn: make(chan struct{}, 1), running: map[*admitted]bool{}}
		f.gates[resource] = g
	}
	return g
}

func (f *fenceHandler) leave(resource string, e *admitted) {
	g := f.gate(resource)
	g.mu.Lock()
	delete(g.running, e)
	g.mu.Unlock()
	e.cancel(nil)
	close(e.done)
}

func (g *gate) take(ctx context.Context) bool {
	select {
	case g.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g *gate) isStale(fence uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fence < g.newest
}

func (g *gate) knows(fence uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fence == g.newest
}

func (g *gate) raise(fence uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.newest = max(g.newest, fence)
}

// outlast ends the requests with older fences and waits until they have returned;
// false if ctx ends first.
func (g *gate) outlast(ctx context.Context, fence uint64) bool {
	g.mu.Lock()
	var older []*admitted
	for e := range g.running {
		if e.fence < fence {
			older = append(older, e)
		}
	}
	g.mu.Unlock()
	for _, e := range older {
		e.cancel(wire.Errorf(wire.StaleFence, "a holder with the newer fence %d has come", fence))
	}
	for _, e := range older {
		select {
		case <-e.done:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func staleFence(resource string, g *gate) *wire.Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return wire.Errorf(wire.StaleFence, "a holder with a newer fence was here").With("key", resource).With("fence", g.newest)
}

func problem(w http.ResponseWriter, status int, e *wire.Error) {
	body, err := json.Marshal(wire.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: e.Message, Code: e.Code, Retry: e.Retry, Details: e.Details,
	})
	if err != nil {
		panic("client: encode a problem: " + err.Error())
	}
	if e.Retry == wire.RetrySafe {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
