package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is read as a handshake is exactly what its values would be written as, so
// nothing can be said in two ways, and nothing after it is touched.
func FuzzHandshake(f *testing.F) {
	f.Add(hello{kind: kindRaft, from: Identity{"n1", "abc"}, want: "n2.def"}.append(nil))
	f.Add(hello{kind: kindDial, from: Identity{"n1", "abc"}}.append([]byte{}))
	f.Add(append(welcome{statusWrongPeer, Identity{"n2", "def"}}.append(nil), "more"...))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		if h, err := readHello(r); err == nil {
			wrote := h.append(nil)
			wrote[len(handshakeMagic)] = h.version // append writes our own
			if read := data[:len(data)-r.Len()]; !bytes.Equal(read, wrote) {
				t.Errorf("read %q as %+v, which is written %q", read, h, wrote)
			}
			if w := welcomeFor(h, Identity{"n9", "x"}); w.status == statusWelcome && h.want != "n9.x" && h.want != "" {
				t.Errorf("%+v is welcome at n9.x", h)
			}
		}
		r = bytes.NewReader(data)
		if w, err := readWelcome(r); err == nil {
			wrote := w.append(nil)
			wrote[len(handshakeMagic)] = data[len(handshakeMagic)]
			if read := data[:len(data)-r.Len()]; !bytes.Equal(read, wrote) {
				t.Errorf("read %q as %+v, which is written %q", read, w, wrote)
			}
		}
	})
}

func FuzzFrame(f *testing.F) {
	seed := func(frames ...frame) {
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		for _, fr := range frames {
			writeFrame(w, fr)
		}
		w.Flush()
		f.Add(b.Bytes())
	}
	seed(frame{id: 1, tag: 4, payload: []byte("hello")}, frame{id: 2})
	seed(frame{id: 1 << 60, tag: tagError, payload: bytes.Repeat([]byte("x"), firstRead+1)})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var wrote bytes.Buffer
		w := bufio.NewWriter(&wrote)
		r := bufio.NewReader(bytes.NewReader(data))
		for {
			fr, err := readFrame(r)
			if err != nil {
				if err == io.EOF && r.Buffered() > 0 {
					t.Error("end before the end")
				}
				break
			}
			if err := writeFrame(w, fr); err != nil {
				t.Fatal(err)
			}
		}
		w.Flush()
		if !bytes.HasPrefix(data, wrote.Bytes()) {
			t.Errorf("%q was read as frames that are written %q", data, wrote.Bytes())
		}
	})
}

func TestReadFrame_TellsACutFrameFromTheEnd(t *testing.T) {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	want := frame{id: 7, tag: 3, payload: bytes.Repeat([]byte("p"), firstRead+10)}
	writeFrame(w, want)
	w.Flush()
	whole := b.Bytes()
	got, err := readFrame(bufio.NewReader(bytes.NewReader(whole)))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(frame{})); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	for cut := range len(whole) {
		if cut > 64 && cut < len(whole)-64 {
			continue
		}
		_, err := readFrame(bufio.NewReader(bytes.NewReader(whole[:cut])))
		if want := io.ErrUnexpectedEOF; cut > 0 && !errors.Is(err, want) || cut == 0 && err != io.EOF {
			t.Errorf("cut at %d: got %v", cut, err)
		}
	}
}
