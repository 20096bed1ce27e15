package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"conclave/client"

	"github.com/spf13/cobra"
)

// newRoom makes `conclave room`: the life of a room's session. Its members hang
// below it, so that `peers` and `send`, which are used more, stay short.
func newRoom() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "room",
		Short: "Open, show, list and end rooms",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("want one of open, show, list, end")
		},
	}
	conn.flags(cmd)
	cmd.AddCommand(newRoomOpen(&conn), newRoomShow(&conn), newRoomList(&conn), newRoomEnd(&conn))
	return cmd
}

// newRoomOpen makes `room open`.
func newRoomOpen(conn *connection) *cobra.Command {
	var (
		p             client.OpenParams
		grace, linger time.Duration
		stores        string
	)
	cmd := &cobra.Command{
		Use:   "open ROOM",
		Short: "Open a session before anybody joins",
		Long: `Open a session, with what its stores hold at first, all at once. It ends when
nobody has joined, no lock is held and nothing was written for --idle. A session
that is open already stays as it is, and is shown.`,
		Example: `  conclave room open demo --stores '{"default":{"stage":null},"polls":{"1":{"q":"Pizza?"}}}'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// 0 is a number here, not the lack of one.
			if cmd.Flags().Changed("grace") {
				p.Grace = &grace
			}
			if cmd.Flags().Changed("linger") {
				p.Linger = &linger
			}
			if stores != "" {
				content, err := argument(stores, false, cmd.InOrStdin())
				if err != nil {
					return err
				}
				if p.Stores, err = decodeStores(content); err != nil {
					return err
				}
			}
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			room, err := h.OpenRoom(cmd.Context(), args[0], p)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), room, func(w io.Writer) { printRoom(w, room) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Profile, "profile", "", "`name` of the profile of limits; default: the server's")
	f.DurationVar(&p.Idle, "idle", 0, "end the session when unused for this long; 0: the server's default")
	f.DurationVar(&grace, "grace", 0, "how long a lost peer may take to come back, 0 for not at all; default: the profile's")
	f.DurationVar(&linger, "linger", 0, "how long the session outlives its last peer; default: the profile's")
	f.StringVar(&stores, "stores", "", "first content, `JSON`: {store: {key: value}}; - reads it from standard input")
	conn.completes(cmd, completeRooms)
	return cmd
}

// decodeStores reads --stores down to the values, which go on as they were typed.
func decodeStores(content []byte) (map[string]map[string]any, error) {
	var typed map[string]map[string]json.RawMessage
	if err := json.Unmarshal(content, &typed); err != nil {
		return nil, usagef("--stores wants {store: {key: value}}: %w", err)
	}
	stores := make(map[string]map[string]any, len(typed))
	for store, entries := range typed {
		stores[store] = make(map[string]any, len(entries))
		for key, value := range entries {
			stores[store][key] = value
		}
	}
	return stores, nil
}

// newRoomShow makes `room show`.
func newRoomShow(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ROOM",
		Short: "Show a room's session: how full it is, and what it may hold",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			room, err := h.Room(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), room, func(w io.Writer) { printRoom(w, room) })
		},
	}
	conn.completes(cmd, completeRooms)
	return cmd
}

// printRoom prints a session, what is bounded with its bound.
func printRoom(w io.Writer, r *client.RoomInfo) {
	row(w, "room", r.Room)
	row(w, "session", r.Session)
	row(w, "started", r.StartedAt)
	row(w, "rev", r.Rev)
	row(w, "profile", r.Profile)
	row(w, "grace", millis(r.GraceMs))
	row(w, "linger", millis(r.LingerMs))
	if r.IdleMs != 0 {
		row(w, "idle", millis(r.IdleMs))
	}
	row(w)
	row(w, "", "NOW", "LIMIT")
	row(w, "peers", r.Counts.Peers, r.Limits.Peers)
	row(w, "stores", r.Counts.Stores, r.Limits.Stores)
	row(w, "keys", r.Counts.Keys, fmt.Sprintf("%d a store", r.Limits.KeysPerStore))
	row(w, "bytes", r.Counts.Bytes, r.Limits.SessionBytes)
	row(w, "locks", r.Counts.Locks, r.Limits.Locks)
	row(w, "writes", "", fmt.Sprintf("%d a second and peer, %d at once", r.Limits.WritesPerS, r.Limits.WritesBurst))
}

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// newRoomList makes `room list`.
func newRoomList(conn *connection) *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the rooms with a live session",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			all := client.RoomsPage{Rooms: []client.RoomSummary{}} // not nil: JSON says [] of none
			for room, err := range h.AllRooms(cmd.Context(), prefix) {
				if err != nil {
					return err
				}
				all.Rooms = append(all.Rooms, room)
			}
			return conn.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				if len(all.Rooms) > 0 {
					row(w, "ROOM", "PEERS", "STARTED", "SESSION")
				}
				for _, r := range all.Rooms {
					row(w, r.Room, r.Peers, r.StartedAt, r.Session)
				}
			})
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "only rooms whose names start so")
	return cmd
}

// newRoomEnd makes `room end`.
func newRoomEnd(conn *connection) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use:   "end ROOM",
		Short: "End a room's session now: its peers, its state, its locks",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			if err := h.EndRoom(cmd.Context(), args[0], session); err != nil {
				return err
			}
			answer := struct {
				Ended string `json:"ended"`
			}{args[0]}
			return conn.print(cmd.OutOrStdout(), answer, func(w io.Writer) { row(w, "ended", args[0]) })
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "only if this is its `session`")
	conn.completes(cmd, completeRooms)
	return cmd
}
