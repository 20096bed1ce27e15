package fsm

import (
	"maps"
	"slices"

	"pgregory.net/rapid"
)

// modelLock is a lock of the model: who holds it, in which mode, and who waits.
type modelLock struct {
	shared    bool
	permits   int
	holders   []modelHold
	queue     []modelWait
	notBefore int64
}

type modelHold struct {
	owner    string
	fence    uint64
	delay    int64
	onDetach bool
}

type modelWait struct {
	owner    string
	until    int64
	shared   bool
	permits  int
	delay    int64
	onDetach bool
}

func (l *modelLock) clone() *modelLock {
	c := *l
	c.holders, c.queue = slices.Clone(l.holders), slices.Clone(l.queue)
	return &c
}

// hold is what an owner has of the lock; of no lock nobody has anything.
func (l *modelLock) hold(owner string) *modelHold {
	if l != nil {
		for i := range l.holders {
			if l.holders[i].owner == owner {
				return &l.holders[i]
			}
		}
	}
	return nil
}

func (l *modelLock) held() bool { return l != nil && len(l.holders) > 0 }

// covers tells whether who holds the lock has what w asks for.
func (l *modelLock) covers(w modelWait) bool {
	alone := !l.shared && l.permits == 1
	return alone || l.shared && w.shared || !l.shared && !w.shared && l.permits == w.permits
}

func (l *modelLock) admits(w modelWait, now int64) bool {
	if l.notBefore > now {
		return false
	}
	room := len(l.holders) == 0 || l.shared || len(l.holders) < l.permits
	return room && (len(l.holders) == 0 || w.shared == l.shared && (l.shared || w.permits == l.permits))
}

// grant gives a lock to w. No two grants of a key have one fence.
func (m *model) grant(key string, w modelWait, rev uint64) {
	l := m.locks[key]
	fence := max(rev, m.fences[key]+1)
	m.fences[key], m.top = fence, max(m.top, fence)
	if len(l.holders) == 0 {
		l.shared, l.permits = w.shared, w.permits
	}
	l.notBefore = 0
	l.holders = append(l.holders, modelHold{w.owner, fence, w.delay, w.onDetach})
}

// settle lets the line of a lock move up; granted is whether it did.
func (m *model) settle(key string, rev uint64) (granted bool) {
	l := m.locks[key]
	if l.notBefore <= m.now {
		l.notBefore = 0
	}
	for len(l.queue) > 0 && l.admits(l.queue[0], m.now) {
		first := l.queue[0]
		m.grant(key, first, rev)
		l.queue = slices.DeleteFunc(l.queue, func(w modelWait) bool { return w.owner == first.owner && l.covers(w) })
		granted = true
	}
	if len(l.holders)+len(l.queue) == 0 && l.notBefore == 0 {
		delete(m.locks, key)
	}
	return granted
}

// free ends what is held of a lock by those for whom ends is true. If they lapsed,
// their delay follows.
func (m *model) free(key string, rev uint64, lapsed bool, ends func(*modelHold) bool) (ended bool) {
	l := m.locks[key]
	if l == nil {
		return false
	}
	var kept []modelHold
	for _, h := range l.holders {
		if !ends(&h) {
			kept = append(kept, h)
			continue
		}
		ended = true
		if lapsed && h.delay > 0 {
			l.notBefore = max(l.notBefore, m.now+h.delay)
		}
	}
	if l.holders = kept; ended {
		m.settle(key, rev)
	}
	return ended
}

// untie ends what a peer has of locks and their lines; on detach only what was
// asked to end then.
func (m *model) untie(peer string, rev uint64, lapsed, detach bool) {
	for _, key := range slices.Collect(maps.Keys(m.locks)) {
		l := m.locks[key]
		n := len(l.queue)
		l.queue = slices.DeleteFunc(l.queue, func(w modelWait) bool { return w.owner == peer && (w.onDetach || !detach) })
		if len(l.queue) < n {
			m.settle(key, rev)
		}
		m.free(key, rev, lapsed, func(h *modelHold) bool { return h.owner == peer && (h.onDetach || !detach) })
	}
}

// guard is the code with which a write to a key is refused for its lock.
func (m *model) guard(key, who string, fence uint64, acquired bool) Code {
	l := m.locks[key]
	h := l.hold(who)
	switch {
	case !l.held() && fence == 0, fence == 0 && h != nil && acquired:
		return ""
	case !l.held():
		return CodeStaleFence
	case fence == 0:
		return CodeLocked
	case h == nil || h.fence != fence:
		return CodeStaleFence
	}
	return ""
}

