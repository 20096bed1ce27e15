package main

import (
	"io"

	"conclave/client"

	"github.com/spf13/cobra"
)

// newDelete makes `conclave delete`. A key has the same conditions as put, for a
// delete can race as well.
func newDelete() *cobra.Command {
	var (
		conn   connection
		p      writing
		prefix string
	)
	cmd := &cobra.Command{
		Use:   "delete ROOM [KEY]",
		Short: "Delete a key, or all keys with a prefix",
		Long: `Delete a key, or with --prefix in place of KEY all keys of a store that start so,
at once. Deleting what is absent is no error.

A locked key is deleted with --fence and --owner. Of a prefix, one locked key has
the whole refused.`,
		Example: `  conclave delete demo pinned
  conclave delete demo --prefix poll/1/`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			many := cmd.Flags().Changed("prefix")
			switch {
			case many && len(args) == 2:
				return usagef("want KEY or --prefix, not both")
			case !many && len(args) == 1:
				return usagef("want KEY or --prefix")
			case many && prefix == "":
				// An empty variable in a script must not empty the store.
				return usagef("--prefix is empty: that would delete all keys of the store")
			}
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			var done *client.Deleted
			if many {
				done, err = h.DeletePrefix(cmd.Context(), args[0], prefix, client.StoreParams{RequestParams: p.RequestParams, Store: p.Store})
			} else {
				done, err = h.Delete(cmd.Context(), args[0], args[1], p.params(cmd))
			}
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), done, func(w io.Writer) {
				row(w, "existed", done.Existed)
				row(w, "rev", done.Rev)
			})
		},
	}
	conn.flags(cmd)
	p.flags(cmd)
	cmd.Flags().StringVar(&prefix, "prefix", "", "delete all keys that `start` so, in place of KEY")
	for _, condition := range []string{"if-rev", "if-version", "if-absent", "fence", "owner"} {
		cmd.MarkFlagsMutuallyExclusive("prefix", condition)
	}
	conn.completes(cmd, completeRooms, completeKeys)
	return cmd
}
