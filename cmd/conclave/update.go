package main

import (
	"io"

	"github.com/spf13/cobra"
)

// newUpdate makes `conclave update`: the write that loses nothing of what others
// write at the same time, for the server does the adding.
func newUpdate() *cobra.Command {
	var (
		conn connection
		p    writing
		text bool
	)
	cmd := &cobra.Command{
		Use:   "update ROOM KEY VALUE",
		Short: "Add to a key: items to an array, members to an object",
		Long: `Put a JSON value into what is there: the items of an array go to the end of an
array, the members of an object over those of an object. Anything else is
replaced, and an absent key is created. VALUE - reads standard input; --string
takes VALUE as text rather than JSON.

It is the server that does it: of two updates at once neither undoes the other.`,
		Example: `  conclave update demo blocked '["mallory"]'
  conclave update demo poll '{"ada":"pizza"}'`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := argument(args[2], text, cmd.InOrStdin())
			if err != nil {
				return err
			}
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			done, err := h.Update(cmd.Context(), args[0], args[1], value, p.params(cmd))
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), done, func(w io.Writer) {
				row(w, "value", string(done.Value))
				row(w, "version", done.Version)
				row(w, "rev", done.Rev)
			})
		},
	}
	conn.flags(cmd)
	p.flags(cmd)
	cmd.Flags().DurationVar(&p.TTL, "ttl", 0, "delete the key after this long; 0: as it is")
	cmd.Flags().StringVar(&p.Bind, "bind", "", "delete the key when this `peer` leaves")
	cmd.Flags().BoolVar(&text, "string", false, "VALUE is text, not JSON")
	conn.completes(cmd, completeRooms, completeKeys)
	return cmd
}
