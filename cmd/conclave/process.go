package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"conclave/api"
	"conclave/cluster"
)

// serve runs one node until ctx ends. Things start from the disk outwards and
// stop in the opposite order, so that nothing ever serves without what it
// stands on; each step's undoing is deferred next to it.
func serve(ctx context.Context, o *serveOptions, logger *slog.Logger, stdout io.Writer) (err error) {
	// The data folder first: its lock keeps a second process of this node away
	// from the ports too.
	dir, err := cluster.OpenDataDir(o.data, cluster.DataDirOptions{Logger: logger, LogStore: cluster.LogStore(o.logStore)})
	if errors.Is(err, cluster.ErrLogStore) {
		return usagef("--log-store %s: %w", o.logStore, err) // no restart would mend it
	}
	if err != nil {
		return fmt.Errorf("open data folder: %w", err)
	}
	defer closing(&err, "close data folder", dir.Close)

	// Both ports before raft runs: a port in use is the commonest mistake, and a
	// node that cannot be reached must not take part in elections.
	var lc net.ListenConfig
	httpListener, err := lc.Listen(ctx, "tcp", o.http)
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	defer httpListener.Close() // closed by the HTTP server too, which is harmless
	peerListener, err := lc.Listen(ctx, "tcp", o.peer)
	if err != nil {
		return fmt.Errorf("listen for nodes: %w", err)
	}
	httpAddr, err := advertised(o.httpAdvertise, httpListener.Addr(), defaultHTTPPort)
	if err != nil {
		peerListener.Close()
		return usagef("--http %w (--http-advertise)", err)
	}
	peerAddr, err := advertised(o.peerAdvertise, peerListener.Addr(), defaultPeerPort)
	if err != nil {
		peerListener.Close()
		return usagef("--peer %w (--peer-advertise)", err)
	}
	network := cluster.NewTCPNetwork(peerListener, cluster.TCPOptions{Timeout: o.timeout, Logger: logger})
	defer closing(&err, "close network", network.Close)

	node, err := cluster.Open(cluster.Config{
		ID: o.id, PeerAddr: peerAddr, HTTPAddr: httpAddr, Version: version, Features: api.Features(),
		Log: dir.Log, Stable: dir.Stable, Snapshots: dir.Snapshots, Network: network,
		BootstrapExpect: o.bootstrapExpect, Join: o.join, Replica: o.replica,
		Timeout: o.timeout, Deadline: o.deadline, DiskLimit: o.diskLimit, CompareInterval: o.comparing(),
		SnapshotThreshold: o.snapshotThreshold, TrailingLogs: o.trailingLog,
		Fatal: func(err error) { die(o.id, err) }, Logger: logger,
	})
	if err != nil {
		return fmt.Errorf("open node: %w", err)
	}

	// Clients last: until the node is ready they are told to come back.
	config := api.Config{Version: version, Origins: o.origins, Dev: o.dev, Logger: logger}
	o.limits.into(&config)
	front := api.New(config, api.Of(node))
	server := &http.Server{
		Handler:           front.Handler(),
		ReadHeaderTimeout: 10 * time.Second, // no more: waits for locks and events are long
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(httpListener) }()

	fmt.Fprintf(stdout, "conclave %s listening http=%s peer=%s%s\n", o.id, httpAddr, peerAddr, o.wait())
	go announce(ctx, node, o.id, stdout)

	// Clients get at most half of the time: handing leadership over is worth more
	// to the others than a slow reader's last frame.
	forClients := o.stopTimeout / 2
	select {
	case <-ctx.Done():
		logger.Info("stopping")
	case <-node.Removed():
		// Going on would only tell clients that nothing works here; and what they
		// have asked cannot be answered any more.
		forClients = min(forClients, removedGrace)
		fmt.Fprintf(stdout, "conclave %s was removed from the cluster, and ends\n", o.id)
	case err = <-served:
		err = fmt.Errorf("serve clients: %w", err)
	}
	return errors.Join(err, stop(o.stopTimeout, forClients, front, server, node))
}

// removedGrace is how long the clients of a node that was removed may take to
// hear that they should go elsewhere.
const removedGrace = time.Second

// stop ends a node in order: its clients are sent away while it can still
// answer what they have asked, then leadership is handed over and raft stops.
func stop(within, forClients time.Duration, front *api.Server, server *http.Server, node *cluster.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	clients, cancelClients := context.WithTimeout(ctx, forClients)
	defer cancelClients()
	frontErr := front.Close(clients)
	if err := server.Shutdown(clients); err != nil {
		server.Close()
	}
	if err := node.Close(ctx); err != nil {
		return fmt.Errorf("close node: %w", err)
	}
	if frontErr != nil && !errors.Is(frontErr, context.DeadlineExceeded) {
		return fmt.Errorf("drain clients: %w", frontErr)
	}
	return nil
}

// announce prints one line when the node serves.
func announce(ctx context.Context, node *cluster.Node, id string, stdout io.Writer) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(node.Ready()) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	fmt.Fprintf(stdout, "conclave %s ready\n", id)
}

// die ends the process at once: the disk cannot be trusted or the log cannot be
// read, and whatever the node still said might be wrong. Nothing is closed,
// since closing could hang on the same disk.
func die(id string, err error) {
	fmt.Fprintf(os.Stderr, "conclave %s stops itself: %v\n", id, err)
	os.Exit(exitUnavailable)
}

// closing closes something at the end of a function, and keeps its error if it
// is the first.
func closing(err *error, what string, close func() error) {
	if e := close(); e != nil && *err == nil {
		*err = fmt.Errorf("%s: %w", what, e)
	}
}
