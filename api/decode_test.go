package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"conclave/fsm"
)

func ptr[T any](v T) *T { return &v }

var (
	aServer = fsm.Caller{Owner: "cron"}
	aPeer   = fsm.Caller{Kind: fsm.CallerPeer, Peer: "p1"}
)

func TestObject_transaction(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		by   fsm.Caller
		want fsm.Txn
	}{
		"the protocol's example": {
			in: `{"if":[{"key":"host","rev":1004},{"key":"poll","absent":true},{"key":"stage","fence":977}],
				"then":[{"do":"put","key":"poll","value":{"q": 1.0}},{"do":"acquire","key":"stage","ttl_ms":5000}],
				"else":[{"do":"get","key":"host"}]}`,
			by: aServer,
			want: fsm.Txn{
				If: []fsm.Condition{
					{Store: "default", Key: "host", If: fsm.If{Rev: ptr(uint64(1004))}},
					{Store: "default", Key: "poll", If: fsm.If{Absent: true}},
					{Store: "default", Key: "stage", Fence: 977},
				},
				Then: []fsm.Operation{
					{Kind: fsm.OpPut, Store: "default", Key: "poll", Value: []byte(`{"q":1.0}`)},
					{Kind: fsm.OpAcquire, Store: "default", Key: "stage", Lock: &fsm.LockRequest{TTL: 5000}},
				},
				Else: []fsm.Operation{{Kind: fsm.OpGet, Store: "default", Key: "host"}},
			},
		},
		"everything a put may say": {
			in: `{"then":[{"do":"put","store":"s","key":"a/b ß","value":null,"if":{"version":0,"value":[1]},"fence":3,"ttl_ms":10,"bind":true}]}`,
			by: aPeer,
			want: fsm.Txn{Then: []fsm.Operation{{
				Kind: fsm.OpPut, Store: "s", Key: "a/b ß", Value: []byte("null"), Fence: 3, TTL: 10, Bind: "p1",
				If: &fsm.If{Version: ptr(uint64(0)), Value: []byte("[1]")},
			}}},
		},
		"the other verbs": {
			in: `{"if":[{"session":"s12"}],"then":[
				{"do":"delete","key":"a","if":{"exists":true,"rev":7}},{"do":"release","key":"l","fence":9},
				{"do":"acquire","key":"l","release_on_detach":true,"mode":"exclusive","permits":1,"delay_ms":0,"data":{"x":1}},
				{"do":"put","key":"b","value":1,"bind":"p7"}]}`,
			by: aPeer,
			want: fsm.Txn{
				If: []fsm.Condition{{Session: "s12"}},
				Then: []fsm.Operation{
					{Kind: fsm.OpDelete, Store: "default", Key: "a", If: &fsm.If{Exists: true, Rev: ptr(uint64(7))}},
					{Kind: fsm.OpRelease, Store: "default", Key: "l", Fence: 9},
					{Kind: fsm.OpAcquire, Store: "default", Key: "l", Lock: &fsm.LockRequest{OnDetach: true, Data: []byte(`{"x":1}`)}},
					{Kind: fsm.OpPut, Store: "default", Key: "b", Value: []byte("1"), Bind: "p7"},
				},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, refused := parseObject([]byte(tc.in), "body")
			if refused != nil {
				t.Fatal(refused)
			}
			got := o.transaction(tc.by)
			if err := o.done(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestObject_namesTheFieldThatIsWrong(t *testing.T) {
	longKey := strings.Repeat("k", 257)
	put := func(members string) string { return `{"then":[{"do":"put","key":"k","value":1,` + members + `}]}` }
	for name, tc := range map[string]struct {
		in, field string
	}{
		"no object":                   {`[]`, "body"},
		"unknown member":              {`{"then":[],"iff":[]}`, "iff"},
		"unknown member of an op":     {put(`"valeu":1`), "then[0].valeu"},
		"a member of another verb":    {`{"then":[{"do":"get","key":"k"},{"do":"delete","key":"k","value":1}]}`, "then[1].value"},
		"unknown member of if":        {put(`"if":{"revision":1}`), "then[0].if.revision"},
		"an empty if":                 {put(`"if":{}`), "then[0].if"},
		"absent: false":               {put(`"if":{"absent":false}`), "then[0].if.absent"},
		"an op that is no object":     {`{"then":[1]}`, "then[0]"},
		"ops that are no array":       {`{"then":{}}`, "then"},
		"no then":                     {`{"if":[]}`, "then"},
		"no verb":                     {`{"then":[{"key":"k"}]}`, "then[0].do"},
		"an unknown verb":             {`{"then":[{"do":"frob","key":"k"}]}`, "then[0].do"},
		"append without values":       {`{"then":[{"do":"append","key":"k"}]}`, "then[0].values"},
		"append of no array":          {`{"then":[{"do":"append","key":"k","values":1}]}`, "then[0].values"},
		"remove with unique":          {`{"then":[{"do":"remove","key":"k","values":[],"unique":true}]}`, "then[0].unique"},
		"an update without value":     {`{"then":[{"do":"update","key":"k"}]}`, "then[0].value"},
		"adding a text":               {`{"then":[{"do":"add","key":"k","by":"1"}]}`, "then[0].by"},
		"adding nothing":              {`{"then":[{"do":"add","key":"k"}]}`, "then[0].by"},
		"a patch of nothing":          {`{"then":[{"do":"patch","key":"k"}]}`, "then[0].merge"},
		"a patch of both kinds":       {`{"then":[{"do":"patch","key":"k","merge":{},"ops":[]}]}`, "then[0].merge"},
		"ops of a patch, no array":    {`{"then":[{"do":"patch","key":"k","ops":{}}]}`, "then[0].ops"},
		"a merge of nothing":          {`{"then":[{"do":"merge"}]}`, "then[0].set"},
		"a merge of an array":         {`{"then":[{"do":"merge","set":[]}]}`, "then[0].set"},
		"a merge with a key":          {`{"then":[{"do":"merge","set":{},"key":"k"}]}`, "then[0].key"},
		"a merge of a bad key":        {`{"then":[{"do":"merge","set":{"a*":1}}]}`, "then[0].set.a*"},
		"a merge with a fence":        {`{"then":[{"do":"merge","set":{},"fence":1}]}`, "then[0].fence"},
		"a merge that does both":      {`{"then":[{"do":"merge","set":{"a":1,"c":1},"delete":["b","c"]}]}`, "then[0].delete"},
		"a merge deleting a number":   {`{"then":[{"do":"merge","delete":[1]}]}`, "then[0].delete"},
		"a replace without data":      {`{"then":[{"do":"replace"}]}`, "then[0].data"},
		"fences that are no object":   {`{"then":[{"do":"replace","data":{},"fences":[1]}]}`, "then[0].fences"},
		"fences of a bad key":         {`{"then":[{"do":"replace","data":{},"fences":{"..":1}}]}`, "then[0].fences..."},
		"fences of 0":                 {`{"then":[{"do":"replace","data":{},"fences":{"k":0}}]}`, "then[0].fences.k"},
		"fences in quotes":            {`{"then":[{"do":"replace","data":{},"fences":{"k":"1"}}]}`, "then[0].fences.k"},
		"a prefix with a star":        {`{"then":[{"do":"delete","prefix":"a*"}]}`, "then[0].prefix"},
		"a prefix of 257 bytes":       {`{"then":[{"do":"delete","prefix":"` + longKey + `"}]}`, "then[0].prefix"},
		"a prefix and a key":          {`{"then":[{"do":"delete","prefix":"a","key":"k"}]}`, "then[0].key"},
		"a prefix with a condition":   {`{"then":[{"do":"delete","prefix":"a","if":{"exists":true}}]}`, "then[0].if"},
		"a message without topic":     {`{"then":[{"do":"send","data":1}]}`, "then[0].topic"},
		"a message to a pattern":      {`{"then":[{"do":"send","topic":"a*","data":1}]}`, "then[0].topic"},
		"a message without data":      {`{"then":[{"do":"send","topic":"t"}]}`, "then[0].data"},
		"a message in a store":        {`{"then":[{"do":"send","topic":"t","data":1,"store":"s"}]}`, "then[0].store"},
		"a message to nobody":         {`{"then":[{"do":"send","topic":"t","data":1,"to":{}}]}`, "then[0].to"},
		"a message to no peers":       {`{"then":[{"do":"send","topic":"t","data":1,"to":{"peers":[]}}]}`, "then[0].to"},
		"a message to friends":        {`{"then":[{"do":"send","topic":"t","data":1,"to":{"peers":["p1"],"friends":[]}}]}`, "then[0].to.friends"},
		"a message to a number":       {`{"then":[{"do":"send","topic":"t","data":1,"to":{"refs":[1]}}]}`, "then[0].to.refs"},
		"a message to no role":        {`{"then":[{"do":"send","topic":"t","data":1,"to":{"roles":[""]}}]}`, "then[0].to.roles"},
		"a message to no peer's id":   {`{"then":[{"do":"send","topic":"t","data":1,"to":{"peers":["a/b"]}}]}`, "then[0].to.peers"},
		"an ephemeral message":        {`{"then":[{"do":"send","topic":"t","data":1,"ephemeral":true}]}`, "then[0].ephemeral"},
		"no key":                      {`{"then":[{"do":"get"}]}`, "then[0].key"},
		"a key that is a number":      {`{"then":[{"do":"get","key":7}]}`, "then[0].key"},
		"a key of 257 bytes":          {`{"then":[{"do":"get","key":"` + longKey + `"}]}`, "then[0].key"},
		"a key with a star":           {`{"then":[{"do":"get","key":"a*"}]}`, "then[0].key"},
		"a key with a control":        {`{"then":[{"do":"get","key":"a\u0000"}]}`, "then[0].key"},
		"a key with half a character": {`{"then":[{"do":"get","key":"\ud800"}]}`, "then[0].key"},
		"a key of two dots":           {`{"then":[{"do":"get","key":".."}]}`, "then[0].key"},
		"a bad store":                 {`{"then":[{"do":"get","store":"a/b","key":"k"}]}`, "then[0].store"},
		"no value":                    {`{"then":[{"do":"put","key":"k"}]}`, "then[0].value"},
		"a fence of 0":                {put(`"fence":0`), "then[0].fence"},
		"a fence beyond 2^53":         {put(`"fence":9007199254740992`), "then[0].fence"},
		"a fence with a point":        {put(`"fence":1.0`), "then[0].fence"},
		"a fence in quotes":           {put(`"fence":"1"`), "then[0].fence"},
		"a fence of null":             {put(`"fence":null`), "then[0].fence"},
		"a ttl of 0":                  {put(`"ttl_ms":0`), "then[0].ttl_ms"},
		"a bind of a server's":        {put(`"bind":true`), "then[0].bind"},
		"a release without fence":     {`{"then":[{"do":"release","key":"k"}]}`, "then[0].fence"},
		"a lock ttl under a second":   {`{"then":[{"do":"acquire","key":"k","ttl_ms":999}]}`, "then[0].ttl_ms"},
		"a lock ttl over a day":       {`{"then":[{"do":"acquire","key":"k","ttl_ms":86400001}]}`, "then[0].ttl_ms"},
		"a server's lock without ttl": {`{"then":[{"do":"acquire","key":"k"}]}`, "then[0].ttl_ms"},
		"an unknown mode":             {`{"then":[{"do":"acquire","key":"k","ttl_ms":1000,"mode":"both"}]}`, "then[0].mode"},
		"a delay over an hour":        {`{"then":[{"do":"acquire","key":"k","ttl_ms":1000,"delay_ms":3600001}]}`, "then[0].delay_ms"},
		"a mode nobody knows":         {`{"then":[{"do":"acquire","key":"k","ttl_ms":1000,"mode":"weak"}]}`, "then[0].mode"},
		"permits of a shared lock":    {`{"then":[{"do":"acquire","key":"k","ttl_ms":1000,"mode":"shared","permits":2}]}`, "then[0].permits"},
		"a condition on nothing":      {`{"if":[{"key":"k"}],"then":[]}`, "if[0].key"},
		"a condition on two things":   {`{"if":[{"session":"s1","key":"k"}],"then":[]}`, "if[0].key"},
		"too many operations":         {`{"then":[` + strings.Repeat(`{"do":"get","key":"k"},`, 128) + `{"do":"get","key":"k"}]}`, "then"},
	} {
		t.Run(name, func(t *testing.T) {
			o, refused := parseObject([]byte(tc.in), "body")
			if refused == nil {
				o.transaction(aServer)
				refused = o.done()
			}
			if refused == nil {
				t.Fatal("it was accepted")
			}
			if refused.Code != "bad_request" || refused.Details["field"] != tc.field {
				t.Errorf("got %v %v, want bad_request for %q", refused, refused.Details, tc.field)
			}
			if !strings.Contains(refused.Message, tc.field) {
				t.Errorf("the message %q does not name %q", refused.Message, tc.field)
			}
		})
	}
}

func TestCheckSize(t *testing.T) {
	value := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	put := fsm.Operation{Kind: fsm.OpPut, Store: "default", Key: "k", Value: value}
	small := &fsm.Command{Txn: &fsm.Txn{Then: []fsm.Operation{put}}}
	if err := checkSize(small); err != nil {
		t.Error(err)
	}
	large := &fsm.Command{Txn: &fsm.Txn{Then: []fsm.Operation{put, put}}}
	if err := checkSize(large); err == nil || err.Code != "limit_exceeded" || err.Details["limit"] != "command_bytes" {
		t.Errorf("got %v, want limit_exceeded of command_bytes", err)
	}
}

// Whatever checkSize lets through encodes within the bound that replicas check.
func TestCheckSize_isNotBelowTheEncoding(t *testing.T) {
	cmd := &fsm.Command{Kind: fsm.CommandTxn, Room: strings.Repeat("r", 128), Session: "s1", Caller: fsm.Caller{User: strings.Repeat("u", 256), Owner: strings.Repeat("o", 256)}, Txn: &fsm.Txn{}}
	for i := range maxOperations {
		key := fmt.Sprintf("%0256d", i)
		cmd.Txn.If = append(cmd.Txn.If, fsm.Condition{Store: "default", Key: key, If: fsm.If{Rev: ptr(uint64(maxNumber - 1)), Version: ptr(uint64(maxNumber - 1)), Exists: true}, Fence: maxNumber - 1})
		cmd.Txn.Then = append(cmd.Txn.Then, fsm.Operation{
			Kind: fsm.OpPut, Store: "default", Key: key, Value: []byte(strings.Repeat("1", 15_200)), Fence: maxNumber - 1, TTL: maxEntryTTL,
			If: &fsm.If{Rev: ptr(uint64(maxNumber - 1)), Version: ptr(uint64(maxNumber - 1)), Exists: true},
		})
	}
	edit := fsm.Operation{Kind: fsm.OpMerge, Store: strings.Repeat("s", 64)}
	for i := range 500 {
		key := fmt.Sprintf("%d", i)
		edit.Set = append(edit.Set, fsm.KeyValue{Key: key, Value: []byte("1")})
		edit.Delete = append(edit.Delete, key)
		edit.Fences = append(edit.Fences, fsm.KeyFence{Key: key, Fence: maxNumber - 1})
	}
	cmd.Txn.Then[0] = edit
	if err := checkSize(cmd); err != nil {
		t.Fatal(err) // it should just fit
	}
	data, err := fsm.EncodeProposal(&fsm.Proposal{V: fsm.FormatVersion, Batches: []fsm.Batch{{Node: "n", Incarnation: 1, Seq: 1, Commands: []fsm.Command{*cmd}}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > fsm.MaxCommandBytes {
		t.Errorf("encodes to %d bytes", len(data))
	}
}

// FuzzTransaction: what the api lets through, the state machine finds well
// formed, and the codec carries.
func FuzzTransaction(f *testing.F) {
	for _, seed := range []string{
		`{"then":[]}`,
		`{"if":[{"key":"a","rev":1},{"session":"s1"}],"then":[{"do":"put","key":"a","value":{"x":[1.0]},"ttl_ms":1}],"else":[{"do":"get","key":"b"}]}`,
		`{"then":[{"do":"acquire","key":"l","ttl_ms":1000,"data":1},{"do":"release","key":"l","fence":1},{"do":"delete","store":"s","key":"k","if":{"value":null}}]}`,
		`{"then":[{"do":"update","key":"a","value":[1]},{"do":"append","key":"a","values":[1],"unique":true,"bind":"p1"},{"do":"remove","key":"a","values":[]},{"do":"add","key":"n","by":-1.5e3,"ttl_ms":5}]}`,
		`{"then":[{"do":"send","topic":"chat/1","data":{"a":1},"to":{"peers":["p1"],"refs":["\u00e4"],"roles":["host"]},"echo":true},{"do":"send","topic":"t","data":null}]}`,
		`{"then":[{"do":"patch","key":"a","merge":{"b":null}},{"do":"patch","key":"a","ops":[{"op":"test","path":"","value":1}],"fence":3},{"do":"delete","prefix":""}]}`,
		`{"then":[{"do":"merge","set":{"b":1,"a":null},"delete":["z","c","z"],"fences":{"b":2,"a":1}},{"do":"replace","store":"s","data":{"\u0062":[],"a":{}}},{"do":"delete","prefix":"x/","fences":{"x/1":9}}]}`,
		`{"then":[{"do":"put","key":"\u0061/\ud83d\ude00","value":"\ud800","bind":"p1"}]}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, asPeer bool) {
		by := aServer
		if asPeer {
			by = aPeer
		}
		o, err := parseObject(data, "body")
		if err != nil {
			return
		}
		cmd := &fsm.Command{Kind: fsm.CommandTxn, Room: "r", Caller: by, Txn: o.transaction(by)}
		if o.done() != nil || checkSize(cmd) != nil {
			return
		}
		if no := cmd.Check(); no != nil {
			t.Fatalf("%s: %v", data, no)
		}
		b := &fsm.Batch{Node: "n", Incarnation: 1, Seq: 1, Commands: []fsm.Command{*cmd}}
		encoded, encodeErr := fsm.EncodeBatch(b)
		if encodeErr != nil {
			t.Fatal(encodeErr)
		}
		if _, err := fsm.DecodeBatch(encoded); err != nil {
			t.Fatal(err)
		}
	})
}
