package fsm

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// driven is a machine fed as raft feeds it.
type driven struct {
	t         *testing.T
	m         *Machine
	index     uint64
	seq       uint64
	published []*Published
	fatal     error
}

func newDriven(t *testing.T) *driven {
	d := &driven{t: t}
	d.m = NewMachine(func(err error) { d.fatal = err })
	d.m.Observe(func(p *Published) { d.published = append(d.published, p) })
	d.m.Apply(d.log(Batch{Node: "n1", Incarnation: 1, Register: &Register{}}))
	return d
}

func (d *driven) log(batches ...Batch) *raft.Log {
	d.t.Helper()
	data, err := EncodeProposal(&Proposal{V: FormatVersion, Time: 1, Wall: 1, Batches: batches})
	if err != nil {
		d.t.Fatal(err)
	}
	d.index++
	return &raft.Log{Index: d.index, Term: 3, Type: raft.LogCommand, Data: data}
}

func (d *driven) commands(cmds ...Command) *raft.Log {
	d.seq++
	return d.log(Batch{Node: "n1", Incarnation: 1, Seq: d.seq, Commands: cmds})
}

func (d *driven) last() *Published { return d.published[len(d.published)-1] }

func revs(frames []*Frame) (list []uint64) {
	for _, f := range frames {
		list = append(list, f.Rev)
	}
	return list
}

func TestMachine_PublishesOnce(t *testing.T) {
	d := newDriven(t)
	published := len(d.published)
	logs := []*raft.Log{d.commands(joinCommand("a")), d.commands(joinCommand("b"), joinCommand("a"))}
	d.index++
	logs = append(logs, &raft.Log{Index: d.index, Term: 3, Type: raft.LogConfiguration, Data: []byte("not ours")})
	if got := d.m.ApplyBatch(logs); len(got) != 3 {
		t.Fatalf("%d answers", len(got))
	}
	if len(d.published) != published+1 {
		t.Fatalf("published %d times", len(d.published)-published)
	}
	p := d.last()
	if len(p.Changed) != 2 || p.Changed[0].Room != "a" || p.Changed[1].Room != "b" || len(p.Batches) != 2 || p.Index != 4 || p.Term != 3 || p.View != d.m.View() {
		t.Errorf("published %+v", p)
	}
	if v := d.m.View(); v.Rev() != 3 || v.Index() != 4 || v.Now() != 1 {
		t.Errorf("rev %d, index %d, now %d", v.Rev(), v.Index(), v.Now())
	}
}

// TestMachine_RingBeforeObservers: whoever is woken finds its frames.
func TestMachine_RingBeforeObservers(t *testing.T) {
	d := newDriven(t)
	checked := 0
	d.m.Observe(func(p *Published) {
		for _, change := range p.Changed {
			room := change.Room
			s := p.View.Session(room)
			if frames, _, ok := d.m.Ring(room).After(s.LastEventRev-1, p.View.Rev(), 1<<20); !ok || len(frames) != 1 {
				t.Errorf("the ring of %s lacks %d", room, s.LastEventRev)
			}
			checked++
		}
	})
	d.m.Apply(d.commands(joinCommand("a"), joinCommand("b")))
	d.m.Apply(d.commands(joinCommand("b")))
	if checked != 3 {
		t.Errorf("checked %d", checked)
	}
}

func TestMachine_RingOfASession(t *testing.T) {
	d := newDriven(t)
	d.m.Apply(d.commands(joinCommand("a")))
	first := d.m.Ring("a")
	if frames, more, ok := first.After(0, 99, 1<<20); !ok || more || !slices.Equal(revs(frames), []uint64{1}) {
		t.Fatalf("frames %v, ok %v", revs(frames), ok)
	}
	// The session ends and another begins in one publication.
	d.m.Apply(d.commands(Command{Kind: CommandEnd, Room: "a"}, joinCommand("a"), joinCommand("a")))
	second := d.m.Ring("a")
	if second == first || second.Session() == first.Session() {
		t.Fatal("the next session has the ring of the last")
	}
	if closed, restored := first.Closed(); !closed || restored {
		t.Error("the ring of the ended session is open")
	}
	frames, _, ok := first.After(1, 99, 1<<20)
	if !ok || len(frames) != 1 || frames[0].Events[0].State != "ended" {
		t.Errorf("the last frame is %v", revs(frames))
	}
	if frames, _, ok := second.After(2, 99, 1<<20); !ok || !slices.Equal(revs(frames), []uint64{3, 4}) || second.Floor() != 2 {
		t.Errorf("the next session's frames are %v, floor %d", revs(frames), second.Floor())
	}
	if d.m.Ring("nobody") != nil {
		t.Error("a room without a session has a ring")
	}
}

