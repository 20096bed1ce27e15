package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc's times, on every Linux that Go runs on.
const tick = time.Second / 100

// cpu is the processor time of a process so far, user and system.
func (p *process) cpu() (time.Duration, error) {
	path := fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The name of the program, in brackets, may have spaces. After it utime and stime
	// are the 12th and the 13th.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s has %d fields after the name", path, len(fields))
	}
	var ticks time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		ticks += time.Duration(n)
	}
	return ticks * tick, nil
}

// memory is the resident memory of a process in bytes: now, and at most so far.
func (p *process) memory() (now, most float64, err error) {
	path := fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	found := 0
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		var into *float64
		switch name {
		case "VmRSS":
			into = &now
		case "VmHWM":
			into = &most
		default:
			continue
		}
		kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %s: %w", path, name, err)
		}
		*into = kb * 1024
		found++
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("%s: no VmRSS and VmHWM", path)
	}
	return now, most, nil
}

// cpu is the processor time of all nodes so far.
func (r *running) cpu() (time.Duration, error) {
	var all time.Duration
	for _, p := range r.procs {
		d, err := p.cpu()
		if err != nil {
			return 0, err
		}
		all += d
	}
	return all, nil
}

// spent is the processor time of all nodes between two moments to come.
func (r *running) spent(ctx context.Context, begin, end time.Time) (time.Duration, error) {
	var at [2]time.Duration
	for i, moment := range []time.Time{begin, end} {
		select {
		case <-time.After(time.Until(moment)):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		var err error
		if at[i], err = r.cpu(); err != nil {
			return 0, err
		}
	}
	return at[1] - at[0], nil
}

// memory is the resident memory of a node, on average, in bytes: now, and at most
// so far.
func (r *running) memory() (now, most float64, err error) {
	for _, p := range r.procs {
		n, m, err := p.memory()
		if err != nil {
			return 0, 0, err
		}
		now += n / float64(len(r.procs))
		most += m / float64(len(r.procs))
	}
	return now, most, nil
}
