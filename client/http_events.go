package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"conclave/client/wire"
)

// streamSilence is how long a stream may say nothing. Servers send at least a
// bookmark every 20 s; two missed ones mean a dead link.
const streamSilence = 45 * time.Second

// maxEvent bounds one Server-Sent Event: a page of a snapshot has 256 KiB or one
// entry, the events of a transaction stay within its 2 MiB and their envelopes.
const maxEvent = 16 << 20

// EventsParams select what a Stream watches. With nothing set it is everything
// that the caller may read.
type EventsParams struct {
	Store string
	Keys  []string // exact keys, and prefixes followed by *
	Types []string // put, delete, lock, peer, message, session
	// Topics are those of messages: exact ones, and prefixes followed by *.
	Topics []string
	// After resumes behind a position that an earlier Stream gave; "" starts with
	// a snapshot.
	After string
}

// Stream watches a room over HTTP. It resumes by itself, on another server if
// need be: no event is missing and none comes twice, or the next Update is a
// Snapshot with the Reset that says why.
//
// Nothing runs between two calls of Next: a program that does not call it leaves
// the events with the server. One goroutine at a time may use a Stream.
type Stream struct {
	h     *HTTP
	path  string
	query string

	body   io.ReadCloser // of the running request, nil between two
	cancel context.CancelFunc
	lines  *bufio.Scanner
	quiet  *time.Timer // ends the request when the server goes silent

	position string // where to resume: behind the last update returned
	behind   string // the last id seen: the position once ready is empty
	rev      uint64
	started  bool // a snapshot was delivered, or the caller brought a position
	pages    pages
	reset    string
	ready    []Update
}

// Events watches a room. It contacts nobody yet: the first call of Next does.
func (h *HTTP) Events(room string, p EventsParams) *Stream {
	c, _ := newCall(http.MethodGet, roomPath(room, "events"), nil)
	setString(c.query, "store", p.Store)
	for _, k := range p.Keys {
		c.query.Add("key", k)
	}
	for _, t := range p.Types {
		c.query.Add("type", t)
	}
	for _, t := range p.Topics {
		c.query.Add("topic", t)
	}
	return &Stream{h: h, path: c.path, query: c.query.Encode(), position: p.After, behind: p.After, started: p.After != ""}
}

// Position is where an Events with After goes on: behind the last Update that
// Next returned.
func (s *Stream) Position() string { return s.position }

// Rev is the revision as of which everything has been delivered.
func (s *Stream) Rev() uint64 { return s.rev }

// Next waits for the next Update. Refusals end the stream; everything else
// (servers that die, drain or cannot be reached) is waited out until ctx ends.
func (s *Stream) Next(ctx context.Context) (Update, error) {
	for n := 0; ; {
		if len(s.ready) > 0 {
			u := s.ready[0]
			if s.ready = s.ready[1:]; len(s.ready) == 0 {
				s.position = s.behind
			}
			return u, nil
		}
		err := s.read(ctx)
		if err == nil {
			n = 0
			continue
		}
		s.hangUp()
		if ctx.Err() != nil {
			return Update{}, fmt.Errorf("watch %s: %w", s.path, ctx.Err())
		}
		var e *wire.Error
		if !errors.As(err, &e) || e.Retry == wire.RetryNever {
			return Update{}, err
		}
		s.h.log.Info("watch interrupted", "path", s.path, "position", s.position, "err", err)
		s.h.current.Add(1)
		if sleep(ctx, backoff(n)) != nil {
			return Update{}, fmt.Errorf("watch %s: %w: %w", s.path, ctx.Err(), err)
		}
		n++
	}
}

// All iterates over the updates until ctx ends, the stream fails (the last pair
// has the error) or the loop breaks.
func (s *Stream) All(ctx context.Context) iter.Seq2[Update, error] {
	return all(ctx, s.Next)
}

// all makes an iterator of a Next.
func all(ctx context.Context, next func(context.Context) (Update, error)) iter.Seq2[Update, error] {
	return func(yield func(Update, error) bool) {
		for {
			u, err := next(ctx)
			if !yield(u, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the stream.
func (s *Stream) Close() error {
	s.hangUp()
	return nil
}

// hangUp ends the running request. What it brought of a snapshot is dropped: the
// position is still that of the last whole update.
func (s *Stream) hangUp() {
	if s.body == nil {
		return
	}
	s.quiet.Stop()
	s.cancel()
	s.body.Close()
	s.body, s.reset = nil, ""
	s.pages.take()
}

// read takes in one Server-Sent Event, connecting first if need be.
func (s *Stream) read(ctx context.Context) error {
	if s.body == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	id, data, err := s.message()
	if err != nil {
		return wire.Errorf(wire.Unavailable, "stream broke: %v", err)
	}
	var f wire.Frame
	if err := json.Unmarshal(data, &f); err != nil {
		return wire.Errorf(wire.Unavailable, "stream is garbled: %v", err)
	}
	if id != "" {
		s.behind = id
	}
	if s.take(&f); len(s.ready) == 0 {
		s.position = s.behind
	}
	return nil
}

// connect starts a request behind the position.
func (s *Stream) connect(ctx context.Context) error {
	c := &call{do: http.MethodGet, path: s.path, header: http.Header{"Accept": {"text/event-stream"}}}
	if s.query != "" {
		c.path += "?" + s.query
	}
	if s.position != "" {
		c.header.Set("Last-Event-ID", s.position)
	}
	base := s.h.base(s.h.current.Load())
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	quiet := time.AfterFunc(streamSilence, cancel)
	resp, err := s.h.send(own, c, base)
	if err != nil {
		quiet.Stop()
		cancel()
		return notAnswered(ctx, c, base, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer cancel()
		defer resp.Body.Close()
		quiet.Stop()
		return refusal(resp)
	}
	s.body, s.cancel, s.quiet = resp.Body, cancel, quiet
	s.lines = bufio.NewScanner(resp.Body)
	s.lines.Buffer(make([]byte, 0, 4096), maxEvent)
	return nil
}

// message reads the lines of one event, up to the empty line that ends it.
func (s *Stream) message() (id string, data []byte, err error) {
	for s.lines.Scan() {
		s.quiet.Reset(streamSilence)
		line := s.lines.Bytes()
		if len(line) == 0 {
			if data != nil {
				return id, data, nil
			}
			id = ""
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			id = strings.Clone(string(value))
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
	if err = s.lines.Err(); err == nil {
		err = io.ErrUnexpectedEOF
	}
	return "", nil, err
}

// take turns a frame into updates.
func (s *Stream) take(f *wire.Frame) {
	switch {
	case f.Reset != "":
		s.reset = f.Reset
		s.pages.take()
	case f.Snapshot != nil:
		s.pages.add(f.Snapshot)
		if more(f) {
			return
		}
		u := Update{Snapshot: s.pages.take(), Reset: s.reset}
		if s.started && u.Reset == "" {
			u.Reset = "compacted" // the server could not resume, and says so by a snapshot
		}
		s.started, s.reset = true, ""
		if f.Rev != nil {
			u.Rev, s.rev = *f.Rev, *f.Rev
		}
		s.ready = append(s.ready, u)
	case len(f.Ephemeral) > 0:
		s.ready = append(s.ready, Update{Rev: s.rev, Ephemeral: f.Ephemeral})
	default:
		s.ready = append(s.ready, byRevision(f.Events)...)
		if f.Rev != nil {
			s.rev = *f.Rev
		}
	}
}
