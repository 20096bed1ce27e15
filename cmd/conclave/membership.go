package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// newCluster makes `conclave cluster`. Any node takes these commands: changes of
// membership run on the leader wherever they are asked for.
func newCluster() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Look at the cluster, and change who belongs to it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("want one of status, join, remove, promote, demote, transfer")
		},
	}
	conn.flags(cmd)
	ofMembers := []*cobra.Command{newRemove(&conn), newPromote(&conn), newDemote(&conn), newTransfer(&conn)}
	for _, sub := range ofMembers {
		conn.completes(sub, completeMembers)
	}
	cmd.AddCommand(newStatus(&conn), newJoin(&conn))
	cmd.AddCommand(ofMembers...)
	return cmd
}

// newStatus makes `cluster status`: what an operator looks at first.
func newStatus(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the members, who leads, and how far each has come",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := conn.cluster(cmd.Context())
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), status, func(w io.Writer) { printStatus(w, status) })
		},
	}
}

// cluster is the cluster as the first server sees it that knows a leader. One that
// has just started answers too, but knows nothing yet; so its word counts only if
// nobody knows more.
func (c *connection) cluster(ctx context.Context) (status *wire.Cluster, err error) {
	for i, server := range c.servers {
		one := *c
		if one.servers = []string{server}; i+1 < len(c.servers) || status != nil {
			one.patience = 0
		}
		h, failed := one.open()
		if failed != nil {
			return nil, failed
		}
		answer, failed := h.Cluster(ctx)
		h.Close()
		switch {
		case failed == nil && answer.Leader != nil:
			return answer, nil
		case failed == nil:
			status = answer
		default:
			err = failed
		}
	}
	if status != nil {
		return status, nil
	}
	return nil, err
}

// printStatus prints the cluster as one node sees it: what is true of all first,
// then a line a member.
func printStatus(w io.Writer, s *wire.Cluster) {
	leader := "none"
	if s.Leader != nil {
		leader = *s.Leader
	}
	row(w, "cluster", s.Cluster)
	row(w, "leader", leader)
	row(w, "term", s.Term)
	row(w, "rev", s.Rev)
	row(w, "config", s.ConfigIndex)
	row(w)
	row(w, "ID", "ROLE", "STATE", "PEER", "HTTP", "APPLIED", "LAG", "CONTACT", "DISK", "VERSION")
	for _, m := range s.Members {
		row(w, m.ID, role(m), state(m), m.PeerAddr, m.HTTPAddr, m.Applied, m.Lag,
			fmt.Sprintf("%d ms", m.LastContactMs), fmt.Sprintf("%.1f ms", m.DiskMs), m.Version)
	}
}

func role(m wire.Member) string {
	switch {
	case m.Leader:
		return "leader"
	case m.Voter:
		return "voter"
	}
	return "non-voter"
}

func state(m wire.Member) string {
	if m.Healthy {
		return "healthy"
	}
	return "unhealthy"
}

// change makes cmd one that changes the cluster: it prints what the cluster looks
// like afterwards.
func change(conn *connection, cmd *cobra.Command, do func(ctx context.Context, h *client.HTTP, args []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		h, err := conn.open()
		if err != nil {
			return err
		}
		defer h.Close()
		if err := do(cmd.Context(), h, args); err != nil {
			return err
		}
		// The change is made; that nobody could show the result does not undo it.
		ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
		defer cancel()
		status, err := h.Cluster(ctx)
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "done; the cluster's state is not known now: %v\n", err)
			return nil
		}
		return conn.print(cmd.OutOrStdout(), status, func(w io.Writer) { printStatus(w, status) })
	}
	return cmd
}

// configFlag is the operator's compare-and-set: between looking at the status and
// acting on it somebody else may have acted. It makes a change conditional on the
// configuration that the operator saw.
func configFlag(cmd *cobra.Command) *uint64 {
	return cmd.Flags().Uint64("if-config", 0, "only if the configuration still has this `index` (as status shows it); 0: whatever it is")
}

func newJoin(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join ID PEER-ADDRESS",
		Short: "Add the node that answers at an address",
		Long: `Add a running node (conclave serve --id ID) to the cluster. It starts as a
non-voter, and is promoted once it has caught up. A node started with --join does
this by itself.`,
		Args: cobra.ExactArgs(2),
	}
	ifConfig := configFlag(cmd)
	replica := cmd.Flags().Bool("replica", false, "leave it a non-voter")
	return change(conn, cmd, func(ctx context.Context, h *client.HTTP, args []string) error {
		addr, err := withPort(args[1], defaultPeerPort)
		if err != nil {
			return &usageError{err}
		}
		return h.AddMember(ctx, args[0], addr, *replica, *ifConfig)
	})
}

func newRemove(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a member",
		Long: `Remove a member. If it leads, leadership goes to another first. What would leave
too few healthy voters for a majority is refused without --force.`,
		Args: cobra.ExactArgs(1),
	}
	ifConfig := configFlag(cmd)
	force := cmd.Flags().Bool("force", false, "even if the rest cannot form a majority")
	return change(conn, cmd, func(ctx context.Context, h *client.HTTP, args []string) error {
		return h.RemoveMember(ctx, args[0], *force, *ifConfig)
	})
}

func newPromote(conn *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "promote ID", Short: "Make a non-voter that has caught up a voter", Args: cobra.ExactArgs(1)}
	ifConfig := configFlag(cmd)
	return change(conn, cmd, func(ctx context.Context, h *client.HTTP, args []string) error {
		return h.Promote(ctx, args[0], *ifConfig)
	})
}

func newDemote(conn *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "demote ID", Short: "Make a voter a non-voter", Args: cobra.ExactArgs(1)}
	ifConfig := configFlag(cmd)
	return change(conn, cmd, func(ctx context.Context, h *client.HTTP, args []string) error {
		return h.Demote(ctx, args[0], *ifConfig)
	})
}

func newTransfer(conn *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "transfer [ID]", Short: "Hand leadership to a member, or to the best one", Args: cobra.MaximumNArgs(1)}
	return change(conn, cmd, func(ctx context.Context, h *client.HTTP, args []string) error {
		return h.Transfer(ctx, strings.Join(args, ""))
	})
}
