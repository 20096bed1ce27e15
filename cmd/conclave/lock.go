package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/spf13/cobra"
)

// lockOptions are the flags of lock.
type lockOptions struct {
	client.LockParams
	grace time.Duration
}

// newLock makes `conclave lock`, for jobs that must not run twice at once. The
// lease protects the job's time, the fence protects what it writes: a job that
// is stopped and wakes late is refused by the store.
func newLock() *cobra.Command {
	var (
		conn connection
		o    lockOptions
	)
	cmd := &cobra.Command{
		Use:   "lock ROOM KEY [flags] -- COMMAND [ARG...]",
		Short: "Run a command while holding a lock",
		Long: `Acquire the lock on a key, run COMMAND under it, release the lock. The lease is
renewed meanwhile, at any node of --server. COMMAND finds the fencing token in
CONCLAVE_LOCK_FENCE and the owner's name in CONCLAVE_LOCK_OWNER; a write to the
key passes both:

  conclave lock demo stage -- sh -c 'conclave put demo stage "\"me\"" \
      --fence $CONCLAVE_LOCK_FENCE --owner $CONCLAVE_LOCK_OWNER'

If the lock is lost, because it was broken or because no node confirmed it for as
long as --ttl, COMMAND gets SIGTERM, and SIGKILL after --grace.

Signals are passed on to COMMAND. The exit code is COMMAND's (128 + N when signal
N ended it); 124 when the lock was not granted within --wait, 1 when it was
refused or lost, 3 when no node could be reached.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 2 || len(args) < 3 {
				return fmt.Errorf("want ROOM KEY -- COMMAND")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			// Before the lock is taken: others should not wait for a typing mistake.
			path, err := exec.LookPath(args[2])
			if err != nil {
				return &usageError{err}
			}
			h, err := conn.open()
			if err != nil {
				return err
			}
			defer h.Close()
			child := exec.Command(path, args[3:]...)
			child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return underLock(cmd.Context(), h, args[0], args[1], &o, child, cmd.ErrOrStderr())
		},
	}
	conn.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Store, "store", "default", "`name` of the store")
	f.StringVar(&o.Owner, "owner", "", "`name` to hold the lock under; default: one made up for this run")
	f.DurationVar(&o.TTL, "ttl", client.DefaultTTL, "length of the lease, from 1s to 24h: how long others wait if this machine dies")
	f.DurationVar(&o.Wait, "wait", time.Minute, "how long to queue for the lock; 0: do not wait")
	f.BoolVar(&o.Shared, "shared", false, "hold it together with others who ask for it so")
	f.IntVar(&o.Permits, "permits", 1, "so many may hold it at once, of those who ask for the same `number`")
	f.DurationVar(&o.Delay, "delay", 0, "if the lease lapses, nobody gets the lock for so long, at most 1h")
	f.DurationVar(&o.grace, "grace", 5*time.Second, "time between SIGTERM and SIGKILL when the lock is lost")
	f.DurationVar(&o.Open, "open", 5*time.Minute, "open a session with this idle timeout if the room has none; 0: never")
	conn.completes(cmd, completeRooms, completeKeys)
	names := cmd.ValidArgsFunction
	cmd.ValidArgsFunction = func(cmd *cobra.Command, words []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(words) >= 2 {
			return nil, cobra.ShellCompDirectiveDefault // COMMAND is the shell's to complete
		}
		return names(cmd, words, prefix)
	}
	return cmd
}

// underLock acquires the lock, runs the child, and releases the lock whatever
// became of it.
func underLock(ctx context.Context, h *client.HTTP, room, key string, o *lockOptions, child *exec.Cmd, stderr io.Writer) error {
	// Signals are caught from here on: one that comes while waiting ends the wait,
	// a later one goes to the child.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	lock, err := acquire(ctx, h, room, key, o, signals)
	if err != nil {
		return err
	}
	child.Env = append(os.Environ(),
		fmt.Sprintf("CONCLAVE_LOCK_FENCE=%d", lock.Fence()), "CONCLAVE_LOCK_OWNER="+lock.Owner())
	lost, err := supervise(lock, child, signals, o.grace)

	// Longer than the lease is no use: then it has ended by itself.
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.TTL)
	defer cancel()
	unlockErr := lock.Unlock(release)
	switch {
	case lost != nil:
		return fmt.Errorf("lock on %s lost: %w", key, lost)
	case unlockErr != nil:
		// The child has done its work; the lock goes with its lease.
		fmt.Fprintf(stderr, "the lock on %s was not released and ends within %v: %v\n", key, o.TTL, unlockErr)
	}
	return childError(err)
}

// acquire waits for the lock. An interrupted wait (the node died) is taken up
// at another node, in the same owner's name: should the lock have been granted
// meanwhile, the repeated request finds that grant. A signal ends the wait.
func acquire(ctx context.Context, h *client.HTTP, room, key string, o *lockOptions, signals <-chan os.Signal) (*client.Lock, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case sig := <-signals:
			cancel(&exitError{128 + int(sig.(syscall.Signal)), nil})
		case <-stopped:
		}
	}()

	p, until := o.LockParams, time.Now().Add(o.Wait)
	if p.Owner == "" {
		p.Owner = "cli-" + rand.Text()
	}
	for {
		lock, err := h.Lock(ctx, room, key, p)
		if err == nil {
			return lock, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p.Wait = time.Until(until)
		if !client.HasCode(err, wire.Unavailable) && !client.HasCode(err, wire.UnknownOutcome) || p.Wait <= 0 {
			return nil, err
		}
	}
}

// supervise runs the child until it ends. When the lock is lost first, it ends
// the child, and lost is why.
func supervise(lock *client.Lock, child *exec.Cmd, signals <-chan os.Signal, grace time.Duration) (lost, err error) {
	if err := child.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	terminal := onTerminal()
	gone := lock.Done()
	var kill <-chan time.Time
	for {
		select {
		case err := <-ended:
			return lost, err
		case sig := <-signals:
			// A terminal sends what is typed on it to the child as well: once is
			// enough, since many programs take a second Ctrl-C to mean "at once".
			if typed := sig == os.Interrupt || sig == syscall.SIGQUIT; !typed || !terminal {
				child.Process.Signal(sig)
			}
		case <-gone:
			gone, lost = nil, lock.Err()
			child.Process.Signal(syscall.SIGTERM)
			kill = time.After(grace)
		case <-kill:
			child.Process.Kill()
		}
	}
}

// onTerminal reports whether standard input is a terminal, so that its keys
// reach the whole process group.
func onTerminal() bool {
	info, err := os.Stdin.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// childError passes on how the child ended, as a shell would.
func childError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &exitError{128 + int(status.Signal()), nil}
	}
	return &exitError{exit.ExitCode(), nil}
}
