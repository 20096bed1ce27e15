package cluster

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Every connection between nodes begins with a hello of the dialler and a welcome
// of the acceptor:
//
//	hello    magic(4) version(1) kind(1)   node(str) dir(str) want(str)
//	welcome  magic(4) version(1) status(1) node(str) dir(str)
//
// where str is a length byte and as many bytes, so neither is longer than 774
// bytes. want is the server id that the dialler means to reach: an address that
// now leads to another node, or to the same node with another data directory, is
// refused before a byte of raft's is exchanged. Who may connect at all is TLS's
// business, underneath.
const (
	handshakeMagic   = "CNCV" // neither the start of a TLS record nor of an HTTP request
	handshakeVersion = 1

	maxName = 255 // bytes of a str
)

// connKind is what a connection is for.
type connKind byte

const (
	kindRaft    connKind = 1 // raft's requests, to a known server
	kindChannel connKind = 2 // the node channel, to a known server
	kindDial    connKind = 3 // the node channel, to whoever answers
)

func (k connKind) String() string {
	switch k {
	case kindRaft:
		return "raft connection"
	case kindChannel:
		return "channel connection"
	case kindDial:
		return "first contact"
	}
	return fmt.Sprintf("connection of kind %d", byte(k))
}

// connStatus is how a hello is answered.
type connStatus byte

const (
	statusWelcome    connStatus = 0
	statusWrongPeer  connStatus = 1 // not who is wanted
	statusNotSpoken  connStatus = 2 // this version or kind is not known here
	statusBadRequest connStatus = 3 // the kind and what is wanted do not go together
)

func (s connStatus) String() string {
	switch s {
	case statusWelcome:
		return "welcome"
	case statusWrongPeer:
		return "wrong peer"
	case statusNotSpoken:
		return "version or kind not spoken"
	case statusBadRequest:
		return "kind does not match what is wanted"
	}
	return fmt.Sprintf("status %d", byte(s))
}

// WrongPeerError says that another node than the wanted one answers at an
// address, or the same node with another data directory.
type WrongPeerError struct {
	Addr string
	Want raft.ServerID
	Got  Identity
}

func (e *WrongPeerError) Error() string {
	return fmt.Sprintf("wanted %s at %s, %s answers", e.Want, e.Addr, e.Got.ServerID())
}

type hello struct {
	version byte // as read; append writes our own
	kind    connKind
	from    Identity
	want    raft.ServerID
}

type welcome struct {
	status connStatus
	from   Identity
}

var errNotAPeer = errors.New("not a peer's handshake")

// check says whether an identity fits into a handshake.
func (i Identity) check() error {
	if i.Node == "" || i.Dir == "" || len(i.ServerID()) > maxName {
		return fmt.Errorf("identity %q has an empty part or is too long", i.ServerID())
	}
	return nil
}

func (h hello) append(b []byte) []byte {
	b = append(b, handshakeMagic...)
	b = append(b, handshakeVersion, byte(h.kind))
	return appendStrings(b, h.from.Node, h.from.Dir, string(h.want))
}

func (w welcome) append(b []byte) []byte {
	b = append(b, handshakeMagic...)
	b = append(b, handshakeVersion, byte(w.status))
	return appendStrings(b, w.from.Node, w.from.Dir)
}

// readHello reads exactly one hello. A later version must begin in the same way,
// so that it can be answered.
func readHello(r io.Reader) (hello, error) {
	version, kind, s, err := readHandshake(r, 3)
	if err != nil {
		return hello{}, err
	}
	h := hello{version: version, kind: connKind(kind), from: Identity{s[0], s[1]}, want: raft.ServerID(s[2])}
	return h, h.from.check()
}

func readWelcome(r io.Reader) (welcome, error) {
	_, status, s, err := readHandshake(r, 2)
	if err != nil {
		return welcome{}, err
	}
	w := welcome{status: connStatus(status), from: Identity{s[0], s[1]}}
	return w, w.from.check()
}

// readHandshake reads what hello and welcome have in common, and not a byte more:
// what follows belongs to the connection's kind.
func readHandshake(r io.Reader, count int) (version, second byte, s []string, err error) {
	var head [len(handshakeMagic) + 2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, nil, err
	}
	if string(head[:len(handshakeMagic)]) != handshakeMagic {
		return 0, 0, nil, errNotAPeer
	}
	for range count {
		var length [1]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return 0, 0, nil, err
		}
		text := make([]byte, length[0])
		if _, err := io.ReadFull(r, text); err != nil {
			return 0, 0, nil, err
		}
		s = append(s, string(text))
	}
	return head[len(head)-2], head[len(head)-1], s, nil
}

// welcomeFor is how self answers a hello.
func welcomeFor(h hello, self Identity) welcome {
	status := statusWelcome
	switch {
	case h.version != handshakeVersion || h.kind < kindRaft || h.kind > kindDial:
		status = statusNotSpoken
	case (h.kind == kindDial) != (h.want == ""):
		status = statusBadRequest
	case h.want != "" && h.want != self.ServerID():
		status = statusWrongPeer
	}
	return welcome{status, self}
}

// introduce does the dialler's side of the handshake and returns who answers.
func introduce(conn io.ReadWriter, h hello, addr string) (Identity, error) {
	if _, err := conn.Write(h.append(nil)); err != nil {
		return Identity{}, fmt.Errorf("send handshake: %w", err)
	}
	w, err := readWelcome(conn)
	if err != nil {
		return Identity{}, fmt.Errorf("read handshake: %w", err)
	}
	switch {
	case w.status == statusWrongPeer, w.status == statusWelcome && h.want != "" && w.from.ServerID() != h.want:
		return w.from, &WrongPeerError{Addr: addr, Want: h.want, Got: w.from}
	case w.status != statusWelcome:
		return w.from, fmt.Errorf("%s refused by %s: %s", h.kind, w.from.ServerID(), w.status)
	}
	return w.from, nil
}

// appendStrings needs strings of at most maxName bytes, as Identity.check makes sure
// of for identities and dial for server ids.
func appendStrings(b []byte, s ...string) []byte {
	for _, s := range s {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return b
}
