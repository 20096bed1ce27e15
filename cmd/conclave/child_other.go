//go:build unix && !linux

package main

import "syscall"

// childAttr starts a child in a process group of its own, so that Ctrl-C reaches
// only its parent, which stops it in order. Only Linux ends it when the parent is
// killed.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
