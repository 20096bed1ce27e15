package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

func number(i int) string { return strconv.Itoa(i) }

// putWork puts the lane's own key.
func putWork() *work {
	return &work{name: "put", rows: []string{"put"}, do: func(ctx context.Context, l *lane) error {
		if _, err := l.room.Put(ctx, l.key, l.value); err != nil {
			return err
		}
		l.took("put")
		return nil
	}}
}

// getWork reads the lane's own key.
func getWork(name string, opts ...client.ReadOption) *work {
	return &work{name: name, rows: []string{name}, prepare: putOwn, do: func(ctx context.Context, l *lane) error {
		if _, err := l.room.Get(ctx, l.key, opts...); err != nil {
			return err
		}
		l.took(name)
		return nil
	}}
}

func putOwn(ctx context.Context, l *lane) error {
	_, err := l.room.Put(ctx, l.key, l.value)
	return err
}

// casWork compares and sets one of a few keys for which all of a room compete. Who
// was too late learns from the refusal what the key is now.
func casWork(keys int) *work {
	return &work{name: "cas", rows: []string{"won", "lost"}, do: func(ctx context.Context, l *lane) error {
		key := "hot-" + number(l.number%keys)
		done, err := l.room.Put(ctx, key, l.value, client.IfRev(l.rev))
		if now, ok := client.AsConflict(err); ok {
			l.rev = now.Rev
			l.took("lost")
			return nil
		}
		if err != nil {
			return err
		}
		l.rev = done.Rev
		l.took("won")
		return nil
	}}
}

// txnWork puts some keys of the lane together, if the first is there.
func txnWork(puts int) *work {
	keys := func(l *lane, i int) string { return fmt.Sprintf("%s-%d", l.key, i) }
	return &work{
		name: "txn", rows: []string{"txn"},
		prepare: func(ctx context.Context, l *lane) error {
			_, err := l.room.Put(ctx, keys(l, 0), l.value)
			return err
		},
		do: func(ctx context.Context, l *lane) error {
			t := wire.Txn{If: []wire.Cond{client.Exists(keys(l, 0))}}
			for i := range puts {
				t.Then = append(t.Then, client.PutOp(keys(l, i), l.value))
			}
			done, err := l.room.Txn(ctx, t)
			if err == nil && !done.Applied {
				err = wire.Errorf(wire.Internal, "the condition of a transaction failed, though key %q is there", keys(l, 0))
			}
			if err != nil {
				return err
			}
			l.took("txn")
			return nil
		},
	}
}

// lockWork takes a lock and gives it back: the lane's own, or one for which all of a
// room queue.
func lockWork(hot bool) *work {
	return &work{name: "lock", rows: []string{"lock", "unlock"}, do: func(ctx context.Context, l *lane) error {
		key := "hot"
		if !hot {
			key = l.key
		}
		held, err := l.room.Lock(ctx, key)
		if err != nil {
			return err
		}
		l.took("lock")
		if err := held.Unlock(ctx); err != nil {
			return err
		}
		l.took("unlock")
		return nil
	}}
}

// mixedWorks are what `bench mixed` can mix, in the order of its report.
func mixedWorks() []*work {
	return []*work{getWork("get"), getWork("get-stale", client.Stale()), putWork(), casWork(1), txnWork(defaultPuts), lockWork(false)}
}

// usualMix is mostly reads, as apps are.
var usualMix = map[string]int{"get": 40, "get-stale": 20, "put": 30, "cas": 4, "txn": 3, "lock": 3}

// maxWeight bounds a part of a mix.
const maxWeight = 1_000_000

// mixWork does now this, now that, as often as the mix says.
func mixWork(mix map[string]int) (*work, error) {
	var (
		names []string
		parts []*work
		upTo  []int // sums of the weights
		sum   int
	)
	all := &work{name: "mixed"}
	for _, w := range mixedWorks() {
		names = append(names, w.name)
		weight, ok := mix[w.name]
		if weight < 0 || weight > maxWeight {
			return nil, usagef("--mix: %s=%d, want 0 to %d", w.name, weight, maxWeight)
		}
		if !ok || weight == 0 {
			continue
		}
		sum += weight
		parts, upTo = append(parts, w), append(upTo, sum)
		all.rows = append(all.rows, w.rows...)
	}
	for name := range mix {
		if !slices.Contains(names, name) {
			return nil, usagef("--mix: there is no %q, want %s", name, strings.Join(names, ", "))
		}
	}
	if sum == 0 {
		return nil, usagef("--mix names nothing to do")
	}
	all.prepare = func(ctx context.Context, l *lane) error {
		for _, w := range parts {
			if w.prepare == nil {
				continue
			}
			if err := w.prepare(ctx, l); err != nil {
				return err
			}
		}
		return nil
	}
	all.do = func(ctx context.Context, l *lane) error {
		w := parts[draw(l.random, upTo)]
		l.doing = w.rows[0]
		return w.do(ctx, l)
	}
	return all, nil
}

