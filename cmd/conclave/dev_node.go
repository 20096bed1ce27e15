package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// devNode is one node process of dev.
type devNode struct {
	id, http, peer string // set before the process starts, never changed
	path           string
	args           []string
	out            *prefixWriter
	logFile        string // takes what the process prints
	logs           bool   // out takes it too
	restart        time.Duration

	pid  atomic.Int64 // of the running process, 0 when there is none
	last string       // the last line that the process printed; keep's goroutine
}

// devStopLimit is how long a node may take to stop before it is killed.
const devStopLimit = 10 * time.Second

// keep runs the node's process, again whenever it dies, until stop; kill ends it
// at once. It returns when no process is left.
func (n *devNode) keep(stop, kill context.Context) {
	for {
		started := time.Now()
		err := n.run(stop, kill)
		if stop.Err() != nil {
			return
		}
		switch {
		case err == nil:
			n.out.say("%s has ended: %s", n.id, n.last) // it was removed from the cluster
			return
		case exitStatus(err) == exitUsage, time.Since(started) < time.Second:
			// It would die again.
			n.out.say("%s died at once: %v: %s", n.id, err, n.last)
			return
		case n.restart <= 0:
			n.out.say("%s died: %v. Start it again with:\n  %s", n.id, err, n.command())
			return
		}
		if exitStatus(err) > 0 {
			n.out.say("%s says: %s", n.id, n.last)
		}
		n.out.say("%s died: %v; it starts again in %v", n.id, err, n.restart)
		select {
		case <-stop.Done():
			return
		case <-time.After(n.restart):
		}
	}
}

// run starts the process and waits for its end.
func (n *devNode) run(stop, kill context.Context) error {
	// On Linux the kernel ends the child when the thread that started it ends:
	// keep this goroutine on one thread for as long as the child lives.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	log, err := os.OpenFile(n.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(stop, n.path, n.args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = devStopLimit
	cmd.SysProcAttr = childAttr()
	lines, child := io.Pipe()
	cmd.Stdout, cmd.Stderr = child, child
	if err := cmd.Start(); err != nil {
		return err
	}
	n.pid.Store(int64(cmd.Process.Pid))
	defer n.pid.Store(0)
	copied := make(chan struct{})
	go func() { defer close(copied); n.copyLines(log, lines) }()

	spare := context.AfterFunc(kill, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	spare()
	child.Close()
	<-copied
	return err
}

// copyLines takes what the process prints, line by line.
func (n *devNode) copyLines(log io.Writer, r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			n.last = strings.TrimSuffix(line, "\n")
			io.WriteString(log, line) // a full disk is the node's to complain about
			if n.logs {
				n.out.say("%s | %s", n.id, n.last)
			}
		}
		if err != nil {
			return
		}
	}
}

// command is the node's command line, for a user to repeat.
func (n *devNode) command() string {
	return strings.Join(slices.Concat([]string{commandName()}, n.args), " ")
}

// exitStatus is the exit code in an error of exec, -1 when there is none.
func exitStatus(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}
