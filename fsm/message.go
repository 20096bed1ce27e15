package fsm

// send makes a message an event. It is in no store: the ring of its session
// replays it, to whom it is for, and then it is gone.
func (c *change) send(m *Message) *Refusal {
	if n := len(m.Data); n > c.ses.Limits.MessageBytes {
		return overLimit("message_bytes", c.ses.Limits.MessageBytes, n)
	}
	c.emit(&Event{Type: EventMessage, Topic: m.Topic, Data: m.Data, To: &Recipients{
		Peers: m.Peers, Refs: m.Refs, Roles: m.Roles, Sender: c.by.Peer, Echo: m.Echo,
	}})
	return nil
}
