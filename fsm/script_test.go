package fsm

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what scripts print into them, to be reviewed")

// TestScripts runs testdata/script/*.txt: lines that start with "> " are commands,
// what follows up to a blank line is what they must print.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
			for i := range max(len(gotLines), len(wantLines)) {
				var g, w string
				if i < len(gotLines) {
					g = gotLines[i]
				}
				if i < len(wantLines) {
					w = wantLines[i]
				}
				if g != w {
					t.Fatalf("line %d:\n got %s\nwant %s", i+1, g, w)
				}
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	x := &scripted{world: newWorld(t), peers: map[string]Caller{}}
	skipping := false
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "> "):
			skipping = true
			fmt.Fprintln(&x.out, line)
			x.run(line[2:])
		case line == "":
			skipping = false
			fmt.Fprintln(&x.out)
		case !skipping: // a comment
			fmt.Fprintln(&x.out, line)
		}
	}
	return x.out.String()
}

// scripted runs the commands of a script.
type scripted struct {
	*world
	out   bytes.Buffer
	peers map[string]Caller // by the script's name for them
}

// args are the words of a line: positional ones, and name=value.
type args struct {
	words []string
	named map[string]string
}

func (a args) number(name string) uint64 {
	n, _ := strconv.ParseUint(a.named[name], 10, 64)
	return n
}

func (a args) ms(name string) int64 { return int64(a.number(name)) }

func parseArgs(line string) args {
	a := args{named: map[string]string{}}
	for _, word := range strings.Fields(line) {
		if name, value, ok := strings.Cut(word, "="); ok && !strings.HasPrefix(word, `"`) && !strings.HasPrefix(word, "{") {
			a.named[name] = value
		} else {
			a.words = append(a.words, word)
		}
	}
	return a
}

func (x *scripted) run(line string) {
	x.t.Helper()
	line, operations, _ := strings.Cut(line, " : ")
	a := parseArgs(line)
	switch verb := a.words[0]; verb {
	case "time":
		n, _ := strconv.ParseInt(a.words[1], 10, 64)
		x.now += n
		x.show(nil, x.due())
	case "term":
		x.term++
	case "timer":
		x.timer(a)
	case "gone":
		x.nodeGone(a)
	case "list":
		x.list(a.words[1])
	default:
		cmd := x.command(a, operations)
		results, out := x.do(cmd)
		if cmd.Kind == CommandJoin || cmd.Kind == CommandAttach {
			if r := results[0]; r.Refusal == nil {
				x.peers[a.words[2]] = Caller{Kind: CallerPeer, Peer: r.Peer, Gen: r.Gen, User: a.words[2]}
			}
		}
		x.show(results, out)
	}
}

// caller is a peer by its name in the script, or user/owner.
func (x *scripted) caller(a args) Caller {
	as := a.named["as"]
	c, ok := x.peers[as]
	if !ok {
		user, owner, _ := strings.Cut(as, "/")
		return Caller{User: user, Owner: owner}
	}
	if gen := a.number("gen"); gen != 0 {
		c.Gen = gen
	}
	return c
}

