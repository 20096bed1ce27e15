package fsm

// command applies one command and answers it. Refusals come in the protocol's
// order: form, session, limits, lock, condition (rights are the api's).
func (c *change) command(cmd *Command) Result {
	c.begin(cmd.Room, cmd.Caller)
	if cmd.Kind == CommandNone {
		return Result{Rev: c.s.rev}
	}
	if no := cmd.Check(); no != nil {
		return c.refused(no)
	}
	old, no := c.recall(cmd)
	if no != nil {
		return c.refused(no)
	}
	if old != nil && !c.runsAgain(cmd, old) {
		old.Repeated = true
		return *old
	}
	if no := c.enter(cmd); no != nil {
		return c.refused(no)
	}
	// Before anything is applied there must be room for its answer: what cannot be
	// remembered could be applied twice.
	if c.ses != nil && cmd.remembers() {
		if no := c.admit(cmd); no != nil {
			return c.refused(no)
		}
	}
	r := c.perform(cmd)
	r.Repeated = old != nil
	if c.changed {
		c.used()
	}
	c.commit()
	switch {
	case !cmd.remembers():
	case c.ended != nil:
		c.s.rememberEnding(cmd, r)
	case c.ses != nil:
		c.remember(cmd, r)
	}
	return r
}

// perform does the command, or returns to where it began. A command that can be
// refused after its first change begins with a mark; the others check first.
func (c *change) perform(cmd *Command) Result {
	opens := c.ses == nil
	var before mark
	marked := opens || cmd.compound()
	if marked {
		before = c.mark()
	}
	if opens {
		c.open(cmd.Open, cmd.Kind == CommandJoin)
	}
	var r Result
	no := c.do(cmd, &r)
	if no != nil {
		if marked && !torn {
			c.rollback(before)
		}
		r = Result{}
	}
	r.Rev, r.Refusal, r.Changed = c.s.rev, no, c.changed
	if c.changed {
		r.Rev = c.rev
	}
	switch {
	case c.ses != nil:
		r.Session = c.ses.ID
	case c.ended != nil:
		r.Session = c.ended.ID
	}
	r.Created = opens && no == nil
	return r
}

// do runs the command on a session that is there. A refusal of a cancel is its
// normal answer, and the only one that comes with a change.
func (c *change) do(cmd *Command, r *Result) *Refusal {
	switch cmd.Kind {
	case CommandOpen:
		if cmd.Txn == nil || len(c.events) == 0 { // open before: unchanged
			return nil
		}
		return c.seed(cmd.Txn, r)
	case CommandEnd:
		c.end("ended")
		return nil
	case CommandJoin:
		return c.join(cmd, r)
	case CommandAttach:
		return c.attach(cmd.Attach, r)
	case CommandDetach:
		c.detachSocket(cmd.Target, cmd.Caller.Gen)
		return nil
	case CommandLeave:
		return c.leaveBy(cmd)
	case CommandSetPeer:
		return c.setPeer(cmd.Target, cmd.SetPeer)
	case CommandTxn:
		return c.txn(cmd.Txn, r)
	case CommandAcquire:
		return c.acquireOrWait(cmd, r)
	case CommandCancel:
		return c.cancel(cmd, r)
	}
	return badRequest("kind", "unknown command")
}

// refused is the answer of a command that came to nothing. It is not remembered:
// it depends on what the session does not have, and asking again changes nothing.
func (c *change) refused(no *Refusal) Result {
	r := Result{Rev: c.s.rev, Refusal: no}
	if c.ses != nil {
		r.Session = c.ses.ID
	}
	return r
}

// recall finds the answer to a repeated command: in the live session, or among
// those that ended one. An attach is never remembered: repeating it does what
// the new connection needs.
func (c *change) recall(cmd *Command) (*Result, *Refusal) {
	if !cmd.remembers() || forgetful {
		return nil, nil
	}
	c.request = cmd.memoryKey()
	if c.ses != nil && (cmd.Session == "" || cmd.Session == c.ses.ID) {
		if r, no := c.ses.recall(cmd, c.request, c.s.now); r != nil || no != nil {
			return r, no
		}
	}
	if cmd.Kind == CommandEnd || cmd.Kind == CommandLeave {
		return c.s.endings.recall(cmd, c.s.now)
	}
	return nil, nil
}

// runsAgain reports whether a repeated command runs although it was answered. A
// join over a socket does, for the connection that asks now (it gets the same peer,
// attached anew), and an acquire that still waits, for its present place.
func (c *change) runsAgain(cmd *Command, old *Result) bool {
	switch {
	case old.Refusal != nil:
		return false
	case cmd.Kind == CommandJoin && cmd.Join.Node != "":
		c.rejoins = old.Peer
		return true
	}
	return cmd.Kind == CommandAcquire && old.Waiting > 0
}

// enter checks that the command has a session, or may open one, and that its
// caller is in it.
func (c *change) enter(cmd *Command) *Refusal {
	switch {
	case c.ses == nil && cmd.Session != "", c.ses != nil && cmd.Session != "" && cmd.Session != c.ses.ID && !undying:
		return sessionEnded()
	case c.ses == nil && !cmd.opens():
		return refuse(CodeNoSession, "the room has no live session")
	case c.ses == nil:
		return nil
	}
	switch cmd.Kind {
	case CommandJoin, CommandAttach, CommandDetach:
		return nil
	}
	return c.ses.accepts(cmd.Caller)
}

// accepts refuses a peer that is not in the session, or no longer by the
// connection that it speaks through.
func (s *Session) accepts(caller Caller) *Refusal {
	if caller.Kind != CallerPeer {
		return nil
	}
	p := s.Peer(caller.Peer)
	switch {
	case p == nil:
		return s.gone(caller.Peer)
	// Not remembered either: the same request comes again on the live connection.
	case caller.Gen != 0 && caller.Gen != p.Gen:
		return &Refusal{
			Code: CodeUnavailable, Message: "this connection of the peer is over",
			Details: Details{Reason: "stale_generation"},
		}
	}
	return nil
}

// opens reports whether the command opens a session in a room without one. A
// peer cannot: its session is gone, and itself with it.
func (cmd *Command) opens() bool {
	switch cmd.Kind {
	case CommandOpen, CommandJoin:
		return cmd.Open != nil
	case CommandTxn, CommandAcquire:
		return cmd.Open != nil && cmd.Caller.Kind != CallerPeer
	}
	return false
}

// compound reports whether the command can be refused after its first change.
func (cmd *Command) compound() bool {
	return cmd.Kind == CommandTxn && (len(cmd.Txn.Then) > 1 || len(cmd.Txn.Else) > 1)
}

// remembers reports whether the answer is kept for a repeated request.
func (cmd *Command) remembers() bool {
	return (cmd.Client != "" || cmd.Idem != "") && cmd.Kind != CommandAttach && cmd.Kind != CommandDetach
}
