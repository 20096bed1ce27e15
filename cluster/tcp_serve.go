package cluster

import (
	"bufio"
	"fmt"
	"net"
	"sync"
)

// tcpServing is the serving side of one channel connection: requests are handed
// on in the order of arrival, answers are sent in the order in which they come.
type tcpServing struct {
	conn  net.Conn
	wake  chan struct{} // holds one: answers may have something
	slots chan struct{} // one for each request read whose answer is not yet on its way

	mu      sync.Mutex
	broken  bool // answers go nowhere any more
	answers []frame
	bytes   int // in answers
}

// serveConn serves a connection until it breaks or the channel closes.
func (c *tcpChannel) serveConn(conn net.Conn, from Identity) {
	if !c.begin() {
		conn.Close()
		return
	}
	defer c.running.Done()
	conn, err := c.conns.add(conn)
	if err != nil {
		return
	}
	defer conn.Close()
	select {
	case <-c.handled:
	case <-c.ctx.Done():
		return
	}
	s := &tcpServing{conn: conn, wake: make(chan struct{}, 1), slots: make(chan struct{}, maxCalls)}
	served := make(chan struct{})
	stopped := make(chan struct{})
	c.running.Go(func() {
		defer close(stopped)
		if err := writeFrames(conn, c.network.opts.Timeout, s.take, s.wake, served); err != nil {
			conn.Close() // so that reading ends too
		}
	})
	err = s.read(func(f frame) {
		c.serve(from, Method(f.tag), f.payload, s.replier(f.id))
	}, stopped, c.ctx.Done())
	s.mu.Lock()
	s.broken, s.answers = true, nil
	s.mu.Unlock()
	close(served)
	conn.Close()
	<-stopped
	c.network.opts.Logger.Debug("peer channel ended", "from", from.ServerID(), "error", err)
}

// read hands requests on until the connection breaks, writing has stopped or the
// channel closes. It waits while too many answers are owed.
func (s *tcpServing) read(serve func(frame), stopped, closing <-chan struct{}) error {
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-stopped:
			return errConnBroken
		case <-closing:
			return errChannelClosed
		}
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		serve(f)
	}
}

// replier returns the function that answers a request. Only its first call counts.
func (s *tcpServing) replier(id uint64) func([]byte, error) {
	var once sync.Once
	return func(answer []byte, err error) {
		once.Do(func() { s.reply(id, answer, err) })
	}
}

func (s *tcpServing) reply(id uint64, answer []byte, err error) {
	f := frame{id: id, tag: tagAnswer, payload: answer}
	if err == nil && len(answer) > maxPayload {
		err = fmt.Errorf("answer: %w: %d bytes", errFrameLength, len(answer))
	}
	if err != nil {
		text := err.Error()
		f.tag, f.payload = tagError, []byte(text[:min(len(text), maxErrorText)])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return
	}
	s.answers = append(s.answers, f)
	s.bytes += len(f.payload)
	if s.bytes > maxQueued {
		// It asks for much and reads nothing.
		s.broken, s.answers = true, nil
		s.conn.Close()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// maxErrorText bounds what of an error's text is sent.
const maxErrorText = 4096

// take returns the answers that wait. Their requests are no longer owed.
func (s *tcpServing) take() []frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	frames := s.answers
	s.answers, s.bytes = nil, 0
	for range frames {
		<-s.slots
	}
	return frames
}
