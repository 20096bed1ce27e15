package api

import (
	"fmt"
	"testing"
)

// The frames of the wire, as samples for everybody who reads or writes them. The
// file is only ever added to: what it has is the contract.
func TestSocket_SpeaksTheSamples(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial("studio")}
	v.say(`{"id":1,"do":"hello","v":1,"agent":"test/1","client":"h1","name":"Ada","ref":"u7","data":{"hand":false},"watch":[{}]}`)
	v.hear() // its snapshot
	v.say(`{"id":2,"do":"put","key":"spotlight","value":{"peer":"p1","n":1.50},"if":{"absent":true}}`)
	v.say(`{"id":3,"do":"get","key":"spotlight"}`)
	v.say(`{"id":4,"do":"get","key":"nothing"}`)
	v.say(`{"id":5,"do":"put","key":"spotlight","value":1,"if":{"version":7}}`)
	v.say(`{"id":6,"do":"put","key":"bound","value":true,"bind":true}`)
	v.say(`{"id":7,"do":"acquire","key":"pen","ttl_ms":5000}`)
	v.say(`{"id":8,"do":"put","key":"pen","value":1}`)
	v.say(`{"id":9,"do":"txn","if":[{"key":"pen","absent":true}],"then":[{"do":"put","key":"poll","value":[]},{"do":"get","key":"poll"},{"do":"delete","key":"none"}]}`)
	v.say(`{"id":10,"do":"locks"}`)
	v.say(`{"id":11,"do":"peers"}`)
	v.say(`{"id":12,"do":"list","prefix":"po"}`)
	v.say(`{"id":13,"do":"watch","watch":[{"store":"notes","keys":["a/*"]}]}`)
	v.hear() // its snapshot
	v.say(`{"id":14,"do":"unwatch","watch":13}`)
	v.say(`{"id":15,"do":"delete","key":"poll"}`)
	v.say(`{"id":16,"do":"validate","key":"pen","fence":1}`)
	v.say(`{"id":17,"do":"ping"}`)
	v.say(`{"id":18,"do":"auth","token":"t"}`)
	v.say(`{"id":19,"do":"set_self","name":"Ada L."}`)
	b := s.dial("studio")
	b.write(`{"id":1,"do":"hello","v":1,"client":"h2"}`)
	v.hear() // joined
	notice := &conversation{c: b}
	notice.hear() // the revision in it is that of when it is sent
	b.write(`{"id":2,"do":"acquire","key":"pen","wait_ms":60000}`)
	notice.hear()
	v.say(`{"id":20,"do":"release","key":"pen","fence":` + fmt.Sprint(s.session("studio").Lock(defaultStore, "pen").Holders[0].Fence) + `}`)
	notice.hear()
	v.say(`{"id":21,"do":"leave"}`)
	compareSamples(t, "ws_conversation.json", v.samples)
	compareSamples(t, "ws_waiting.json", notice.samples)
}

// The frames of the verbs that compute values and change whole stores.
func TestSocket_SpeaksTheSamplesOfEdits(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial("studio")}
	v.say(`{"id":1,"do":"hello","v":1,"client":"h1","watch":[{}]}`)
	v.hear() // its snapshot
	for i, request := range []string{
		`"do":"update","key":"poll","value":{"q":"Tea?","n":1.50}`,
		`"do":"update","key":"poll","value":{"n":2},"if":{"version":1}`,
		`"do":"append","key":"hands","values":["ada","bob"]`,
		`"do":"append","key":"hands","values":["bob","eve"],"unique":true`,
		`"do":"append","key":"hands","values":["bob"],"unique":true`,
		`"do":"remove","key":"hands","values":["ada"]`,
		`"do":"remove","key":"nothing","values":[1]`,
		`"do":"add","key":"count","by":2`,
		`"do":"add","key":"poll","by":1`,
		`"do":"patch","key":"poll","merge":{"q":null,"open":true}`,
		`"do":"patch","key":"poll","ops":[{"op":"test","path":"/open","value":true},{"op":"remove","path":"/n"}]`,
		`"do":"patch","key":"poll","ops":[{"op":"test","path":"/open","value":false}]`,
		`"do":"merge","store":"votes","set":{"a/1":1,"a/2":null,"b":{}},"delete":["c"]`,
		`"do":"delete","store":"votes","prefix":"a/"`,
		`"do":"replace","store":"votes","data":{"b":{},"d":4}`,
		`"do":"txn","then":[{"do":"add","key":"count","by":-2},{"do":"merge","store":"votes","delete":["d"]},{"do":"delete","prefix":"none"}]`,
	} {
		v.say(fmt.Sprintf(`{"id":%d,%s}`, i+2, request))
	}
	compareSamples(t, "ws_edits.json", v.samples)
}

// The frames of messages.
func TestSocket_SpeaksTheSamplesOfMessages(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial("studio")}
	v.say(`{"id":1,"do":"hello","v":1,"client":"h1","ref":"u7","watch":[{"types":["message"]}]}`)
	v.hear() // its snapshot
	b := &conversation{c: s.dial("studio")}
	b.say(`{"id":1,"do":"hello","v":1,"client":"h2","watch":[{"topics":["chat/*"]}]}`)
	b.hear() // its snapshot
	v.say(`{"id":2,"do":"send","topic":"chat/1","data":{"text":"hi"}}`)
	b.hear()
	v.say(`{"id":3,"do":"send","topic":"chat/1","data":"seen","to":{"peers":["p2"],"refs":["u9"],"roles":["host"]},"echo":true}`)
	b.hear()
	v.say(`{"id":4,"do":"txn","then":[{"do":"put","key":"k","value":1},{"do":"send","topic":"chat/1","data":1.50}]}`)
	b.hear()
	v.say(`{"id":5,"do":"send","topic":"chat/1","data":1,"to":{"peers":[]}}`)
	b.say(`{"id":2,"do":"remove_peer","peer":"p1"}`)
	compareSamples(t, "ws_messages.json", v.samples)
	compareSamples(t, "ws_messages_other.json", b.samples)
}

// The frames of ephemeral messages.
func TestSocket_SpeaksTheSamplesOfEphemeralMessages(t *testing.T) {
	s := newSocketServer(t, Config{})
	v := &conversation{c: s.dial("studio")}
	v.say(`{"id":1,"do":"hello","v":1,"client":"h1","ref":"u7","watch":[{"types":["message"]}]}`)
	v.hear() // its snapshot
	b := &conversation{c: s.dial("studio")}
	b.say(`{"id":1,"do":"hello","v":1,"client":"h2","observe":true,"watch":[{"topics":["cursor"]}]}`)
	b.hear() // its snapshot
	v.say(`{"id":2,"do":"send","topic":"cursor","data":{"x":0.25,"y":1.50},"ephemeral":true}`)
	b.hear()
	b.say(`{"id":2,"do":"send","topic":"like","data":"+1","ephemeral":true,"to":{"peers":["p1"],"refs":["u9"]}}`)
	v.hear()
	v.say(`{"id":3,"do":"send","topic":"cursor","data":1,"ephemeral":true,"to":{"peers":[]}}`)
	v.say(`{"id":4,"do":"txn","then":[{"do":"send","topic":"cursor","data":1,"ephemeral":true}]}`)
	compareSamples(t, "ws_ephemeral.json", v.samples)
	compareSamples(t, "ws_ephemeral_other.json", b.samples)
}
