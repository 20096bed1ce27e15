package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// The bounds of what one socket may have under way.
const (
	window      = 256     // requests without an answer; then nothing more is read
	windowBytes = 4 << 20 // of such requests, and of what they may be answered with; a single one may be larger
	maxWaits    = 1024    // acquires that wait for their lock
)

// requestBytes is about what a request costs besides its text.
const requestBytes = 512

// The bounds of large messages: from which size on they are large, how many may
// be under way on a node, and how long one may take.
const (
	largeBytes    = 64 << 10
	largeMessages = 64
	largeTime     = 30 * time.Second
)

var errTooLarge = errors.New("the message is too large")

// serve is the reader's goroutine, from the upgrade to the end of the socket.
func (k *socket) serve() {
	k.ws.SetPingHandler(func(payload string) error {
		k.hear()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.pong = append([]byte{}, payload...) // of several pings the last is answered
		k.kick()
		return nil
	})
	k.ws.SetPongHandler(func(string) error { k.hear(); return nil })
	k.ws.SetCloseHandler(func(code int, _ string) error { k.byClient = code; return nil })
	defer k.finish()
	for {
		kind, r, err := k.ws.NextReader()
		if err != nil {
			return
		}
		k.hear()
		if k.isEnding() {
			continue // NextReader throws away what was not read
		}
		if kind != websocket.TextMessage {
			k.end(wire.CloseProtocol, "frames must be text")
			continue
		}
		data, err := k.message(r)
		switch {
		case errors.Is(err, errTooLarge):
			k.end(wire.CloseProtocol, "a frame may have 2 MiB")
		case err != nil:
			return
		default:
			k.receive(data)
		}
	}
}

// message reads one message whole. Its memory grows with what has arrived, and
// the result is the caller's to keep: values are never copied again. Of large
// messages only a few of a node are read at a time, each for a limited time.
func (k *socket) message(r io.Reader) ([]byte, error) {
	buf := takeBuffer()
	b := *buf
	defer func() { giveBuffer(buf, b) }()
	large := false
	for {
		if len(b) == cap(b) {
			k.hear() // a long message is a sign of life too
			if !large && len(b) >= largeBytes {
				large = true
				k.hub.large <- struct{}{}
				defer func() { <-k.hub.large }()
				if err := k.ws.SetReadDeadline(time.Now().Add(largeTime)); err != nil {
					return nil, err
				}
			}
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > maxBodyBytes:
			return nil, errTooLarge
		case err == io.EOF && large && !k.isEnding():
			return bytes.Clone(b), k.ws.SetReadDeadline(time.Time{})
		case err == io.EOF:
			return bytes.Clone(b), nil
		case err != nil:
			return nil, err
		}
	}
}

// receive takes one message.
func (k *socket) receive(data []byte) {
	o, bad := parseObject(data, "message")
	if bad != nil {
		id, ok := salvageID(data)
		if !ok {
			k.end(wire.CloseProtocol, bad.Message)
			return
		}
		k.refuse(k.admit(&request{id: id}), bad)
		return
	}
	id, ok := o.number("id", 1, maxNumber-1)
	if !ok {
		k.end(wire.CloseProtocol, "a request needs an id, an integer from 1")
		return
	}
	r := &request{id: uint64(id), o: o, weight: len(data)}
	r.do, _ = o.str("do")
	k.request(k.admit(r))
}

// salvageID finds the id of a request that is not JSON to its end.
func salvageID(data []byte) (uint64, bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return 0, false
	}
	for {
		name, err := dec.Token()
		if err != nil {
			return 0, false
		}
		if name == "id" {
			var id uint64
			return id, dec.Decode(&id) == nil && id > 0 && id < maxNumber
		}
		var skipped json.RawMessage
		if dec.Decode(&skipped) != nil {
			return 0, false
		}
	}
}

// admit counts a request as open. It waits while too many are: that is what stops
// the reading.
func (k *socket) admit(r *request) *request {
	r.weight += requestBytes
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.ending == 0 && !k.closed && k.open > 0 && (k.open >= window || k.openBytes+r.weight > windowBytes) {
		k.changed.Wait()
	}
	k.open++
	k.openBytes += r.weight
	return r
}

// reserve adds to the weight of an admitted request, when it turns out how large
// its answer may be.
func (k *socket) reserve(r *request, more int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.ending == 0 && !k.closed && k.open > 1 && k.openBytes+more > windowBytes {
		k.changed.Wait()
	}
	r.weight += more
	k.openBytes += more
}
