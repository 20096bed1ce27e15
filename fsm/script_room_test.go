package fsm

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// computing are the script's verbs that write one key. patch is a merge patch,
// steps a JSON patch.
var computing = map[string]OpKind{
	"put": OpPut, "update": OpUpdate, "append": OpAppend, "remove": OpRemove, "add": OpAdd, "patch": OpPatch, "steps": OpPatch,
}

// roomOperation parses the operations that are not about one key:
//
//	merge ROOM key:value… -key… fences=key#n,…
//	replace ROOM key:value… fences=…
//	prefix ROOM [PREFIX] fences=…
//	send ROOM TOPIC DATA peers=name,… refs=… roles=… echo=yes
func (x *scripted) roomOperation(a args) (op Operation, ok bool) {
	op.Store = cmp.Or(a.named["store"], DefaultStore)
	switch a.words[0] {
	case "merge", "replace":
		op.Kind = map[string]OpKind{"merge": OpMerge, "replace": OpReplace}[a.words[0]]
		for _, word := range a.words[1:] {
			if key, value, ok := strings.Cut(word, ":"); ok {
				op.Set = append(op.Set, KeyValue{key, []byte(value)})
			} else {
				op.Delete = append(op.Delete, strings.TrimPrefix(word, "-"))
			}
		}
	case "prefix":
		op.Kind = OpDeletePrefix
		if len(a.words) > 1 {
			op.Key = a.words[1]
		}
	case "send":
		m := &Message{Topic: a.words[1], Data: []byte(a.words[2]), Refs: listed(a.named["refs"]), Roles: listed(a.named["roles"]), Echo: a.named["echo"] != ""}
		for _, name := range listed(a.named["peers"]) {
			m.Peers = append(m.Peers, x.peers[name].Peer)
		}
		return Operation{Kind: OpSend, Message: m}, true
	default:
		return op, false
	}
	for _, word := range listed(a.named["fences"]) {
		key, number, _ := strings.Cut(word, "#")
		n, _ := strconv.ParseUint(number, 10, 64)
		op.Fences = append(op.Fences, KeyFence{key, n})
	}
	return op, true
}

func listed(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func showMessage(head, by string, e *Event) string {
	s := fmt.Sprintf("%s %s %s from %s", head, e.Topic, e.Data, by)
	if to := slices.Concat(e.To.Peers, e.To.Refs, e.To.Roles); len(to) > 0 {
		s += " to " + strings.Join(to, ",")
	}
	if e.To.Echo {
		s += " and back"
	}
	return s
}
