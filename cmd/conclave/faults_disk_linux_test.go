package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"conclave/client"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// stopsItself waits until the node has ended by its own decision, with exit code 3
// and the reason on stderr.
func (n *testNode) stopsItself(why string) {
	n.t.Helper()
	if code := n.wait(); code != exitUnavailable {
		n.t.Errorf("%s ended with exit code %d, want %d", n.id, code, exitUnavailable)
	}
	n.said(why)
}

// said looks for the reason in what the node wrote since it was started.
func (n *testNode) said(why string) {
	n.t.Helper()
	if text := n.since(); !strings.Contains(text, why) {
		n.t.Errorf("%s did not say %q", n.id, why)
	}
}

// since is what the node has written since its last start.
func (n *testNode) since() string { return n.log.String()[n.began:] }

// tmpfs mounts a small file system of its own.
func tmpfs(t *testing.T, dir string, bytes string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a full disk needs root, to mount a small one")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); err != nil {
		t.Skipf("this machine does not let us mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// fill takes all space that is left on a file system.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return ballast
}

// A leader's and a follower's disk is full. The node stops itself, does not start
// while it is, and goes on from what it has when there is space again.
func TestG1_faults_of_a_full_disk(t *testing.T) {
	c := prepareCluster(t, 3)
	for _, n := range c.nodes {
		mount := filepath.Join(t.TempDir(), "disk")
		tmpfs(t, mount, "64m")
		n.data = filepath.Join(mount, n.id)
	}
	c.found(comparing...)
	tr := startTrial(c)
	full := func(pick func() *testNode) func() func() {
		return func() func() {
			n := pick()
			ballast := fill(t, filepath.Dir(n.data))
			bulk := tr.http(0)
			eventually(t, n.id+" needs more space than there is", func() bool {
				select {
				case <-n.ended:
					return true
				default:
				}
				if _, err := bulk.Put(t.Context(), tr.room, "bulk", strings.Repeat("x", 60_000), client.WriteParams{}); err != nil {
					t.Fatal(err)
				}
				return false
			})
			n.stopsItself("no space left on device")
			tr.more(10)
			n.start()
			n.stopsItself("no space left on device")
			return func() {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
				n.start()
			}
		}
	}
	tr.run(1,
		mishap{"the leader's disk is full", full(func() *testNode { return tr.leader() })},
		mishap{"a follower's disk is full", full(func() *testNode { return tr.other(tr.leader()) })},
	)
}

// badDisk is a file system that passes everything on to a folder, late or not at
// all when it is told so.
type badDisk struct {
	mu    sync.Mutex
	delay time.Duration
	hang  chan struct{} // every fsync waits until it is closed
	fail  map[string]syscall.Errno
	met   map[string]int // how often a fault was made
}

// mountBad mounts a bad disk over a folder, good as yet, for those who use it.
func mountBad(t *testing.T, dir string, users ...*testNode) *badDisk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a bad disk needs root, to mount a FUSE file system")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("a bad disk needs /dev/fuse: %v", err)
	}
	d := &badDisk{fail: map[string]syscall.Errno{}, met: map[string]int{}}
	under := t.TempDir()
	var st syscall.Stat_t
	if err := errors.Join(os.MkdirAll(dir, 0o700), syscall.Stat(under, &st)); err != nil {
		t.Fatal(err)
	}
	root := &fs.LoopbackRoot{Path: under, Dev: uint64(st.Dev)}
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &badNode{fs.LoopbackNode{RootData: r}, d}
	}
	top := &badNode{fs.LoopbackNode{RootData: root}, d}
	root.RootNode = top
	server, err := fs.Mount(dir, top, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "conclave-test"}})
	if err != nil {
		t.Skipf("this machine does not let us mount a FUSE file system: %v", err)
	}
	t.Cleanup(func() {
		d.heal()
		for _, n := range users {
			n.kill()
		}
		if err := server.Unmount(); err != nil {
			syscall.Unmount(dir, syscall.MNT_DETACH)
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return d
}

func (d *badDisk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// heal makes the disk good again, and lets go what hangs.
func (d *badDisk) heal() {
	d.set(func() {
		if d.hang != nil {
			close(d.hang)
		}
		d.hang, d.delay = nil, 0
		clear(d.fail)
		clear(d.met)
	})
}

func (d *badDisk) made(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met[what]
}

// do is what happens before an operation.
func (d *badDisk) do(what string) syscall.Errno {
	d.mu.Lock()
	delay, hang, errno := time.Duration(0), chan struct{}(nil), d.fail[what]
	if what == "fsync" {
		delay, hang = d.delay, d.hang
	}
	if errno != 0 || hang != nil || delay > 0 {
		d.met[what]++
	}
	d.mu.Unlock()
	time.Sleep(delay)
	if hang != nil {
		<-hang
	}
	return errno
}

type badNode struct {
	fs.LoopbackNode
	disk *badDisk
}

// badFile keeps the kernel from going past us to the folder's own file.
type badFile struct{ *fs.LoopbackFile }

func (f badFile) PassthroughFd() (int, bool) { return 0, false }

func (n *badNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, with, errno := n.LoopbackNode.Open(ctx, flags)
	if own, ok := f.(*fs.LoopbackFile); ok {
		return badFile{own}, with, errno
	}
	return f, with, errno
}

func (n *badNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	node, f, with, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if own, ok := f.(*fs.LoopbackFile); ok {
		return node, badFile{own}, with, errno
	}
	return node, f, with, errno
}

func (n *badNode) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	if errno := n.disk.do("fsync"); errno != 0 {
		return errno
	}
	if s, ok := f.(fs.FileFsyncer); ok {
		return s.Fsync(ctx, flags)
	}
	return 0 // of a folder
}

func (n *badNode) Write(ctx context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.disk.do("write"); errno != 0 {
		return 0, errno
	}
	return f.(fs.FileWriter).Write(ctx, data, off)
}

func (n *badNode) Read(ctx context.Context, f fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.disk.do("read"); errno != 0 {
		return nil, errno
	}
	return f.(fs.FileReader).Read(ctx, dest, off)
}

// A disk fails, hangs and is slow. A node whose disk fails, or hangs for longer than
// its limit, stops itself, whether it leads or not, and the others go on.
func TestG1_faults_of_a_bad_disk(t *testing.T) {
	c := prepareCluster(t, 3)
	disks := map[string]*badDisk{}
	for _, n := range c.nodes {
		mount := filepath.Join(t.TempDir(), "disk")
		disks[n.id] = mountBad(t, mount, n)
		n.data = filepath.Join(mount, n.id)
	}
	c.found(comparing...)
	tr := startTrial(c)
	leader := func() *testNode { return tr.leader() }
	follower := func() *testNode { return tr.other(tr.leader()) }
	fails := func(pick func() *testNode, what string) func() func() {
		return func() func() {
			n := pick()
			d := disks[n.id]
			d.set(func() { d.fail[what] = syscall.EIO })
			n.stopsItself("input/output error")
			tr.more(10)
			return func() { d.heal(); n.start() }
		}
	}
	hangs := func(pick func() *testNode) func() func() {
		return func() func() {
			n := pick()
			d := disks[n.id]
			d.set(func() { d.hang = make(chan struct{}) })
			// The process ends when the kernel lets go of it. It does nothing any more.
			eventually(t, n.id+" gives its disk up", func() bool { return strings.Contains(n.since(), "stops itself") })
			tr.more(10)
			return func() {
				d.heal()
				n.stopsItself("has not returned for 10s")
				n.start()
			}
		}
	}
	tr.run(2,
		mishap{"an fsync of the leader fails", fails(leader, "fsync")},
		mishap{"an fsync of a follower fails", fails(follower, "fsync")},
		mishap{"a write of the leader fails", fails(leader, "write")},
		mishap{"the leader's disk hangs", hangs(leader)},
		mishap{"a follower's disk hangs", hangs(follower)},
		mishap{"a follower starts on a disk that cannot be read", func() func() {
			n := follower()
			n.kill()
			d := disks[n.id]
			d.set(func() { d.fail["read"] = syscall.EIO })
			n.start()
			n.stopsItself("input/output error")
			n.said(filepath.Join(n.data, "raft.db"))
			return func() { d.heal(); n.start() }
		}},
		mishap{"all disks are slow", func() func() {
			for _, d := range disks {
				d.set(func() { d.delay = 50 * time.Millisecond })
			}
			tr.more(20)
			return func() {
				for id, d := range disks {
					if d.made("fsync") == 0 {
						t.Errorf("the disk of %s was never slow", id)
					}
					d.heal()
				}
			}
		}},
	)
}

// The bad disk is one: what it is told to do to a file happens.
func TestFaults_the_bad_disk_is_bad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	d := mountBad(t, dir)
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	d.set(func() {
		d.fail["fsync"], d.fail["write"], d.fail["read"] = syscall.EIO, syscall.ENOSPC, syscall.EIO
	})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync: %v", err)
	}
	if _, err := f.WriteString("more"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if _, err := os.ReadFile(path); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	d.heal()
	d.set(func() { d.hang = make(chan struct{}) })
	synced := make(chan error, 1)
	go func() { synced <- f.Sync() }()
	eventually(t, "an fsync hangs", func() bool { return d.made("fsync") == 1 })
	if len(synced) > 0 {
		t.Errorf("it does not hang: %v", <-synced)
	}
	d.heal()
	if err := <-synced; err != nil {
		t.Error(err)
	}
	f.Seek(0, io.SeekStart)
	if data, err := io.ReadAll(f); err != nil || string(data) != "text" {
		t.Errorf("the file has %q, %v", data, err)
	}
}