// draw draws the index of a part by its weight.
func draw(random *rand.Rand, upTo []int) int {
	n := random.IntN(upTo[len(upTo)-1])
	return slices.IndexFunc(upTo, func(sum int) bool { return n < sum })
}

// newBenchPut makes `bench put`.
func newBenchPut(b *bench) *cobra.Command {
	var c crowding
	cmd := &cobra.Command{
		Use:   "put",
		Short: "Puts, each request in flight to a key of its own",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return b.load(cmd, c, putWork()) },
	}
	c.flags(cmd, 256, 16)
	return cmd
}

// newBenchGet makes `bench get`.
func newBenchGet(b *bench) *cobra.Command {
	var c crowding
	var stale bool
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Reads: linearizable, or of the copy of the node with --stale",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stale {
				return b.load(cmd, c, getWork("get-stale", client.Stale()))
			}
			return b.load(cmd, c, getWork("get"))
		},
	}
	c.flags(cmd, 64, 16)
	cmd.Flags().BoolVar(&stale, "stale", false, "read the copy of the node, which may lag")
	return cmd
}

// maxHotKeys bounds --keys of cas, maxPuts --puts of txn: what the protocol allows.
const (
	maxHotKeys = 10_000
	maxPuts    = 128
)

// defaultPuts is how many keys a transaction puts.
const defaultPuts = 4

// newBenchCAS makes `bench cas`.
func newBenchCAS(b *bench) *cobra.Command {
	var c crowding
	var keys int
	cmd := &cobra.Command{
		Use:   "cas",
		Short: "Compare-and-set of keys for which all compete",
		Long: `Put keys on condition that they are as this connection saw them last, all connections
of a room the same few. "won" are puts that were applied, "lost" those that came too
late, which tell what the key is now.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keys < 1 || keys > maxHotKeys {
				return usagef("--keys is %d, want 1 to %d", keys, maxHotKeys)
			}
			return b.load(cmd, c, casWork(keys))
		},
	}
	c.flags(cmd, 16, 1)
	cmd.Flags().IntVar(&keys, "keys", 1, "keys in each room")
	return cmd
}

// newBenchTxn makes `bench txn`.
func newBenchTxn(b *bench) *cobra.Command {
	var c crowding
	var puts int
	cmd := &cobra.Command{
		Use:   "txn",
		Short: "Transactions of one condition and some puts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if puts < 1 || puts > maxPuts {
				return usagef("--puts is %d, want 1 to %d", puts, maxPuts)
			}
			return b.load(cmd, c, txnWork(puts))
		},
	}
	c.flags(cmd, 64, 16)
	cmd.Flags().IntVar(&puts, "puts", defaultPuts, "keys that a transaction puts")
	return cmd
}

// newBenchLock makes `bench lock`.
func newBenchLock(b *bench) *cobra.Command {
	var c crowding
	var hot bool
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Locks taken and given back, each connection its own or all the same",
		Long: `Take a lock and give it back, again and again. "lock" is the time until it is held,
with --hot mostly the wait in the queue of one key in each room.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if hot && c.inFlight != 1 {
				return usagef("--in-flight is %d, want 1 with --hot: a connection is one owner, which does not wait for itself", c.inFlight)
			}
			if hot && !cmd.Flags().Changed("rooms") {
				c.rooms = 1
			}
			return b.load(cmd, c, lockWork(hot))
		},
	}
	c.flags(cmd, 64, 16)
	cmd.Flags().BoolVar(&hot, "hot", false, "all connections of a room want one key; --rooms is 1 then by default")
	return cmd
}

// newBenchMixed makes `bench mixed`.
func newBenchMixed(b *bench) *cobra.Command {
	var c crowding
	var mix map[string]int
	cmd := &cobra.Command{
		Use:     "mixed",
		Short:   "Now this, now that, as often as --mix says",
		Example: `  conclave bench mixed --mix get-stale=70,put=25,lock=5 --rate 2000`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := mixWork(mix)
			if err != nil {
				return err
			}
			return b.load(cmd, c, w)
		},
	}
	c.flags(cmd, 64, 16)
	cmd.Flags().StringToIntVar(&mix, "mix", usualMix, "`weights` of get, get-stale, put, cas, txn and lock")
	return cmd
}
