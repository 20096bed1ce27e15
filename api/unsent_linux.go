package api

import (
	"net"
	"syscall"
)

// tcpNotSentLowat is TCP_NOTSENT_LOWAT of linux/tcp.h; package syscall lacks it.
const tcpNotSentLowat = 25

// unsentBytes is what the kernel takes beyond what is on its way.
const unsentBytes = 2 * outboxBytes

// limitUnsent has the kernel hold back a writer whose bytes wait to be sent. By
// default it takes megabytes, which on a slow link are minutes: a ping would
// arrive after the deadline for its answer, and events would be old. What is on
// its way is not limited, so a fast link stays fast. Without it, all works worse.
func limitUnsent(conn net.Conn) {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = wrapped.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsentBytes)
	})
}
