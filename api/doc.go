// Package api serves the Conclave protocol over HTTP, Server-Sent Events and
// WebSocket: it decodes, authorises, calls the store and encodes. It knows no
// rule of the domain; those are in package fsm, behind the Store interface.
//
// It guarantees that every answer is one of the protocol's, that a body is
// bounded before it is read, and that nothing a client sends reaches the log
// before its form was checked. It must never keep a *gin.Context beyond its
// handler (gin reuses them). Package cmd makes one Server per node. The package
// owns the goroutines of sockets and of the hub; Close waits for them.
package api
