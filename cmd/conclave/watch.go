package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// newWatch makes `conclave watch`. The SDK's Stream does the work (resuming,
// telling a reset from a gap); here is only what a terminal needs.
func newWatch() *cobra.Command {
	var (
		conn   connection
		p      client.EventsParams
		count  int
		within time.Duration
	)
	cmd := &cobra.Command{
		Use:   "watch ROOM [KEY...]",
		Short: "Print what a room is and every change, as it comes",
		Long: `Print the state of a room, then its events in order, each once, until Ctrl-C. A
KEY may end in * for all keys that start so. Without KEY everything is printed:
keys of all stores, locks, peers, messages, sessions.

When the node dies or drains, the watch goes on at the next of --server where it
stopped. Where that is not possible, "reset" says so and the state is printed
anew.`,
		Example: `  conclave watch demo
  conclave watch demo spotlight 'poll/*' --server http://127.0.0.1:7401,http://127.0.0.1:7402`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			// Nothing but Ctrl-C ends a watch of its own accord: nodes that cannot be
			// reached are waited for, since a watch that gave up would be a gap.
			ctx := cmd.Context()
			if within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, within)
				defer cancel()
			}
			p.Keys = args[1:]
			stream := h.Events(args[0], p)
			defer stream.Close()
			err = follow(ctx, stream, &conn, cmd.OutOrStdout(), count)
			if errors.Is(err, context.DeadlineExceeded) {
				return &exitError{exitTimedOut, fmt.Errorf("%d events did not come within %v", count, within)}
			}
			return err
		},
	}
	conn.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&p.Store, "store", "", "`name` of the store; default: default if keys are named, else all")
	f.StringSliceVar(&p.Types, "type", nil, "only these `types` of events: put, delete, lock, peer, message, session")
	f.IntVar(&count, "count", 0, "end after this `many` events; 0: never")
	f.DurationVar(&within, "within", 0, "end with exit code 124 after this long; 0: never")
	conn.completes(cmd, completeRooms, completeKeys)
	return cmd
}

// follow prints a stream, until count events were printed if that is not 0.
func follow(ctx context.Context, stream *client.Stream, conn *connection, w io.Writer, count int) error {
	seen := 0
	for update, err := range stream.All(ctx) {
		if err != nil {
			return err
		}
		// A transaction's events come together; count may fall in their middle.
		if count > 0 && seen+len(update.Events) > count {
			update.Events = update.Events[:count-seen]
		}
		if count > 0 && seen+len(update.Ephemeral) > count {
			update.Ephemeral = update.Ephemeral[:count-seen]
		}
		seen += len(update.Events) + len(update.Ephemeral)
		if err := printUpdate(w, &update, conn.asJSON); err != nil {
			return err
		}
		if count > 0 && seen >= count {
			return nil
		}
	}
	return nil
}

// printUpdate prints what came: as the frame that a socket would get, or a line
// for each thing.
func printUpdate(w io.Writer, u *client.Update, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false) // values keep their bytes
		return enc.Encode(struct {
			Reset     string           `json:"reset,omitempty"`
			Snapshot  *wire.Snapshot   `json:"snapshot,omitempty"`
			Events    []wire.Event     `json:"events,omitempty"`
			Ephemeral []wire.Ephemeral `json:"ephemeral,omitempty"`
			Rev       uint64           `json:"rev"`
		}{u.Reset, u.Snapshot, u.Events, u.Ephemeral, u.Rev})
	}
	if u.Reset != "" {
		fmt.Fprintf(w, "%-8d reset    %s: what was printed before is void\n", u.Rev, u.Reset)
	}
	if u.Snapshot != nil {
		printSnapshot(w, u.Snapshot, u.Rev)
	}
	for i := range u.Events {
		fmt.Fprintf(w, "%-8d %-8s %s\n", u.Events[i].Rev, u.Events[i].Type, eventLine(&u.Events[i]))
	}
	for i := range u.Ephemeral {
		m := &u.Ephemeral[i]
		fmt.Fprintf(w, "%-8s message  %s %s%s\n", "-", m.Topic, shorten(m.Data), from(&m.From))
	}
	return nil
}

// printSnapshot prints the state that a watch starts from, each thing with the
// revision at which it became so, and marked "now" to tell it from an event.
func printSnapshot(w io.Writer, s *wire.Snapshot, rev uint64) {
	if s.Session == "" {
		fmt.Fprintf(w, "%-8d now      no session yet\n", rev)
		return
	}
	fmt.Fprintf(w, "%-8d now      session %s\n", rev, s.Session)
	// Sorted, so that two watches of one state print the same.
	stores := make([]string, 0, len(s.Stores))
	for store := range s.Stores {
		stores = append(stores, store)
	}
	slices.Sort(stores)
	for _, store := range stores {
		for _, e := range s.Stores[store] {
			fmt.Fprintf(w, "%-8d now      %s v%d %s\n", e.Rev, path(store, e.Key), e.Version, shorten(e.Value))
		}
	}
	for _, l := range s.Locks {
		for _, h := range l.Holders {
			fmt.Fprintf(w, "%-8d now      %s locked by %s, %d waiting\n", h.Fence, path(l.Store, l.Key), h.Owner, len(l.Queue))
		}
	}
	for _, p := range s.Peers {
		fmt.Fprintf(w, "%-8d now      peer %s %s\n", p.JoinedRev, peerName(&p), p.State)
	}
}

// eventLine is an event for people, behind its revision and type.
func eventLine(e *wire.Event) string {
	switch e.Type {
	case "put":
		return fmt.Sprintf("%s v%d %s%s", path(e.Store, e.Key), e.Version, shorten(e.Value), from(e.By))
	case "delete":
		return fmt.Sprintf("%s %s%s", path(e.Store, e.Key), e.Reason, from(e.By))
	case "lock":
		waiting := ""
		if e.Waiting != nil && *e.Waiting > 0 {
			waiting = fmt.Sprintf(", %d waiting", *e.Waiting)
		}
		return fmt.Sprintf("%s %s by %s, fence %d%s", path(e.Store, e.Key), e.State, e.Owner, e.Fence, waiting)
	case "peer":
		if e.Peer == nil {
			return e.State
		}
		return fmt.Sprintf("%s %s", peerName(e.Peer), e.State)
	case "message":
		return fmt.Sprintf("%s %s%s", e.Topic, shorten(e.Data), from(e.From))
	case "session":
		if e.Reason != "" {
			return fmt.Sprintf("%s %s: %s", e.Session, e.State, e.Reason)
		}
		return fmt.Sprintf("%s %s", e.Session, e.State)
	}
	return ""
}

// path names a key, with its store unless that is the default one.
func path(store, key string) string {
	if store == "" || store == "default" {
		return key
	}
	return store + ":" + key
}

// peerName is a peer's id, which is unique, with its name, which need not be.
func peerName(p *wire.Peer) string {
	if p.Name != "" {
		return fmt.Sprintf("%s (%s)", p.Peer, p.Name)
	}
	return p.Peer
}

// from names the author of a change, at the end of a line. What the system did by
// itself (an expiry) may have none.
func from(by *wire.By) string {
	if by == nil {
		return ""
	}
	return "  by " + author(by)
}