func TestMachine_Restore(t *testing.T) {
	d := newDriven(t)
	d.m.Apply(d.commands(joinCommand("a"), joinCommand("b")))
	ahead := newDriven(t)
	ahead.m.Apply(ahead.commands(joinCommand("a"), joinCommand("b")))
	ahead.m.Apply(ahead.commands(joinCommand("b")))
	var file bytes.Buffer
	if err := persist(ahead.m, &file); err != nil {
		t.Fatal(err)
	}
	want := ahead.m.View().Hash()
	old := d.m.Ring("a")
	t.Run("a broken snapshot changes nothing", func(t *testing.T) {
		broken := bytes.Clone(file.Bytes())
		broken[len(broken)/2] ^= 1
		before := d.m.View()
		if err := d.m.Restore(io.NopCloser(bytes.NewReader(broken))); err == nil {
			t.Fatal("restored")
		}
		if d.m.View() != before || d.fatal != nil {
			t.Error("the state was replaced")
		}
		if closed, _ := old.Closed(); closed {
			t.Error("a ring was closed")
		}
	})
	if err := d.m.Restore(io.NopCloser(&file)); err != nil {
		t.Fatal(err)
	}
	if d.m.View().Hash() != want || !d.last().Restored || d.last().View != d.m.View() {
		t.Error("another state was restored")
	}
	if closed, restored := old.Closed(); !closed || !restored {
		t.Error("the old ring is open")
	}
	ring := d.m.Ring("a")
	if ring == old || ring.Floor() != 1 {
		t.Errorf("the floor is %d", ring.Floor())
	}
	if _, _, ok := ring.After(0, 99, 1<<20); ok {
		t.Error("it claims to have what came before the restart")
	}
	d.index, d.seq = ahead.index, ahead.seq // the log goes on where the snapshot was made
	d.m.Apply(d.commands(joinCommand("a")))
	if frames, _, ok := ring.After(1, 99, 1<<20); !ok || !slices.Equal(revs(frames), []uint64{4}) {
		t.Errorf("after the restore: %v %v", revs(frames), ok)
	}
}

func persist(m *Machine, file *bytes.Buffer) error {
	s, err := m.Snapshot()
	if err != nil {
		return err
	}
	defer s.Release()
	return s.Persist(&sink{Buffer: file})
}

// sink is raft's place for a snapshot.
type sink struct {
	*bytes.Buffer
	cancelled bool
}

func (s *sink) ID() string    { return "test" }
func (s *sink) Cancel() error { s.cancelled = true; return nil }
func (s *sink) Close() error  { return nil }

func TestMachine_StopsAtWhatItCannotRead(t *testing.T) {
	for name, data := range map[string][]byte{
		"nonsense":       []byte("nonsense"),
		"a later format": must(encMode.Marshal(&Proposal{V: FormatVersion + 1})),
		"a new member":   must(encMode.Marshal(map[int]any{1: FormatVersion, 99: true})),
		"nothing":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriven(t)
			good := d.commands(joinCommand("a"))
			bad := &raft.Log{Index: d.index + 1, Term: 3, Type: raft.LogCommand, Data: data}
			d.index++
			after := d.commands(joinCommand("a"))
			d.m.ApplyBatch([]*raft.Log{good, bad, after})
			if d.fatal == nil || !strings.Contains(d.fatal.Error(), "log entry 3") {
				t.Fatalf("fatal: %v", d.fatal)
			}
			d.m.Apply(after)
			if v := d.m.View(); v.Index() != 2 || v.Rev() != 1 {
				t.Errorf("applied up to %d, rev %d", v.Index(), v.Rev())
			}
		})
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// TestMachine_ReadersNeedNoLock has readers of views and rings beside a writer;
// the race detector is the judge, and a view must agree with itself.
func TestMachine_ReadersNeedNoLock(t *testing.T) {
	d := newDriven(t)
	d.m.Apply(d.commands(joinCommand("a")))
	by := Caller{Kind: CallerPeer, Peer: "p1"}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			seen := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := d.m.View()
				s := v.Session("a")
				keys, bytes := 0, 0
				s.Entries(DefaultStore, "", "", func(e *Entry) bool {
					keys, bytes = keys+1, bytes+len(e.Key)+len(e.Value)
					return true
				})
				if c := s.Counts(); c.Keys != keys || c.Bytes != bytes {
					t.Errorf("a view counts %+v and has %d keys, %d bytes", c, keys, bytes)
				}
				frames, _, ok := d.m.Ring("a").After(seen, v.Rev(), 1<<20)
				if ok && s.LastEventRev > seen && frames[len(frames)-1].Rev != s.LastEventRev {
					t.Errorf("the ring ends at %d, the view at %d", frames[len(frames)-1].Rev, s.LastEventRev)
				}
				seen = s.LastEventRev
			}
		})
	}
	for i := range 400 {
		op := Operation{Kind: OpPut, Store: DefaultStore, Key: fmt.Sprint("k", i%150), Value: []byte(fmt.Sprint(i))}
		if i%3 == 0 {
			op.Kind = OpDelete
		}
		d.m.Apply(d.commands(single("a", by, op)))
	}
	close(stop)
	readers.Wait()
}
