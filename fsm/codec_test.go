package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/lock"
)

var update = flag.Bool("update", false, "write golden files that do not exist yet; those that do are never changed")

// fill sets everything in v to something that is not zero.
func fill(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("cbor"), ","); name != "-" {
				fill(v.Field(i), n+i)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n+i)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("s", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(1000*n + 1))
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(n%100 + 1))
	default:
		panic(v.Kind())
	}
}

// fullProposal has every member set.
func fullProposal() *Proposal {
	p := new(Proposal)
	fill(reflect.ValueOf(p).Elem(), 1)
	p.V = FormatVersion
	for i := range p.Batches {
		p.Batches[i].Register = nil // commands and a registration exclude each other
	}
	p.Batches = append(p.Batches, Batch{Node: "n3", Incarnation: 4, Register: new(Register)})
	fill(reflect.ValueOf(p.Batches[2].Register).Elem(), 1)
	return p
}

func TestProposal_RoundTrip(t *testing.T) {
	want := fullProposal()
	got, err := DecodeProposal(must(EncodeProposal(want)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	batch, err := DecodeBatch(must(EncodeBatch(&want.Batches[0])))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&want.Batches[0], batch); d != "" {
		t.Errorf("batch (-want +got):\n%s", d)
	}
}

func TestDecode_Refuses(t *testing.T) {
	large := func(n int) Command {
		return single("r", Caller{}, Operation{Kind: OpPut, Key: "k", Value: make([]byte, n)})
	}
	batch := func(cmds ...Command) Batch { return Batch{Node: "n", Incarnation: 1, Seq: 1, Commands: cmds} }
	proposal := func(batches ...Batch) []byte {
		return must(EncodeProposal(&Proposal{V: FormatVersion, Batches: batches}))
	}
	if _, err := DecodeProposal(proposal(batch(large(MaxCommandBytes - 1000)))); err != nil {
		t.Errorf("one large command: %v", err)
	}
	for name, data := range map[string][]byte{
		"too large a command":          proposal(batch(large(MaxCommandBytes + entrySlack))),
		"too many bytes of several":    proposal(batch(large(MaxProposalBytes), large(MaxProposalBytes))),
		"a batch without a node":       proposal(Batch{Incarnation: 1, Seq: 1}),
		"a batch without incarnation":  proposal(Batch{Node: "n", Seq: 1}),
		"a registration with commands": proposal(Batch{Node: "n", Incarnation: 1, Register: &Register{}, Commands: []Command{{}}}),
		"number 0 without register":    proposal(Batch{Node: "n", Incarnation: 1}),
		"version 0":                    must(EncodeProposal(&Proposal{})),
		"something behind":             append(proposal(), 0),
		"a tag":                        must(decHex("c0a10101")),
		"a double key":                 must(decHex("a201010101")),
		"an indefinite length":         must(decHex("bf0101ff")),
		"a huge array":                 must(decHex("a20101049bffffffffffffffff")),
		"deep nesting":                 append(must(decHex("a2010104")), bytes.Repeat([]byte{0x81}, 1000)...),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeProposal(data); err == nil {
				t.Error("decoded")
			}
		})
	}
}

func decHex(s string) ([]byte, error) {
	var data []byte
	_, err := fmt.Sscanf(s, "%x", &data)
	return data, err
}

// goldenState has every kind of record, with most members set.
func goldenState(t tester) *State {
	w := newWorld(t)
	w.propose(&Proposal{Controls: []Control{
		{Kind: ControlGenesis, Cluster: "c1"}, {Kind: ControlReplica, Node: "n7"}, {Kind: ControlReplica, Node: "n8"},
	}})
	w.joined("a")
	w.must(Command{Kind: CommandEnd, Room: "a", Client: "c", Request: 3})
	ada := w.joined("a")
	bob := w.joined("a")
	join := joinCommand("a")
	join.Client, join.Request, join.Caller.User = "c9", 1, "eve"
	join.Join = &Join{Key: "k", Name: "Eve", Ref: "7", Role: "host", Data: []byte(`{"x":1}`), TTL: 9000}
	w.must(join)
	bound := putOp("hand", "true")
	bound.TTL, bound.Bind = 60_000, bob.Peer
	put := single("a", ada, bound)
	put.Client, put.Request = "c9", 2
	w.must(put)
	w.must(acquireCommand("a", ada, 5000, 0))
	wait := acquireCommand("a", bob, 0, 30_000)
	wait.Client, wait.Request, wait.Acquire.Lock.Data = "c9", 3, []byte("1")
	w.must(wait)
	http := acquireCommand("a", Caller{User: "u", Owner: "o"}, 7000, 40_000)
	http.Idem, http.Hash = "key", []byte{1, 2}
	http.Acquire.Node, http.Acquire.Incarnation, http.Acquire.Waiter = "n1", 1, "w1"
	w.must(http)
	shared := acquireCommand("a", ada, 5000, 0)
	shared.Acquire.Key, shared.Acquire.Lock.Shared, shared.Acquire.Lock.Delay = "doc", true, 3000
	w.must(shared)
	seats := acquireCommand("a", bob, 0, 30_000)
	seats.Acquire.Key, seats.Acquire.Lock.Permits, seats.Acquire.Lock.Delay = "doc", 3, 4000
	w.must(seats)
	lapses := acquireCommand("a", Caller{User: "u", Owner: "lapses"}, 1000, 0)
	lapses.Acquire.Key, lapses.Acquire.Lock.Delay = "gate", 60_000
	fence := w.must(lapses).Fence
	w.now += 1000
	w.propose(&Proposal{Controls: []Control{
		{Kind: ControlLeaseEnd, Term: w.term, Room: "a", Store: DefaultStore, Key: "gate", Fence: fence},
	}})
	w.must(Command{Kind: CommandDetach, Room: "a", Caller: bob, Target: bob.Peer})
	no := single("a", ada, putOp("k", "1"))
	no.Client, no.Request = "c8", 1
	w.one(no)
	w.must(Command{
		Kind: CommandOpen, Room: "b", Open: &Open{Profile: "standard", Limits: standardLimits, Grace: 1, Linger: 2, Idle: 3000},
		Txn: &Txn{Then: []Operation{putOp("x", "1"), {Kind: OpPut, Store: "plan", Key: "y", Value: []byte("2")}}},
	})
	lingering := joinCommand("c")
	lingering.Open.Linger = 60_000
	r := w.must(lingering)
	w.must(Command{Kind: CommandLeave, Room: "c", Target: r.Peer})
	return w.s
}

