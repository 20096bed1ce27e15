package sim

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// stops collects who stopped itself and why.
type stops struct {
	mu  sync.Mutex
	why map[string]string
}

func (s *stops) fatal(node string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why[node] = err.Error()
}

func (s *stops) of(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why[node]
}

// TestDivergence corrupts the state of one replica, by its disk, as a follower and
// as the leader: it stops, says why, and does not start again with what it has;
// the others go on.
func TestDivergence(t *testing.T) {
	for _, victimLeads := range []bool{false, true} {
		name := "a follower is wrong"
		if victimLeads {
			name = "the leader is wrong"
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stopped := &stops{why: map[string]string{}}
				opts := ordinary(300)
				opts.Configure = func(cfg *cluster.Config) { cfg.CompareInterval = 20 * time.Second }
				opts.Fatal = stopped.fatal
				h := NewHistory()
				c := Start(t, opts)
				k := c.NewClient(h, "ada")
				k.patient = true
				k.Do(single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: []byte(`"right"`)}))
				c.Settle()

				victim := c.Followers()[0]
				s := c.Server(victim)
				c.Kill(victim)
				if s.Disk.Corrupt(`"right"`, `"wrong"`) == 0 {
					t.Fatal("nothing to corrupt")
				}
				c.Restart(victim)
				c.AwaitReady()
				if victimLeads {
					c.Await("the victim to lead", func() bool {
						c.Node(c.Leader()).Transfer(t.Context(), s.Name)
						return c.Leader() == victim
					})
				}
				if got := entry(c.Node(victim), "k"); got != `"wrong"` {
					t.Fatalf("the victim has %s", got)
				}
				c.Await("the victim to stop", func() bool { return stopped.of(s.Name) != "" })
				if why := stopped.of(s.Name); !strings.Contains(why, "state divergence") || !strings.Contains(why, "empty its data folder") {
					t.Errorf("it stopped because %q: that helps nobody", why)
				}
				c.Await("the others to see it", func() bool {
					seen := 0
					for _, other := range c.Servers() {
						if node := other.Node(); node != nil {
							if st := node.Status(t.Context()); st.Differing > 0 && st.Agreed > 0 {
								seen++
							}
						}
					}
					return seen == 2
				})
				for _, other := range c.Servers() {
					if other != s && stopped.of(other.Name) != "" {
						t.Errorf("%s stopped too: %s", other.Name, stopped.of(other.Name))
					}
				}
				k.put("goes on")

				if _, err := cluster.Open(c.config(s, &process{killed: make(chan struct{})})); err == nil || !strings.Contains(err.Error(), "state divergence") {
					t.Errorf("it starts again: %v", err)
				}
				c.Wipe(victim)
				c.Restart(victim)
				c.AwaitVoter(victim)
				c.Await("the victim to be healed", func() bool { return entry(c.Node(victim), "k") == `"right"` })
				k.put("another reason to compare")
				rev := c.Node(victim).View().Index()
				c.Await("all to agree", func() bool {
					for _, s := range c.Servers() {
						if s.Node() == nil || s.Node().Status(t.Context()).Agreed < rev {
							return false
						}
					}
					return true
				})
			})
		})
	}
}

// entry is a key's value in the hall, as a node has it.
func entry(n *cluster.Node, key string) string {
	s := n.View().Session(hall)
	if s == nil || s.Entry(store, key) == nil {
		return ""
	}
	return string(s.Entry(store, key).Value)
}

// TestDivergence_NoMajority: of two replicas nobody can tell which is right. Both go
// on, and say that they differ.
func TestDivergence_NoMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := ordinary(301)
		opts.Nodes = 2
		opts.Configure = func(cfg *cluster.Config) { cfg.CompareInterval = 20 * time.Second }
		c := Start(t, opts)
		k := c.NewClient(NewHistory(), "ada")
		k.patient = true
		k.Do(single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: []byte(`"right"`)}))
		c.Settle()
		victim := c.Followers()[0]
		c.Kill(victim)
		c.Server(victim).Disk.Corrupt(`"right"`, `"wrong"`)
		c.Restart(victim)
		c.AwaitReady()
		c.Await("both to see it", func() bool {
			return c.Node(0).Status(t.Context()).Differing > 0 && c.Node(1).Status(t.Context()).Differing > 0
		})
		k.put("goes on")
	})
}
