package sim

import "sync"

// tasks counts goroutines, like a sync.WaitGroup, but one may also begin while
// somebody waits: a reply to a request of a node that is being closed comes when
// it comes.
type tasks struct {
	mu      sync.Mutex
	running int
	idle    *sync.Cond
}

func newTasks() *tasks {
	t := new(tasks)
	t.idle = sync.NewCond(&t.mu)
	return t
}

// Go runs f in a goroutine.
func (t *tasks) Go(f func()) {
	t.mu.Lock()
	t.running++
	t.mu.Unlock()
	go func() {
		defer func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.running--; t.running == 0 {
				t.idle.Broadcast()
			}
		}()
		f()
	}()
}

// Wait waits until none runs.
func (t *tasks) Wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.running > 0 {
		t.idle.Wait()
	}
}
