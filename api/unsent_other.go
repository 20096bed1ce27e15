//go:build !linux

package api

import "net"

// limitUnsent is for Linux.
func limitUnsent(net.Conn) {}
