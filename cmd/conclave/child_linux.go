package main

import "syscall"

// childAttr starts a child in a process group of its own, so that Ctrl-C reaches
// only its parent, which stops it in order; and lets the kernel kill it when the
// parent dies, however that happens.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
