package fsm

// send makes a message an event. It is in no store: the ring of its session
// replays it, to whom it is for, and then it is gone.
func (c *change) send(m *Message) *Refusal {
	if no := c.ses.fits(m); no != nil {
		return no
	}
	c.emit(m.Event(c.by, c.rev))
	return nil
}

// fits refuses a message that is larger than the session allows.
func (s *Session) fits(m *Message) *Refusal {
	if n := len(m.Data); n > s.Limits.MessageBytes {
		return overLimit("message_bytes", s.Limits.MessageBytes, n)
	}
	return nil
}

// Event is the message as its recipients hear of it. Whoever joined after rev is
// none of them. An ephemeral message takes no revision: its event bears the one
// that the state had when it was sent.
func (m *Message) Event(by By, rev uint64) *Event {
	return &Event{Type: EventMessage, Rev: rev, By: by, Topic: m.Topic, Data: m.Data, To: &Recipients{
		Peers: m.Peers, Refs: m.Refs, Roles: m.Roles, Sender: by.Peer, Echo: m.Echo,
	}}
}

// Ephemeral says who sends a message that goes past the log, or refuses it as the
// log would refuse a message of that caller.
func (s *Session) Ephemeral(m *Message, caller Caller) (By, *Refusal) {
	if no := s.accepts(caller); no != nil {
		return By{}, no
	}
	return author(s, caller), s.fits(m)
}

// Check refuses a message whose form is wrong.
func (m *Message) Check() *Refusal {
	f := form{}
	f.message(m)
	return f.no
}
