package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/tidwall/btree"
)

// Disk is a host's disk. It outlives the processes that use it: Crash leaves what
// had been synced, and the next Open finds that.
//
// A write returns when it is durable, like a bolt transaction with fsync: whole or
// not at all. Of a write under way a crash leaves either, by the seed.
type Disk struct {
	mu      sync.Mutex // guards the fields, never held while waiting
	rng     *rand.Rand
	sync    time.Duration // how long a write takes: from this to twice as much
	hiccups float64       // probability of a write that takes fifty times as long
	slow    int           // how many times as long every write takes
	vol     *Volume
}

// NewDisk makes an empty disk on which a write takes about sync.
func NewDisk(rng *rand.Rand, sync time.Duration, hiccups float64) *Disk {
	d := &Disk{rng: rng, sync: sync, hiccups: hiccups, slow: 1}
	d.Wipe()
	return d
}

// Open is the disk as a process that starts now finds it.
func (d *Disk) Open() *Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.vol
}

// Crash ends the process that uses the disk: the survivor has what was synced.
// The old volume goes on working for the dead process's goroutines, to no effect,
// so that they can be ended in peace.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.vol
	old.mu.Lock()
	defer old.mu.Unlock()
	survivor := newVolume(d, old.content.fork())
	if old.underWay != nil && d.rng.IntN(2) == 0 {
		old.underWay(survivor.content)
	}
	d.vol = survivor
	close(old.dead)
}

// Wipe replaces the disk by an empty one. The process must be dead.
func (d *Disk) Wipe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vol = newVolume(d, &content{logs: new(btree.Map[uint64, *raft.Log]), stable: map[string][]byte{}})
}

// Hang makes writes hang until Work or the process's end.
func (d *Disk) Hang() { d.Open().hang(make(chan struct{})) }

// Work ends Hang, Fail and Slow.
func (d *Disk) Work() {
	d.Slow(1)
	d.Open().hang(nil)
}

// Slow makes writes take so many times as long.
func (d *Disk) Slow(times int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = times
}

// ForgetSnapshot loses the newest snapshot, if the one before and the log hold
// everything that it held. The process must be dead.
func (d *Disk) ForgetSnapshot() bool {
	v := d.Open()
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.content.snapshots)
	if n < 2 {
		return false
	}
	for i := v.content.snapshots[n-2].meta.Index + 1; i <= v.content.snapshots[n-1].meta.Index; i++ {
		if _, ok := v.content.logs.Get(i); !ok {
			return false // a snapshot that was installed leaves a gap before it
		}
	}
	v.content.snapshots = slices.Clone(v.content.snapshots[:n-1])
	return true
}

// Fail makes writes to the log fail with err.
func (d *Disk) Fail(err error) {
	v := d.Open()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failing = err
}

// Corrupt has the disk give back other bytes than were written: everything that is
// old in the log's entries becomes what is new, of the same length. It returns how
// many entries that changed. The process must be dead.
func (d *Disk) Corrupt(old, new string) (changed int) {
	v := d.Open()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.content.logs.Values() {
		if bytes.Contains(l.Data, []byte(old)) {
			clone := *l
			clone.Data = bytes.ReplaceAll(l.Data, []byte(old), []byte(new))
			v.content.logs.Set(clone.Index, &clone)
			changed++
		}
	}
	return changed
}

func (d *Disk) delay() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sync <= 0 {
		return 0
	}
	delay := d.sync + time.Duration(d.rng.Int64N(int64(d.sync)))
	if d.rng.Float64() < d.hiccups {
		delay *= 50
	}
	return delay * time.Duration(d.slow)
}

// Volume is a Disk as one process sees it: raft's three stores.
type Volume struct {
	disk *Disk
	turn chan struct{} // cap 1: one write at a time, as in bolt
	dead chan struct{} // closed when the process has crashed

	mu       sync.Mutex
	content  *content
	underWay func(*content) // the write that is being synced
	gate     chan struct{}  // writes wait until it closes; nil: they need not
	failing  error
}

// content is what is on the disk.
type content struct {
	logs      *btree.Map[uint64, *raft.Log] // values are never changed
	stable    map[string][]byte
	snapshots []*snapshot // newest last
}

func (c *content) fork() *content {
	return &content{c.logs.Copy(), maps.Clone(c.stable), slices.Clone(c.snapshots)}
}

var (
	_ raft.LogStore    = (*Volume)(nil)
	_ raft.StableStore = (*Volume)(nil)
)

// errNotFound has the text that raft compares with.
var errNotFound = errors.New("not found")

func newVolume(d *Disk, c *content) *Volume {
	return &Volume{disk: d, turn: make(chan struct{}, 1), dead: make(chan struct{}), content: c}
}

func (v *Volume) hang(gate chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gate != nil {
		close(v.gate)
	}
	v.gate, v.failing = gate, nil
}

// write makes one change durable.
func (v *Volume) write(change func(*content)) {
	v.turn <- struct{}{}
	defer func() { <-v.turn }()
	v.mu.Lock()
	v.underWay = change
	gate := v.gate
	v.mu.Unlock()
	time.Sleep(v.disk.delay())
	if gate != nil {
		select {
		case <-gate:
		case <-v.dead:
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.underWay = nil
	change(v.content)
}

// FirstIndex implements raft.LogStore.
func (v *Volume) FirstIndex() (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first, _, _ := v.content.logs.Min()
	return first, nil
}

// LastIndex implements raft.LogStore.
func (v *Volume) LastIndex() (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	last, _, _ := v.content.logs.Max()
	return last, nil
}

// GetLog implements raft.LogStore.
func (v *Volume) GetLog(index uint64, log *raft.Log) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, ok := v.content.logs.Get(index)
	if !ok {
		return raft.ErrLogNotFound
	}
	*log = *found
	return nil
}

// StoreLog implements raft.LogStore.
func (v *Volume) StoreLog(log *raft.Log) error { return v.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore; all of them in one transaction.
func (v *Volume) StoreLogs(logs []*raft.Log) error {
	v.mu.Lock()
	err := v.failing
	v.mu.Unlock()
	if err != nil {
		return err
	}
	copies := make([]*raft.Log, len(logs))
	for i, log := range logs {
		c := *log
		copies[i] = &c
	}
	v.write(func(c *content) {
		for _, log := range copies {
			c.logs.Set(log.Index, log)
		}
	})
	return nil
}

// DeleteRange implements raft.LogStore.
func (v *Volume) DeleteRange(first, last uint64) error {
	v.write(func(c *content) {
		var found []uint64
		c.logs.Ascend(first, func(index uint64, _ *raft.Log) bool {
			if index <= last {
				found = append(found, index)
			}
			return index < last
		})
		for _, index := range found {
			c.logs.Delete(index)
		}
	})
	return nil
}

// Set implements raft.StableStore.
func (v *Volume) Set(key, value []byte) error {
	k, val := string(key), slices.Clone(value)
	v.write(func(c *content) { c.stable[k] = val })
	return nil
}

// Get implements raft.StableStore. Like bolt's, it answers an absent key with an
// error that raft knows by its text.
func (v *Volume) Get(key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value, ok := v.content.stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return slices.Clone(value), nil
}

// SetUint64 implements raft.StableStore.
func (v *Volume) SetUint64(key []byte, n uint64) error {
	return v.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// GetUint64 implements raft.StableStore.
func (v *Volume) GetUint64(key []byte) (uint64, error) {
	value, err := v.Get(key)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}
