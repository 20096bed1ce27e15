//go:build !unix

package cluster

import (
	"os"
	"path/filepath"
)

// lockDir leaves the locking to bolt, which locks raft.db on every system.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
}

// syncDir does nothing: elsewhere a directory is no file that could be synced,
// and the file system's journal keeps names.
func syncDir(string) error { return nil }
