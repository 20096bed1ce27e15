package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// newGet makes `conclave get`. People get all that there is to know of a key, since
// --if-rev and --if-version need it; scripts have --raw and --json.
func newGet() *cobra.Command {
	var (
		conn connection
		read client.ReadParams
		raw  bool
	)
	cmd := &cobra.Command{
		Use:   "get ROOM [KEY]",
		Short: "Read a key, or list a store",
		Long: `Read a key of a room, or without KEY all of a store. Reads are linearizable on
every node unless --stale is given.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			if len(args) == 1 {
				return listStore(cmd, h, &conn, args[0], read)
			}
			entry, err := h.Get(cmd.Context(), args[0], args[1], read)
			if err != nil {
				return err
			}
			if raw {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", entry.Value)
				return err
			}
			return conn.print(cmd.OutOrStdout(), entry, func(w io.Writer) { printEntry(w, entry) })
		},
	}
	conn.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&read.Store, "store", "default", "`name` of the store")
	f.BoolVar(&read.Stale, "stale", false, "read the node's own copy, which may lag")
	f.Uint64Var(&read.MinRev, "min-rev", 0, "wait until the node has applied this `revision`")
	f.BoolVar(&raw, "raw", false, "print the value alone")
	conn.completes(cmd, completeRooms, completeKeys)
	return cmd
}

// printEntry prints everything of an entry but its key, which the user named.
func printEntry(w io.Writer, e *wire.Entry) {
	row(w, "value", string(e.Value))
	row(w, "version", e.Version)
	row(w, "rev", e.Rev)
	row(w, "by", author(&e.By))
	row(w, "at", e.At)
	if e.ExpiresAt != "" {
		row(w, "expires", e.ExpiresAt)
	}
	if e.BoundTo != "" {
		row(w, "bound to", e.BoundTo)
	}
}

// author is who made a change, in one word.
func author(by *wire.By) string {
	for _, name := range []string{by.Ref, by.User, by.Peer} {
		if name != "" {
			return by.Kind + " " + name
		}
	}
	return by.Kind
}

// listStore prints every entry of a store, page by page. The pages are not one
// snapshot: each says the revision at which it was read.
func listStore(cmd *cobra.Command, h *client.HTTP, conn *connection, room string, read client.ReadParams) error {
	page := client.ListParams{ReadParams: read}
	all := client.Entries{Entries: []wire.Entry{}} // not nil: JSON says [] of an empty store
	for {
		got, err := h.List(cmd.Context(), room, page)
		if err != nil {
			return err
		}
		all.Entries = append(all.Entries, got.Entries...)
		all.Rev = got.Rev
		if page.After = got.Next; page.After == "" {
			break
		}
	}
	return conn.print(cmd.OutOrStdout(), all, func(w io.Writer) {
		if len(all.Entries) > 0 {
			row(w, "KEY", "VERSION", "REV", "VALUE")
		}
		for _, e := range all.Entries {
			row(w, e.Key, e.Version, e.Rev, shorten(e.Value))
		}
	})
}

// shorten fits a value on a line.
func shorten(value json.RawMessage) string {
	const most = 72
	runes := []rune(string(value))
	if len(runes) <= most {
		return string(value)
	}
	return string(runes[:most-1]) + "…"
}

// writing are the flags of commands that change one key. The two numbers stand
// apart from the SDK's pointers: 0 is a condition (absent), not the lack of one.
type writing struct {
	client.WriteParams
	ifRev, ifVersion uint64
}

func (p *writing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.Store, "store", "default", "`name` of the store")
	f.Uint64Var(&p.ifRev, "if-rev", 0, "only if the key's last change has this `revision`; 0: only if it is absent")
	f.Uint64Var(&p.ifVersion, "if-version", 0, "only if the key is at this `version`; 0: only if it is absent")
	f.BoolVar(&p.IfAbsent, "if-absent", false, "only if the key does not exist")
	f.Uint64Var(&p.Fence, "fence", 0, "the fencing `token` of the lock on the key")
	f.StringVar(&p.Owner, "owner", "", "the `name` under which the lock was acquired")
	f.StringVar(&p.Session, "session", "", "only in this `session` of the room")
	f.StringVar(&p.IdempotencyKey, "idempotency-key", "", "a random `key`: a repeated request with it is applied once")
	f.DurationVar(&p.Open, "open", 5*time.Minute, "open a session with this idle timeout if the room has none; 0: never")
	cmd.MarkFlagsMutuallyExclusive("if-rev", "if-version", "if-absent")
}

// params completes what the flags cannot say by themselves: that a number was given.
func (p *writing) params(cmd *cobra.Command) client.WriteParams {
	if cmd.Flags().Changed("if-rev") {
		p.IfRev = &p.ifRev
	}
	if cmd.Flags().Changed("if-version") {
		p.IfVersion = &p.ifVersion
	}
	return p.WriteParams
}

// newPut makes `conclave put`. It opens a session by default: at a terminal a room
// is tried out before anybody has joined it.
func newPut() *cobra.Command {
	var (
		conn connection
		p    writing
		text bool
	)
	cmd := &cobra.Command{
		Use:   "put ROOM KEY VALUE",
		Short: "Write a key",
		Long: `Write a JSON value. VALUE - reads it from standard input; --string takes VALUE as
text rather than JSON.

Of several writers with one --if-rev or --if-version exactly one succeeds; the
others exit with 1 and "conflict" on stderr, with the current version and rev.`,
		Example: `  conclave put demo spotlight '"ada"'
  conclave put demo pinned '{"text":"hello"}' --if-absent
  conclave put demo spotlight '"bob"' --if-rev 1041`,
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
			done, err := h.Put(cmd.Context(), args[0], args[1], value, p.params(cmd))
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), done, func(w io.Writer) {
				row(w, "version", done.Version)
				row(w, "rev", done.Rev)
			})
		},
	}
	conn.flags(cmd)
	p.flags(cmd)
	cmd.Flags().DurationVar(&p.TTL, "ttl", 0, "delete the key after this long; 0: never")
	cmd.Flags().StringVar(&p.Bind, "bind", "", "delete the key when this `peer` leaves")
	cmd.Flags().BoolVar(&text, "string", false, "VALUE is text, not JSON")
	conn.completes(cmd, completeRooms, completeKeys)
	return cmd
}

// argument reads a value as the user gave it.
func argument(arg string, text bool, stdin io.Reader) (json.RawMessage, error) {
	value := []byte(arg)
	if arg == "-" {
		var err error
		// More than any profile lets a value be: the server says by how much.
		if value, err = io.ReadAll(io.LimitReader(stdin, 4<<20)); err != nil {
			return nil, fmt.Errorf("read value: %w", err)
		}
	}
	if text {
		return json.Marshal(string(value))
	}
	// Checked here, since the commonest mistake deserves a better hint than the
	// server can give: the shell has taken the quotes.
	if !json.Valid(value) {
		return nil, usagef("the value is not JSON: a string needs quotes of its own ('\"ada\"'), or --string")
	}
	return value, nil
}
