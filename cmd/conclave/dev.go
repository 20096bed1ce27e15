package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// devNodes is how many nodes dev runs: the smallest cluster that survives the
// loss of one.
const devNodes = 3

// devOptions are the flags of dev.
type devOptions struct {
	httpPort, peerPort int
	data               string
	restart, timeout   time.Duration
	logs               bool
	logLevel           string
	limits             limitOptions
}

// newDev makes `conclave dev`, the first thing that most people run: it must work
// without a flag, and say what to do next.
func newDev() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run three nodes on this machine, to try Conclave",
		Long: `Run a cluster of three nodes, three processes, on loopback, until Ctrl-C. No
tokens are needed, browsers may connect from any localhost origin.

Kill a node (dev says how) and use the cluster meanwhile: dev tells who leads,
and starts the dead node again after --restart.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dev(cmd.Context(), &o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.httpPort, "http-port", defaultHTTPPort, "`port` of the first node for clients; the others take the next ones")
	f.IntVar(&o.peerPort, "peer-port", defaultPeerPort, "`port` of the first node for the other nodes; the others take the next ones")
	f.StringVar(&o.data, "data", "", "keep the data in this `folder`; default: a temporary one, removed at the end")
	f.DurationVar(&o.restart, "restart", 5*time.Second, "start a node that died again after this long; 0: never")
	f.DurationVar(&o.timeout, "timeout", time.Second, "raft heartbeat, election and lease timeout of the nodes")
	o.limits.flags(cmd)
	f.BoolVar(&o.logs, "logs", false, "print what the nodes log, too; default: into n1.log, n2.log, n3.log beside their data")
	f.StringVar(&o.logLevel, "log-level", "info", "what the nodes log: debug, info, warn or error")
	return cmd
}

// dev runs the nodes until a signal or ctx ends it, and leaves no process and no
// temporary folder behind.
func dev(ctx context.Context, o *devOptions, stdout io.Writer) (err error) {
	if err := o.limits.check(); err != nil {
		return err
	}
	nodes, err := o.nodes()
	if err != nil {
		return err
	}
	data := o.data
	if data == "" {
		if data, err = os.MkdirTemp("", "conclave-dev-"); err != nil {
			return err
		}
		defer os.RemoveAll(data)
	} else if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	// Real processes of this very binary: what is tried here behaves as it will in
	// earnest, kill -9 included.
	self, err := os.Executable()
	if err != nil {
		return err
	}

	// The first signal stops the nodes in order, a second one kills them: dev
	// itself stays until they are gone, to remove their data.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	run, stopNodes := context.WithCancel(ctx)
	defer stopNodes()
	kill, killNodes := context.WithCancel(context.Background())
	defer killNodes()

	out := &prefixWriter{w: stdout}
	var running sync.WaitGroup
	for _, node := range nodes {
		node.path, node.args, node.out, node.logs, node.restart = self, o.serveArgs(node, nodes, data), out, o.logs, o.restart
		node.logFile = filepath.Join(data, node.id+".log")
		running.Go(func() { node.keep(run, kill) })
	}
	watcher := &devWatcher{nodes: nodes, out: out, data: data, kept: o.data != "", restart: o.restart, timeout: o.timeout}
	running.Go(func() { watcher.watch(run) })

	select {
	case <-ctx.Done():
	case <-signals:
	}
	out.say("stopping the nodes")
	stopNodes()
	go func() {
		select {
		case <-signals:
			killNodes()
		case <-kill.Done():
		}
	}()
	running.Wait()
	return nil
}

// nodes names the nodes and makes sure that their ports are free, so that a port
// in use is one clear message and not three dying processes.
func (o *devOptions) nodes() (nodes []*devNode, err error) {
	for i := range devNodes {
		node := &devNode{id: fmt.Sprintf("n%d", i+1)}
		for flag, at := range map[string]struct {
			first int
			addr  *string
		}{"http-port": {o.httpPort, &node.http}, "peer-port": {o.peerPort, &node.peer}} {
			if at.first < 1 || at.first+devNodes > 1<<16 {
				return nil, usagef("--%s: want a port from 1 to %d, got %d", flag, 1<<16-devNodes, at.first)
			}
			*at.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(at.first+i))
			probe, err := net.Listen("tcp", *at.addr)
			if err != nil {
				return nil, fmt.Errorf("%w (is another dev running? --%s moves the ports)", err, flag)
			}
			probe.Close()
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// serveArgs is the command line of one node.
func (o *devOptions) serveArgs(node *devNode, nodes []*devNode, data string) []string {
	var peers []string
	for _, n := range nodes {
		peers = append(peers, n.peer)
	}
	// All have the same list, the own address included, as in a real deployment.
	return append([]string{
		"serve", "--id", node.id, "--data", filepath.Join(data, node.id),
		"--http", node.http, "--peer", node.peer,
		"--bootstrap-expect", strconv.Itoa(devNodes), "--join", strings.Join(peers, ","),
		"--timeout", o.timeout.String(), "--log-level", o.logLevel, "--cors-localhost",
	}, o.limits.args()...)
}

// prefixWriter writes whole lines of several sources to one place.
type prefixWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (p *prefixWriter) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...)
}
