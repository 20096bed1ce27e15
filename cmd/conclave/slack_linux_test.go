package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestServe_wakes_late_rather_than_often looks at the timers of all threads of a node, which is
// the process that was started.
func TestServe_wakes_late_rather_than_often(t *testing.T) {
	_, n := one(t)
	n.start()
	n.ready()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.cmd.Process.Pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, thread := range threads {
		slack, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if err != nil {
			t.Skip("it takes CAP_SYS_NICE to see another process's timers: ", err)
		}
		if got := strings.TrimSpace(string(slack)); got != fmt.Sprint(timerSlack.Nanoseconds()) {
			t.Errorf("a thread's timers may be %s ns late, want %d", got, timerSlack)
		}
	}
	if code := n.stop(); code != 0 {
		t.Errorf("stopped in order, it exited with %d", code)
	}
}
