package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// checkBolt reads a bolt file from end to end before bolt does, and finds what
// the disk has changed in it. Bolt itself would not do: of two first pages it takes
// the one that is whole, and so goes back by one transaction, perhaps a vote, when
// the newer one is damaged; and what it finds wrong with others ends the process
// from a goroutine of its own.
//
// Its files are laid out without slack: the elements of a page lie one behind the
// other, in order. So an element that is lost, and one too many, shows.
//
// A crash leaves nothing of the kind: bolt writes new pages beside the old ones,
// and then one first page, whose content lies within one sector of the disk.
func checkBolt(path string, visit func(bucket, key, value []byte) error) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	f := &boltFile{file: file, size: info.Size(), seen: map[uint64]bool{}}
	root, err := f.metas()
	var buckets []string
	if err == nil {
		err = f.page(root, bounds{}, func(key, value []byte, bucket bool) error {
			buckets = append(buckets, string(key))
			return f.bucket(key, value, bucket, visit)
		})
	}
	if err == nil && !slices.Equal(buckets, boltBuckets) {
		err = fmt.Errorf("it has the buckets %q, not %q", buckets, boltBuckets)
	}
	if err != nil {
		return &DamagedError{path, err}
	}
	return nil
}

// boltFile is a bolt file under inspection. The layout is that of bolt's
// internal/common: page.go, meta.go, inode.go.
type boltFile struct {
	file     *os.File
	size     int64
	pageSize int64
	pages    uint64          // pages below this number are in use or free
	seen     map[uint64]bool // pages of the tree
}

const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltHead       = 16 // of a page
	boltElement    = 16 // of a branch or a leaf
	boltMeta       = 64
	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltBucketFlag = 0x01
	boltMetaFlag   = 0x04
	maxBoltPage    = 64 << 10
)

// boltBuckets are what raft-boltdb makes, in order. It would make one anew that is gone.
var boltBuckets = []string{"conf", "logs"}

var (
	errBoltShort = errors.New("the file is cut short")
	native       = binary.NativeEndian
)

// metas verifies both first pages and returns the root of the newer one.
func (f *boltFile) metas() (root uint64, err error) {
	var newest uint64
	for i := range uint64(2) {
		page := make([]byte, boltHead+boltMeta)
		if _, err := f.file.ReadAt(page, int64(i)*f.pageSize); err != nil {
			return 0, readError(err)
		}
		meta := page[boltHead:]
		sum := fnv.New64a()
		sum.Write(meta[:boltMeta-8])
		size := int64(native.Uint32(meta[8:]))
		switch {
		case native.Uint32(meta) != boltMagic || native.Uint32(meta[4:]) != boltVersion:
			return 0, fmt.Errorf("first page %d is none of a bolt file", i)
		case native.Uint64(meta[boltMeta-8:]) != sum.Sum64():
			return 0, fmt.Errorf("first page %d has a wrong checksum", i)
		case native.Uint64(page) != i || native.Uint16(page[8:]) != boltMetaFlag:
			return 0, fmt.Errorf("first page %d has a wrong head", i)
		case size < 1024 || size > maxBoltPage || i > 0 && size != f.pageSize:
			return 0, fmt.Errorf("first page %d: a page size of %d", i, size)
		}
		f.pageSize = size
		if tx := native.Uint64(meta[48:]); i == 0 || tx > newest {
			newest, root, f.pages = tx, native.Uint64(meta[16:]), native.Uint64(meta[40:])
		}
	}
	if f.pages > uint64(f.size/f.pageSize) {
		return 0, fmt.Errorf("%w: %d bytes, not %d", errBoltShort, f.size, f.pages*uint64(f.pageSize))
	}
	return root, nil
}

func readError(err error) error {
	if errors.Is(err, io.EOF) {
		return errBoltShort
	}
	return err
}

// bounds are what the keys of a page may be: from min, and below max unless nil.
type bounds struct{ min, max []byte }

