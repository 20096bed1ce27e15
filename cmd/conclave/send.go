package main

import (
	"io"

	"conclave/client"

	"github.com/spf13/cobra"
)

// newSend makes `conclave send`. It opens no session: a message to a room without
// peers is for nobody.
func newSend() *cobra.Command {
	var (
		conn               connection
		p                  client.RequestParams
		peers, refs, roles []string
		text, ephemeral    bool
	)
	cmd := &cobra.Command{
		Use:   "send ROOM TOPIC DATA",
		Short: "Send a message to the peers of a room",
		Long: `Send a message, JSON, to all peers of a room, or to those that --to-peer, --to-ref
and --to-role name. It comes in one order with the changes of the room's state,
and is kept nowhere: who joins later does not get it. With --ephemeral it does not
go through the log at all: at most once, to who is there now. DATA - reads standard
input; --string takes DATA as text rather than JSON.`,
		Example: `  conclave send demo chat '{"text":"hello"}'
  conclave send demo notice 'please mute' --string --to-role guest`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := argument(args[2], text, cmd.InOrStdin())
			if err != nil {
				return err
			}
			// A flag that names nobody (an empty variable in a script, say) must not
			// make a message public: the SDK refuses it.
			var to []client.SendOption
			for flag, option := range map[string]client.SendOption{
				"to-peer": client.ToPeers(peers...), "to-ref": client.ToRefs(refs...), "to-role": client.ToRoles(roles...),
			} {
				if cmd.Flags().Changed(flag) {
					to = append(to, option)
				}
			}
			if ephemeral {
				to = append(to, client.Ephemeral())
			}
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			rev, err := h.Send(cmd.Context(), args[0], args[1], data, p, to...)
			if err != nil {
				return err
			}
			answer := struct {
				Rev uint64 `json:"rev"`
			}{rev}
			return conn.print(cmd.OutOrStdout(), answer, func(w io.Writer) { row(w, "rev", rev) })
		},
	}
	conn.flags(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&peers, "to-peer", nil, "to these `peers` only")
	f.StringSliceVar(&refs, "to-ref", nil, "to the peers with these `refs`, the app's own ids, only")
	f.StringSliceVar(&roles, "to-role", nil, "to the peers in these `roles` only")
	f.StringVar(&p.Session, "session", "", "only in this `session` of the room")
	f.StringVar(&p.IdempotencyKey, "idempotency-key", "", "a random `key`: a repeated request with it is sent once")
	f.BoolVar(&ephemeral, "ephemeral", false, "past the log: at most once, and without a revision")
	f.BoolVar(&text, "string", false, "DATA is text, not JSON")
	conn.completes(cmd, completeRooms)
	return cmd
}