func (x *scripted) command(a args, operations string) Command {
	x.t.Helper()
	cmd := Command{
		Room: a.words[1], Session: a.named["session"], Caller: x.caller(a),
		Client: a.named["client"], Request: a.number("id"), Idem: a.named["idem"],
	}
	if cmd.Idem != "" {
		cmd.Hash = []byte(strings.Join(a.words, " "))
	}
	if a.named["open"] != "" || a.words[0] == "join" || a.words[0] == "open" {
		cmd.Open = &Open{
			Limits: standardLimits, Grace: 15_000, Linger: a.ms("linger"), Idle: cmp.Or(a.ms("idle"), a.ms("open")),
		}
		if a.named["grace"] != "" {
			cmd.Open.Grace = a.ms("grace")
		}
		if a.named["peers"] != "" {
			cmd.Open.Limits.Peers = int(a.number("peers"))
		}
	}
	req := lockRequestOf(a)
	switch verb := a.words[0]; verb {
	case "open":
		cmd.Kind = CommandOpen
		if operations != "" {
			cmd.Txn = &Txn{Then: x.operations(operations)}
		}
	case "end":
		cmd.Kind = CommandEnd
	case "join":
		cmd.Kind, cmd.Caller.User = CommandJoin, a.words[2]
		cmd.Join = &Join{Key: cmp.Or(a.named["key"], "key-"+a.words[2]), Name: a.words[2], TTL: a.ms("ttl"), Peer: a.named["fixed"]}
		if cmd.Join.TTL == 0 {
			cmd.Join.Node, cmd.Join.Incarnation = cmp.Or(a.named["node"], "n1"), 1
		}
	case "attach":
		cmd.Kind = CommandAttach
		cmd.Attach = &Attach{Peer: x.peers[a.words[2]].Peer, Key: cmp.Or(a.named["key"], "key-"+a.words[2]), Node: "n1", Incarnation: 1}
	case "detach":
		cmd.Kind, cmd.Caller, cmd.Target = CommandDetach, x.peers[a.words[2]], x.peers[a.words[2]].Peer
		if gen := a.number("gen"); gen != 0 {
			cmd.Caller.Gen = gen
		}
	case "leave":
		cmd.Kind, cmd.Target = CommandLeave, x.peers[a.words[2]].Peer
	case "set":
		role := a.named["role"]
		cmd.Kind, cmd.Target, cmd.SetPeer = CommandSetPeer, x.peers[a.words[2]].Peer, &SetPeer{Role: &role}
	case "acquire":
		cmd.Kind = CommandAcquire
		cmd.Acquire = &Acquire{Store: DefaultStore, Key: a.words[2], Lock: req, Wait: a.ms("wait")}
		if cmd.Caller.Kind != CallerPeer {
			cmd.Acquire.Node, cmd.Acquire.Incarnation = cmp.Or(a.named["node"], "n1"), 1
			cmd.Acquire.Waiter = a.named["waiter"]
		}
	case "cancel":
		cmd.Kind = CommandCancel
		cmd.Cancel = &Cancel{Request: a.number("request"), Waiter: a.named["waiter"]}
		if len(a.words) > 2 {
			cmd.Cancel.Store, cmd.Cancel.Key = DefaultStore, a.words[2]
		}
	case "txn":
		cmd.Kind = CommandTxn
		then, otherwise, _ := strings.Cut(operations, " else ")
		cmd.Txn = &Txn{Then: x.operations(then), Else: x.operations(otherwise)}
		for _, word := range a.words[2:] {
			cmd.Txn.If = append(cmd.Txn.If, x.condition(word))
		}
	case "put", "delete", "get", "release", "break", "update", "append", "remove", "add", "patch", "steps", "merge", "replace", "prefix", "send":
		cmd.Kind = CommandTxn
		cmd.Txn = &Txn{Single: true, Then: []Operation{x.operation(args{words: slices.Concat(a.words[:1], a.words[2:]), named: a.named})}}
	default:
		x.t.Fatalf("what is %q?", verb)
	}
	return cmd
}

func (x *scripted) operations(text string) (ops []Operation) {
	for one := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(one) != "" {
			ops = append(ops, x.operation(parseArgs(one)))
		}
	}
	return ops
}

func (x *scripted) operation(a args) Operation {
	if op, ok := x.roomOperation(a); ok {
		return op
	}
	op := Operation{Store: cmp.Or(a.named["store"], DefaultStore), Key: a.words[1], Fence: a.number("fence"), TTL: a.ms("ttl")}
	if p, ok := x.peers[a.named["bind"]]; ok {
		op.Bind = p.Peer
	}
	if rev, ok := a.named["if-rev"]; ok {
		n, _ := strconv.ParseUint(rev, 10, 64)
		op.If = &If{Rev: &n}
	}
	if value, ok := a.named["if-value"]; ok {
		op.If = &If{Value: []byte(value)}
	}
	switch a.named["if"] {
	case "absent":
		op.If = &If{Absent: true}
	case "exists":
		op.If = &If{Exists: true}
	}
	switch a.words[0] {
	case "put", "update", "append", "remove", "add", "patch", "steps":
		op.Kind, op.Value = computing[a.words[0]], []byte(a.words[2])
		op.Steps, op.Unique = a.words[0] == "steps", a.named["unique"] != ""
	case "delete":
		op.Kind = OpDelete
	case "get":
		op.Kind = OpGet
	case "acquire":
		req := lockRequestOf(a)
		op.Kind, op.Lock, op.TTL = OpAcquire, &req, 0
	case "release":
		op.Kind = OpRelease
	case "break":
		op.Kind, op.Break = OpRelease, true
	default:
		x.t.Fatalf("what is %q?", a.words[0])
	}
	return op
}

