// Command conclave is the server, the three-node playground and the command
// line client of Conclave.
//
// It holds what belongs to a process: flags, environment, signals, exit codes,
// and the order in which the parts of a node start and stop. It holds no rules
// of the store. Whatever the client commands can do, the HTTP API can do: they
// speak nothing else.
package main

import (
	"context"
	"os"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		coarsenTimers()
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
