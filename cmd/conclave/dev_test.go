package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"conclave/client"
)

// devRun is a running `conclave dev`.
type devRun struct {
	t         *testing.T
	cmd       *exec.Cmd
	out       lockedBuffer
	done      chan error
	http      []string // the nodes' URLs
	httpPort  int
	peerPort  int
	tempFiles string // TMPDIR of the process
}

func startDev(t *testing.T, args ...string) *devRun {
	t.Helper()
	d := &devRun{t: t, httpPort: freePorts(t, devNodes), peerPort: freePorts(t, devNodes), tempFiles: t.TempDir(), done: make(chan error, 1)}
	for i := range devNodes {
		d.http = append(d.http, fmt.Sprintf("http://127.0.0.1:%d", d.httpPort+i))
	}
	args = append([]string{"dev", "--http-port", strconv.Itoa(d.httpPort), "--peer-port", strconv.Itoa(d.peerPort)}, args...)
	d.cmd = exec.Command(binary, args...)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.tempFiles)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.done <- d.cmd.Wait() }()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("dev printed:\n%s", &d.out)
		}
	})
	d.expect(`Three nodes are up`)
	d.expect(`Ctrl-C ends them all`)
	return d
}

// expect waits until dev has printed something that matches, and returns the
// groups of the last match.
func (d *devRun) expect(pattern string) (groups []string) {
	d.t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(d.t, "dev prints "+pattern, func() bool {
		select {
		case err := <-d.done:
			d.t.Fatalf("dev ended: %v", err)
		default:
		}
		all := re.FindAllStringSubmatch(d.out.String(), -1)
		if all == nil {
			return false
		}
		groups = all[len(all)-1]
		return true
	})
	return groups
}

// pids are the processes of the nodes that dev has started, dead ones too.
func (d *devRun) pids() (pids []int) {
	for _, m := range regexp.MustCompile(`pid (\d+)`).FindAllStringSubmatch(d.out.String(), -1) {
		pid, _ := strconv.Atoi(m[1])
		pids = append(pids, pid)
	}
	return pids
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && runtime.GOOS != "linux"
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func (d *devRun) put(h *client.HTTP, value int) {
	d.t.Helper()
	if _, err := h.Put(d.t.Context(), "demo", "spotlight", value, client.WriteParams{Open: time.Hour}); err != nil {
		d.t.Fatal(err)
	}
}

// The story of the README: the leader's process is killed, the next write goes
// through, dev says who leads and starts the dead node again; Ctrl-C leaves
// nothing behind.
func TestDev_survives_the_death_of_the_leader_and_leaves_nothing_behind(t *testing.T) {
	d := startDev(t, "--restart", "2s")
	h := newHTTP(t, patience, d.http...)
	defer h.Close()
	d.put(h, 1)

	leader := d.expect(`(n\d)  http://\S+  pid (\d+)  leads`)
	pid, _ := strconv.Atoi(leader[2])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.put(h, 2)
	d.expect(leader[1] + ` died: signal: killed; it starts again in 2s`)
	next := d.expect(`(n\d) leads now \(term \d+\); kill it: kill -9 \d+`)
	if next[1] == leader[1] {
		t.Errorf("%s leads again although it was dead", next[1])
	}
	d.expect(leader[1] + ` is back \(pid \d+\)`)
	d.put(h, 3)

	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-d.done; err != nil {
		t.Errorf("dev ended with %v", err)
	}
	if len(d.pids()) < devNodes+1 {
		t.Errorf("dev named the processes %v, want the three and the one that came back", d.pids())
	}
	for _, pid := range d.pids() {
		if alive(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(d.tempFiles, "*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// With --data the state survives dev; a folder of its own is kept.
func TestDev_keeps_the_data_it_is_given(t *testing.T) {
	data := t.TempDir()
	for round := range 2 {
		d := startDev(t, "--data", data)
		h := newHTTP(t, patience, d.http...)
		if round == 0 {
			d.put(h, 1)
		} else if e, err := h.Get(t.Context(), "demo", "spotlight", client.ReadParams{}); err != nil || string(e.Value) != "1" {
			t.Errorf("after a restart: %v, %v", e, err)
		}
		h.Close()
		d.cmd.Process.Signal(syscall.SIGTERM)
		if err := <-d.done; err != nil {
			t.Fatalf("dev ended with %v", err)
		}
	}
}

// However dev itself dies, its nodes do not stay.
func TestDev_leaves_no_orphans_when_killed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends the children of a killed parent")
	}
	d := startDev(t)
	pids := d.pids()
	d.cmd.Process.Kill()
	<-d.done
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
}

func TestDev_says_which_port_is_taken(t *testing.T) {
	first := freePorts(t, devNodes)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "dev", "--http-port", strconv.Itoa(first), "--peer-port", strconv.Itoa(freePorts(t, devNodes)))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), l.Addr().String()) || !strings.Contains(string(out), "--http-port") {
		t.Errorf("got %v: %s", err, out)
	}
}