// TestGolden reads what earlier versions wrote: it must stay readable, and mean
// the same, for ever.
func TestGolden(t *testing.T) {
	write := func(name string, data []byte) string {
		t.Helper()
		file := filepath.Join("testdata", "golden", name)
		if _, err := os.Stat(file); *update && errors.Is(err, os.ErrNotExist) {
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return file
	}
	var snapshot bytes.Buffer
	if err := goldenState(t).Publish().WriteSnapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	write("entry-v1.cbor", must(EncodeProposal(fullProposal())))
	write("entry-v1-operations.cbor", must(EncodeProposal(fullProposal()))) // with updates to sends
	write("snapshot-v1.bin", snapshot.Bytes())
	write("snapshot-v1-locks.bin", snapshot.Bytes()) // with shared and counting locks, and delays
	entries, _ := filepath.Glob("testdata/golden/entry-*.cbor")
	snapshots, _ := filepath.Glob("testdata/golden/snapshot-*.bin")
	if len(entries) == 0 || len(snapshots) == 0 {
		t.Fatal("no golden files")
	}
	for _, file := range entries {
		data := must(os.ReadFile(file))
		p, err := DecodeProposal(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		} else if again := must(EncodeProposal(p)); !bytes.Equal(again, data) {
			t.Errorf("%s: reading and writing changes it", file)
		}
	}
	for _, file := range snapshots {
		data := must(os.ReadFile(file))
		s, err := ReadSnapshot(bytes.NewReader(data))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		var again bytes.Buffer
		if err := s.Publish().WriteSnapshot(&again); err != nil || !bytes.Equal(again.Bytes(), data) {
			t.Errorf("%s: reading and writing changes it (%v)", file, err)
		}
	}
}

// TestSnapshot_HasEverything: each member of a state that differs makes another
// hash, and comes back. So nothing was left out of the records.
func TestSnapshot_HasEverything(t *testing.T) {
	s := goldenState(t)
	a := s.Publish().Session("a")
	l := *a.Lock(DefaultStore, "k")
	l.Queue = append([]lock.Waiter(nil), l.Queue...)
	fill(reflect.ValueOf(&l.Queue[0]).Elem(), 3)
	fill(reflect.ValueOf(&l.Holders[0]).Elem(), 3)
	e, p := new(Entry), new(Peer)
	fill(reflect.ValueOf(e).Elem(), 5)
	fill(reflect.ValueOf(p).Elem(), 6)
	c := &change{s: s, out: new(Outcome)}
	c.begin("a", Caller{})
	c.setLock(DefaultStore, "k", &l)
	c.put("full", e, nil)
	c.write().peers.write(s.gen).Set(p.ID, p)
	view := s.Publish()
	var file bytes.Buffer
	if err := view.WriteSnapshot(&file); err != nil {
		t.Fatal(err)
	}
	data := file.Bytes()
	if sum := sha256.Sum256(data[:len(data)-34]); sum != view.Hash() || !bytes.HasSuffix(data, sum[:]) {
		t.Error("the hash is not the checksum of the snapshot")
	}
	restored, err := ReadSnapshot(&file)
	if err != nil {
		t.Fatal(err)
	}
	got := restored.Publish()
	b := got.Session("a")
	for what, pair := range map[string][2]any{
		"lock":  {&l, b.Lock(DefaultStore, "k")},
		"entry": {e, b.Entry("full", e.Key)},
		"peer":  {p, b.Peer(p.ID)},
		"sums":  {view.Session("a").Counts(), b.Counts()},
		"nodes": {view.Nodes(), got.Nodes()},
		"state": {[]any{view.Rev(), view.Index(), view.Now(), view.Cluster(), view.Replica("n7")}, []any{got.Rev(), got.Index(), got.Now(), got.Cluster(), got.Replica("n7")}},
	} {
		if d := cmp.Diff(pair[0], pair[1]); d != "" {
			t.Errorf("%s (-before +after):\n%s", what, d)
		}
	}
	if got.Hash() != view.Hash() {
		t.Error("another hash")
	}
}

func TestReadSnapshot_RefusesWhatIsBroken(t *testing.T) {
	var file bytes.Buffer
	if err := goldenState(t).Publish().WriteSnapshot(&file); err != nil {
		t.Fatal(err)
	}
	data := file.Bytes()
	for n := 0; n < len(data); n += 7 {
		if _, err := ReadSnapshot(bytes.NewReader(data[:n])); err == nil {
			t.Fatalf("the first %d bytes of %d are a snapshot", n, len(data))
		}
	}
	for at := range data {
		broken := bytes.Clone(data)
		broken[at] ^= 0x40
		if _, err := ReadSnapshot(bytes.NewReader(broken)); err == nil {
			t.Fatalf("byte %d changed, and it is still a snapshot", at)
		}
	}
	if _, err := ReadSnapshot(bytes.NewReader(append(bytes.Clone(data), 0))); err == nil {
		t.Error("something follows the checksum, and it is still a snapshot")
	}
}
