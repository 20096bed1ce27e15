package main

import (
	"io"
	"strings"
	"unicode"

	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// newPeers makes `conclave peers`: who is in a room.
func newPeers() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "peers ROOM",
		Short: "Show who is in a room",
		Long: `Show the peers of a room, with the app's own id for each (ref) and what it says
of itself (data). A detached peer has lost its connection and may come back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			peers, err := h.Peers(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			answer := struct {
				Peers []wire.Peer `json:"peers"`
			}{peers}
			return conn.print(cmd.OutOrStdout(), answer, func(w io.Writer) {
				if len(peers) > 0 {
					row(w, "PEER", "NAME", "REF", "ROLE", "STATE", "JOINED", "DATA")
				}
				for _, p := range peers {
					row(w, p.Peer, cell(p.Name), cell(p.Ref), cell(p.Role), p.State, p.JoinedAt, cell(shorten(p.Data)))
				}
			})
		},
	}
	conn.flags(cmd)
	conn.completes(cmd, completeRooms)
	return cmd
}

// cell is a text of a peer's own making in a table: columns stay apart where there
// is nothing, and what is not printable cannot act on the terminal.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