func lockRequestOf(a args) LockRequest {
	return LockRequest{
		TTL: a.ms("ttl"), OnDetach: a.named["on"] == "detach", Shared: a.named["mode"] == "shared",
		Permits: int(a.number("permits")), Delay: a.ms("delay"),
	}
}

// condition parses key@rev, key!absent, key#fence.
func (x *scripted) condition(word string) Condition {
	for _, sign := range []string{"@", "#", "!"} {
		key, value, ok := strings.Cut(word, sign)
		if !ok {
			continue
		}
		n, _ := strconv.ParseUint(value, 10, 64)
		c := Condition{Store: DefaultStore, Key: key}
		switch sign {
		case "@":
			c.If.Rev = &n
		case "#":
			c.Fence = n
		case "!":
			c.If.Absent, c.If.Exists = value == "absent", value == "exists"
		}
		return c
	}
	x.t.Fatalf("what is the condition %q?", word)
	return Condition{}
}

// timer proposes a timer by hand, whether or not it is due.
func (x *scripted) timer(a args) {
	kinds := map[string]ControlKind{
		"lease": ControlLeaseEnd, "wait": ControlWaitEnd, "entry": ControlEntryEnd, "peer": ControlPeerEnd,
		"linger": ControlLingerEnd, "idle": ControlIdleEnd, "delay": ControlDelayEnd,
	}
	ctl := Control{
		Kind: kinds[a.words[1]], Room: a.words[2], Term: cmp.Or(a.number("term"), x.term), Seen: a.number("seen"),
		Fence: a.number("fence"), Store: DefaultStore, Session: a.named["session"],
	}
	if len(a.words) > 3 {
		ctl.Key, ctl.Peer = a.words[3], x.peers[a.words[3]].Peer
	}
	x.show(nil, x.propose(&Proposal{Controls: []Control{ctl}}))
}

// nodeGone ends what a node served, in all rooms.
func (x *scripted) nodeGone(a args) {
	var controls []Control
	x.s.Publish().NodeUse(func(node string, _ uint64) bool { return node == a.words[1] }, func(ctl Control) {
		ctl.Term = x.term
		controls = append(controls, ctl)
	})
	x.show(nil, x.propose(&Proposal{Controls: controls}))
}

func (x *scripted) show(results []Result, out *Outcome) {
	for i := range results {
		fmt.Fprintln(&x.out, showResult(&results[i]))
	}
	for _, f := range out.Frames {
		for _, e := range f.Frame.Events {
			fmt.Fprintln(&x.out, "  "+showEvent(f.Room, e))
		}
		if f.Ended {
			fmt.Fprintf(&x.out, "  %s: %s was its last frame\n", f.Room, f.Session)
		}
	}
	for _, g := range out.Grants {
		fmt.Fprintf(&x.out, "  wait %d on %s ends: fence=%d%s\n", g.Waiter, g.Key, g.Fence, showRefusal(g.Refusal))
	}
	for _, d := range out.Deadlines {
		names := map[ControlKind]string{
			ControlLeaseEnd: "lease", ControlWaitEnd: "wait", ControlEntryEnd: "entry", ControlPeerEnd: "peer",
			ControlLingerEnd: "linger", ControlIdleEnd: "idle", ControlDelayEnd: "delay",
		}
		fmt.Fprintf(&x.out, "  due at %d: %s %s%s seen=%d fence=%d\n", d.At, names[d.Timer.Kind], d.Timer.Key, d.Timer.Peer, d.Timer.Seen, d.Timer.Fence)
	}
}

