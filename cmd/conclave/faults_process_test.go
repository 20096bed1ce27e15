package main

import (
	"syscall"
	"testing"
)

// Processes die and sleep. A leader that wakes, after another has led meanwhile, is
// asked at once by clients that know only it: their requests waited in its kernel.
func TestG1_G2_faults_of_processes(t *testing.T) {
	tr := startTrial(startCluster(t, 3, comparing...))
	asleep := func(n *testNode) (wake func()) {
		n.signal(syscall.SIGSTOP)
		return func() { n.signal(syscall.SIGCONT) }
	}
	tr.run(2,
		mishap{"the leader is killed", func() func() {
			n := tr.leader()
			n.kill()
			tr.succeeded(n)
			return n.start
		}},
		mishap{"a follower is killed", func() func() {
			n := tr.other(tr.leader())
			n.kill()
			tr.more(10)
			return n.start
		}},
		mishap{"all are killed at once", func() func() {
			for _, n := range tr.nodes {
				n.signal(syscall.SIGKILL)
			}
			for _, n := range tr.nodes {
				n.kill()
			}
			return func() {
				for _, n := range tr.nodes {
					n.start()
				}
			}
		}},
		mishap{"the leader sleeps", func() func() {
			n := tr.leader()
			wake := asleep(n)
			tr.succeeded(n)
			return wake
		}},
		mishap{"a follower sleeps", func() func() {
			n := tr.other(tr.leader())
			wake := asleep(n)
			tr.more(10)
			return wake
		}},
	)
}