// page reads a page, with those that continue it, and all below it.
func (f *boltFile) page(id uint64, keys bounds, visit func(key, value []byte, bucket bool) error) error {
	if id < 2 || id >= f.pages {
		return fmt.Errorf("a page %d of %d", id, f.pages)
	}
	head := make([]byte, boltHead)
	if _, err := f.file.ReadAt(head, int64(id)*f.pageSize); err != nil {
		return readError(err)
	}
	more := uint64(native.Uint32(head[12:]))
	if native.Uint64(head) != id || id+more >= f.pages {
		return fmt.Errorf("page %d has a wrong head", id)
	}
	for i := id; i <= id+more; i++ {
		if f.seen[i] {
			return fmt.Errorf("page %d is in two places", i)
		}
		f.seen[i] = true
	}
	page := make([]byte, int64(1+more)*f.pageSize)
	if _, err := f.file.ReadAt(page, int64(id)*f.pageSize); err != nil {
		return readError(err)
	}
	if err := f.elements(page, keys, visit); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements reads what is on a page.
func (f *boltFile) elements(page []byte, keys bounds, visit func(key, value []byte, bucket bool) error) error {
	kind, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if kind != boltLeaf && kind != boltBranch || kind == boltBranch && count == 0 {
		return fmt.Errorf("of kind %d, with %d elements", kind, count)
	}
	type element struct {
		flags, child uint64
		key, value   []byte
	}
	var all []element
	end := boltHead + count*boltElement // where the next element's data must begin
	for i := range count {
		at := boltHead + i*boltElement
		if at+boltElement > len(page) {
			return fmt.Errorf("%d elements do not fit", count)
		}
		var e element
		var pos, keySize, valueSize int
		if kind == boltLeaf {
			e.flags, pos = uint64(native.Uint32(page[at:])), int(native.Uint32(page[at+4:]))
			keySize, valueSize = int(native.Uint32(page[at+8:])), int(native.Uint32(page[at+12:]))
		} else {
			pos, keySize, e.child = int(native.Uint32(page[at:])), int(native.Uint32(page[at+4:])), native.Uint64(page[at+8:])
		}
		if at+pos != end || end+keySize+valueSize > len(page) {
			return fmt.Errorf("element %d is out of place", i)
		}
		e.key, e.value = page[end:end+keySize], page[end+keySize:end+keySize+valueSize]
		end += keySize + valueSize
		low := keys.min
		if i > 0 {
			low = all[i-1].key
		}
		if c := bytes.Compare(e.key, low); c < 0 || c == 0 && i > 0 || keys.max != nil && bytes.Compare(e.key, keys.max) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		all = append(all, e)
	}
	for i, e := range all {
		if kind == boltLeaf {
			if err := visit(e.key, e.value, e.flags&boltBucketFlag != 0); err != nil {
				return err
			}
			continue
		}
		below := bounds{e.key, keys.max}
		if i+1 < len(all) {
			below.max = all[i+1].key
		}
		if err := f.page(e.child, below, visit); err != nil {
			return err
		}
	}
	return nil
}

// bucket reads a bucket: on pages of its own, or within the value if it is small.
func (f *boltFile) bucket(name, value []byte, bucket bool, visit func(bucket, key, value []byte) error) error {
	if !bucket || len(value) < 16 {
		return fmt.Errorf("%q is no bucket", name)
	}
	each := func(key, value []byte, bucket bool) error {
		if bucket {
			return fmt.Errorf("%q has a bucket in it", name)
		}
		return visit(name, key, value)
	}
	var err error
	if root := native.Uint64(value); root != 0 {
		err = f.page(root, bounds{}, each)
	} else if len(value) < 16+boltHead {
		err = errors.New("is cut short")
	} else {
		err = f.elements(value[16:], bounds{}, each)
	}
	if err != nil {
		return fmt.Errorf("bucket %q: %w", name, err)
	}
	return nil
}
