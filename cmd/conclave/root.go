package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// run executes one command line and returns the exit code. main calls it, and so
// could a test.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root, started := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	// cobra prints nothing itself (SilenceErrors): every error goes through report,
	// so that its code comes first.
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !*started {
		// What fails before a command starts is the command line: an unknown
		// command or flag, a missing argument.
		err = &usageError{err}
	}
	if err != nil {
		asJSON, _ := cmd.Flags().GetBool("json")
		report(stderr, err, asJSON)
	}
	if code := exitCode(err); code != exitUsage {
		return code
	}
	io.WriteString(stderr, "see "+strings.TrimSpace(cmd.CommandPath())+" --help\n")
	return exitUsage
}

// newRoot makes the tree of commands. started becomes true when the command line
// was understood and a command runs.
func newRoot() (root *cobra.Command, started *bool) {
	started = new(bool)
	root = &cobra.Command{
		Use:   "conclave",
		Short: "A replicated, strongly consistent session store for realtime rooms",
		Long: `Conclave keeps the shared state of realtime rooms on a group of nodes that agree
by Raft: compare-and-set, locks with fencing, watches that resume.

Every flag can also be given as an environment variable, CONCLAVE_ and its name
in capitals with _ for - (--if-rev is CONCLAVE_IF_REV), or in the YAML file that
--config names. The command line wins over the environment, that over the file.

Exit codes: 0 done, 1 refused (the error's code is on stderr), 2 usage,
3 unavailable or unknown outcome, 124 a wait that ran out.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := applySettings(cmd); err != nil {
				return err
			}
			// cobra looks at groups again before it runs the command; here a conflict
			// still counts as a mistake on the command line.
			if err := cmd.ValidateFlagGroups(); err != nil {
				return err
			}
			*started = true
			return nil
		},
	}
	root.PersistentFlags().String("config", "", "a YAML `file` with flags by their names")
	root.AddCommand(
		newDev(), newServe(),
		newGet(), newPut(), newUpdate(), newDelete(), newWatch(), newLock(),
		newRoom(), newPeers(), newSend(),
		newCluster(), newBench(), newVersion(),
	)
	return root, started
}
