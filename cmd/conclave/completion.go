package main

import (
	"context"
	"slices"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// The shell asks while a user waits with a finger on the key: one attempt, no long
// wait, no complaint, and no more names than anybody reads.
const (
	completionPatience = time.Second
	completionNames    = 200
)

// candidates are what a word may become that begins with prefix; args are the words
// before it. A tab separates a name from what it means.
type candidates func(ctx context.Context, h *client.HTTP, cmd *cobra.Command, args []string, prefix string) ([]string, error)

// completes lets the servers complete a command's arguments, the first by the
// first function and so on; what comes after them has no completion. What flags
// a command has by these names is completed likewise.
func (c *connection) completes(cmd *cobra.Command, args ...candidates) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, words []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(words) >= len(args) || args[len(words)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.ask(cmd, args[len(words)], words, prefix)
	}
	for name, f := range map[string]candidates{
		"store": completeStores, "session": completeSession, "bind": completePeers, "to-peer": completePeers,
		"to-ref": completeRefs, "to-role": completeRoles,
		"type":    completeWords("put", "delete", "lock", "peer", "message", "session"),
		"profile": completeWords("standard", "100ms", "realtimekit", "daily", "large"),
	} {
		if cmd.Flags().Lookup(name) == nil {
			continue
		}
		err := cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, words []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return c.ask(cmd, f, words, prefix)
		})
		if err != nil {
			panic(err) // registered twice
		}
	}
}

// ask gets candidates, none if there is nobody to ask.
func (c *connection) ask(cmd *cobra.Command, f candidates, words []string, prefix string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	// The servers may be in the environment; cobra looks there for no completion.
	if err := applySettings(cmd); err != nil {
		return nil, none
	}
	c.patience = 0
	h, err := c.open()
	if err != nil {
		return nil, none
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	names, err := f(ctx, h, cmd, words, prefix)
	if err != nil {
		return nil, none
	}
	return names, none
}

func completeRooms(ctx context.Context, h *client.HTTP, _ *cobra.Command, _ []string, prefix string) (names []string, err error) {
	page, err := h.Rooms(ctx, prefix, "", completionNames)
	if err != nil {
		return nil, err
	}
	for _, r := range page.Rooms {
		names = append(names, r.Room)
	}
	return names, nil
}

// completeKeys are those of the store that --store names.
func completeKeys(ctx context.Context, h *client.HTTP, cmd *cobra.Command, words []string, prefix string) (names []string, err error) {
	store, _ := cmd.Flags().GetString("store")
	page, err := h.List(ctx, words[0], client.ListParams{
		ReadParams: client.ReadParams{Store: store, Stale: true}, Prefix: prefix, Limit: completionNames,
	})
	if err != nil {
		return nil, err
	}
	for i := range page.Entries {
		names = append(names, page.Entries[i].Key)
	}
	return names, nil
}

func completeStores(ctx context.Context, h *client.HTTP, _ *cobra.Command, words []string, _ string) (names []string, err error) {
	if len(words) == 0 {
		return nil, nil
	}
	stores, err := h.Stores(ctx, words[0])
	for _, s := range stores {
		names = append(names, s.Store)
	}
	return names, err
}

func completeSession(ctx context.Context, h *client.HTTP, _ *cobra.Command, words []string, _ string) ([]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	room, err := h.Room(ctx, words[0])
	if err != nil {
		return nil, err
	}
	return []string{room.Session}, nil
}

func completePeers(ctx context.Context, h *client.HTTP, _ *cobra.Command, words []string, _ string) ([]string, error) {
	return ofPeers(ctx, h, words, func(p *wire.Peer) string {
		if p.Name == "" {
			return p.Peer
		}
		return p.Peer + "\t" + cell(p.Name)
	})
}

func completeRefs(ctx context.Context, h *client.HTTP, _ *cobra.Command, words []string, _ string) ([]string, error) {
	return ofPeers(ctx, h, words, func(p *wire.Peer) string { return p.Ref })
}

func completeRoles(ctx context.Context, h *client.HTTP, _ *cobra.Command, words []string, _ string) ([]string, error) {
	return ofPeers(ctx, h, words, func(p *wire.Peer) string { return p.Role })
}

// ofPeers is what the peers of the room have of something, each once.
func ofPeers(ctx context.Context, h *client.HTTP, words []string, of func(*wire.Peer) string) (names []string, err error) {
	if len(words) == 0 {
		return nil, nil
	}
	peers, err := h.Peers(ctx, words[0])
	for i := range peers {
		if name := of(&peers[i]); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

func completeMembers(ctx context.Context, h *client.HTTP, _ *cobra.Command, _ []string, _ string) (names []string, err error) {
	status, err := h.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range status.Members {
		names = append(names, m.ID+"\t"+role(m))
	}
	return names, nil
}

// completeWords are always the same.
func completeWords(words ...string) candidates {
	return func(context.Context, *client.HTTP, *cobra.Command, []string, string) ([]string, error) {
		return words, nil
	}
}