// acquire is the code of an acquire, and whether it queued.
func (m *model) acquire(key string, w modelWait, wait int64, rev uint64) (code Code, queued, changed bool) {
	l := m.locks[key]
	if l == nil {
		l = &modelLock{}
	}
	w.until = m.now + wait
	switch {
	case l.hold(w.owner) != nil && l.covers(w):
		return "", false, false
	case l.hold(w.owner) != nil:
		return CodeLocked, false, false
	case len(l.queue) == 0 && l.admits(w, m.now):
		if n := len(l.holders) + 1; n > 1 && n > modelLimits.LockWaiters {
			return CodeLimitExceeded, false, false
		}
		m.locks[key] = l
		m.grant(key, w, rev)
		return "", false, true
	case wait == 0:
		return CodeLocked, false, false
	case len(l.queue) == modelLimits.LockWaiters:
		return CodeLimitExceeded, false, false
	}
	m.locks[key] = l
	l.queue = append(l.queue, w)
	return "", true, true
}

// release is the code of a release; with broken of whoever holds the lock, or of
// its delay.
func (m *model) release(key, who string, fence uint64, broken bool, rev uint64) (code Code, changed bool) {
	delayed := m.locks[key] != nil && m.locks[key].notBefore > m.now
	ended := m.free(key, rev, false, func(h *modelHold) bool {
		return broken && (fence == 0 || h.fence == fence) || !broken && h.owner == who && h.fence == fence
	})
	if broken && fence == 0 && delayed {
		if l := m.locks[key]; l != nil {
			l.notBefore = 0
			m.settle(key, rev)
		}
		ended = true
	}
	if !ended {
		return CodeNotHolder, false
	}
	return "", true
}

// What the model test does with locks.

// fence draws none, a present one of a key, an older one, or the one to come.
func (c *checked) fence(t *rapid.T, key string) uint64 {
	l := c.m.locks[key]
	if !l.held() {
		return rapid.SampledFrom([]uint64{0, 0, 0, 0, 1, c.m.rev + 1}).Draw(t, "fence")
	}
	fence := rapid.SampledFrom(l.holders).Draw(t, "holder").fence
	return rapid.SampledFrom([]uint64{0, fence, fence, fence - 1}).Draw(t, "fence")
}

// lockRequest draws what to ask of a lock: mostly to have it alone.
func lockRequest(t *rapid.T, who string) *LockRequest {
	req := &LockRequest{TTL: 4000, Delay: int64(rapid.SampledFrom([]int{0, 0, 3000}).Draw(t, "delay"))}
	switch rapid.IntRange(0, 4).Draw(t, "mode") {
	case 0, 1:
		req.Shared = true
	case 2:
		req.Permits = rapid.IntRange(1, 3).Draw(t, "permits")
	}
	req.OnDetach = who != job && rapid.IntRange(0, 3).Draw(t, "on detach") == 0
	return req
}

func (r *LockRequest) asks(who string) modelWait {
	return modelWait{owner: who, shared: r.Shared, permits: max(r.Permits, 1), delay: r.Delay, onDetach: r.OnDetach}
}

func (c *checked) acquire(t *rapid.T) {
	who, want := c.who(t)
	key := rapid.SampledFrom(modelKeys).Draw(t, "key")
	wait := int64(rapid.SampledFrom([]int{0, 8000, 8000}).Draw(t, "wait"))
	cmd := Command{Kind: CommandAcquire, Room: modelRoom, Caller: c.caller(who), Acquire: &Acquire{
		Store: DefaultStore, Key: key, Wait: wait, Lock: *lockRequest(t, who),
	}}
	queued, changed := false, false
	if want == "" {
		want, queued, changed = c.m.acquire(key, cmd.Acquire.Lock.asks(who), wait, c.m.rev+1)
	}
	r := c.run(cmd, want, changed)
	if want == "" && queued != (r.Waiting == len(c.locked(key).queue) && r.Waiting > 0) {
		t.Fatalf("position %d, model %+v", r.Waiting, c.locked(key))
	}
	if h := c.locked(key).hold(who); want == "" && !queued && (h == nil || r.Fence != h.fence) {
		t.Fatalf("fence %d, want %+v", r.Fence, h)
	}
}

func (c *checked) locked(key string) *modelLock {
	if l := c.m.locks[key]; l != nil {
		return l
	}
	return &modelLock{}
}

func (c *checked) release(t *rapid.T) {
	who, want := c.who(t)
	key := rapid.SampledFrom(modelKeys).Draw(t, "key")
	fence := c.fence(t, key)
	broken := rapid.IntRange(0, 4).Draw(t, "break") == 0
	if want == "" {
		want, _ = c.m.release(key, who, fence, broken, c.m.rev+1)
	}
	c.run(single(modelRoom, c.caller(who), Operation{Kind: OpRelease, Key: key, Fence: fence, Break: broken}), want, want == "")
}