func showResult(r *Result) string {
	var b strings.Builder
	if r.Refusal != nil {
		fmt.Fprintf(&b, "refused%s", showRefusal(r.Refusal))
	} else {
		fmt.Fprintf(&b, "ok rev=%d", r.Rev)
	}
	show := func(name string, value any, set bool) {
		if set {
			fmt.Fprintf(&b, " %s=%v", name, value)
		}
	}
	show("session", r.Session, r.Created)
	show("peer", r.Peer, r.Peer != "")
	show("key", r.Key, r.Key != "")
	show("gen", r.Gen, r.Gen != 0)
	show("position", r.Waiting, r.Waiting != 0)
	show("waiter", r.Waiter, r.Waiter != 0)
	show("fence", r.Fence, r.Fence != 0)
	if len(r.Ops) > 1 || len(r.Ops) == 0 && r.Applied {
		show("applied", r.Applied, true)
	}
	for _, op := range r.Ops {
		b.WriteString(" [")
		show("version", op.Version, op.Version != 0)
		show("fence", op.Fence, op.Fence != 0)
		show("created", true, op.Created)
		show("existed", true, op.Existed)
		if op.Entry != nil {
			show("value", string(op.Entry.Value), true)
		}
		show("value", string(op.Value), op.Value != nil)
		b.WriteString(" ]")
	}
	show("unchanged", true, r.Refusal == nil && !r.Changed)
	show("repeated", true, r.Repeated)
	return b.String()
}

func showRefusal(no *Refusal) string {
	if no == nil {
		return ""
	}
	d := no.Details
	s := " " + string(no.Code)
	for _, m := range []struct {
		name  string
		value any
		set   bool
	}{
		{"key", d.Key, d.Key != ""},
		{"version", d.Version, d.Version != 0},
		{"rev", d.Rev, d.Rev != 0},
		{"value", string(d.Value), d.Value != nil},
		{"owner", d.Owner, d.Owner != ""},
		{"fence", d.Fence, d.Fence != 0},
		{"limit", d.Limit, d.Limit != ""},
		{"max", d.Max, d.Limit != ""},
		{"actual", d.Actual, d.Limit != ""},
		{"reason", d.Reason, d.Reason != ""},
		{"type", d.Type, d.Type != ""},
		{"field", d.Field, d.Field != ""},
	} {
		if m.set {
			s += fmt.Sprintf(" %s=%v", m.name, m.value)
		}
	}
	if d.Exists != nil {
		s += fmt.Sprintf(" exists=%v", *d.Exists)
	}
	if d.Index != nil {
		s += fmt.Sprintf(" index=%d", *d.Index)
	}
	return s
}

func showEvent(room string, e *Event) string {
	by := [...]string{"server", "peer", "system"}[e.By.Kind]
	if e.By.Peer != "" {
		by = e.By.Peer
	}
	head := fmt.Sprintf("%s %d %s", room, e.Rev, e.Type)
	switch e.Type {
	case EventPut:
		return fmt.Sprintf("%s %s/%s=%s version=%d by %s", head, e.Store, e.Key, e.Entry.Value, e.Entry.Version, by)
	case EventDelete:
		return fmt.Sprintf("%s %s/%s %s by %s", head, e.Store, e.Key, e.Reason, by)
	case EventLock:
		return fmt.Sprintf("%s %s/%s %s owner=%s fence=%d waiting=%d by %s", head, e.Store, e.Key, e.State, e.Owner, e.Fence, e.Waiting, by)
	case EventMessage:
		return showMessage(head, by, e)
	case EventPeer:
		return strings.TrimRight(fmt.Sprintf("%s %s %s(%s) %s", head, e.State, e.Peer.Name, e.Peer.ID, e.Reason), " ")
	}
	return strings.TrimRight(fmt.Sprintf("%s %s %s %s", head, e.State, e.Session, e.Reason), " ")
}

// list prints what a room holds.
func (x *scripted) list(room string) {
	s := x.s.Publish().Session(room)
	if s == nil {
		fmt.Fprintln(&x.out, "no session")
		return
	}
	c := s.Counts()
	fmt.Fprintf(&x.out, "%s: peers=%d stores=%d keys=%d bytes=%d locks=%d\n", s.ID, c.Peers, c.Stores, c.Keys, c.Bytes, c.Locks)
}
