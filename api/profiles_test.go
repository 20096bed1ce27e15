package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client/wire"
)

// The protocol's table of limit profiles, as GET room and hello serve it.
func TestProfiles_ServeTheProtocolsNumbers(t *testing.T) {
	const columns = "value_bytes keys_per_store stores session_bytes peers peer_data_bytes message_bytes locks lock_waiters writes_per_s writes_burst grace_ms linger_ms"
	table := map[string][]float64{
		"standard":    {64 << 10, 1_000, 32, 1 << 20, 2_500, 4 << 10, 4 << 10, 1_000, 1_000, 100, 200, 15_000, 0},
		"100ms":       {1 << 10, 100, 1, 64 << 10, 2_500, 4 << 10, 4 << 10, 100, 1_000, 100, 200, 60_000, 0},
		"realtimekit": {64 << 10, 1_000, 32, 1 << 20, 2_500, 4 << 10, 4 << 10, 1_000, 1_000, 20, 40, 15_000, 60_000},
		"daily":       {320 << 10, 1_000, 32, 320 << 10, 2_500, 16 << 10, 16 << 10, 1_000, 1_000, 100, 200, 15_000, 0},
		"large":       {512 << 10, 10_000, 256, 16 << 20, 20_000, 16 << 10, 64 << 10, 10_000, 10_000, 1_000, 2_000, 15_000, 0},
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(table)), slices.Sorted(maps.Keys(builtin))); diff != "" {
		t.Error(diff)
	}
	s := newTestServer(t, Config{})
	sockets := s.sockets()
	for name, numbers := range table {
		want := map[string]any{}
		for i, column := range strings.Fields(columns) {
			want[column] = numbers[i]
		}
		s.do("PUT", "/v1/rooms/"+name, fmt.Sprintf(`{"profile":%q}`, name)).want(201)
		var shown map[string]any
		decodeInto(t, s.do("GET", "/v1/rooms/"+name, "").want(200).body, &shown)
		got := maps.Clone(shown["limits"].(map[string]any))
		got["grace_ms"], got["linger_ms"] = shown["grace_ms"], shown["linger_ms"]
		if diff := cmp.Diff(want, got); diff != "" || shown["profile"] != name {
			t.Errorf("%s, shown as %v: %s", name, shown["profile"], diff)
		}
		var hello struct {
			Limits  map[string]any `json:"limits"`
			GraceMs float64        `json:"grace_ms"`
		}
		sockets.dial(name).must(&hello, "hello", `"v":1`)
		if diff := cmp.Diff(shown["limits"], any(hello.Limits)); diff != "" || hello.GraceMs != shown["grace_ms"] {
			t.Errorf("hello in %s, grace %v: %s", name, hello.GraceMs, diff)
		}
	}
	for _, p := range builtin {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	}
}

// Test100ms_LimitsToTheByteOverTheWire is what the state machine's test of that
// name says, as its users meet it: white space does not count, key names do, what
// is over is refused whole, with the numbers, and nothing is cut off.
func Test100ms_LimitsToTheByteOverTheWire(t *testing.T) {
	s := newTestServer(t, Config{Profile: "100ms"})
	s.open("r")
	c := s.sockets().join("r", "")
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	state := func() string {
		return fmt.Sprint(s.store.View().Rev(), s.do("GET", "/v1/rooms/r/stores/default?limit=1000", "").want(200).body)
	}
	// over writes by HTTP and by the socket's verb, and wants both refused.
	over := func(key, value, limit string, most, actual float64) {
		t.Helper()
		before := state()
		byHTTP := s.do("PUT", keys+key, value).refused("limit_exceeded")
		bySocket := c.fails(wire.LimitExceeded, "put", fmt.Sprintf(`"key":%q,"value":%s`, key, value)).Details
		want := map[string]any{"limit": limit, "max": most, "actual": actual}
		if diff := cmp.Diff(want, byHTTP); diff != "" {
			t.Errorf("HTTP: %s", diff)
		}
		if diff := cmp.Diff(want, bySocket); diff != "" {
			t.Errorf("socket: %s", diff)
		}
		if after := state(); after != before {
			t.Errorf("a refused write has changed something: %.300s, before %.300s", after, before)
		}
	}

	// A value: 1,024 bytes as stored.
	spaced := "[ " + strings.Repeat(" 1 ,\n", 511) + "1 ]" // 2 brackets, 512 digits, 511 commas
	over("k", strings.Replace(spaced, "[", "[ 1234, ", 1), "value_bytes", 1024, 1030)
	full := strings.Replace(strings.Replace(spaced, "1", "", 1), ",", "", 1) // 1,023
	s.do("PUT", keys+"k", full).want(201)
	full = strings.Replace(full, "1", "12", 1) // 1,024, of many more that were sent
	s.do("PUT", keys+"k", full).want(200)
	if got := s.do("GET", keys+"k?raw", "").want(200).body; len(got) != 1024 || got != strings.Map(noSpace, full) {
		t.Errorf("stored %d bytes: %.60s", len(got), got)
	}
	c.must(nil, "put", `"key":"k","value":`+text(1024))
	over("k", text(1025), "value_bytes", 1024, 1025)
	if d := s.do("PATCH", keys+"k", `{"update":`+text(1025)+`}`).refused("limit_exceeded"); d["limit"] != "value_bytes" || d["actual"] != 1025.0 {
		t.Errorf("update: %v", d)
	}
	// Digits, escapes and characters of several bytes count as they were sent.
	c.must(nil, "put", `"key":"k","value":"`+strings.Repeat("ä", 511)+`"`)
	over("k", `"`+strings.Repeat("ä", 511)+`x"`, "value_bytes", 1024, 1025)
	over("k", `"`+strings.Repeat(`\u00e4`, 171)+`"`, "value_bytes", 1024, 1028)

	// One store.
	if d := s.do("PUT", "/v1/rooms/r/stores/other/keys/k", "1").refused("limit_exceeded"); d["limit"] != "stores" || d["max"] != 1.0 || d["actual"] != 2.0 {
		t.Errorf("a second store: %v", d)
	}

	// 100 keys.
	c.must(nil, "replace", `"data":{}`)
	hundred := map[string]int{}
	for i := range 100 {
		hundred[fmt.Sprintf("key%02d", i)] = 1
	}
	s.do("PUT", "/v1/rooms/r/stores/default", string(marshal(hundred))).want(200)
	over("one", "1", "keys_per_store", 100, 101)
	hundred["one"] = 1
	if d := s.do("PUT", "/v1/rooms/r/stores/default", string(marshal(hundred))).refused("limit_exceeded"); d["limit"] != "keys_per_store" || d["actual"] != 101.0 {
		t.Errorf("replace: %v", d)
	}
	s.do("PUT", keys+"key00", "2").want(200) // full, and yet what is there can change
	s.do("DELETE", keys+"key00", "").want(200)
	s.do("PUT", keys+"one", "1").want(201)

	// 65,536 bytes with the names of keys: 64 times 5 of a name and 1,019 of a value.
	all := map[string]json.RawMessage{}
	for i := range 64 {
		all[fmt.Sprintf("key%02d", i)] = json.RawMessage(text(1019))
	}
	s.do("PUT", "/v1/rooms/r/stores/default", string(marshal(all))).want(200)
	if got := s.do("GET", "/v1/rooms/r", "").want(200).body; !strings.Contains(got, `"keys":64,"bytes":65536`) {
		t.Fatalf("got %s", got)
	}
	over("k", "1", "session_bytes", 65_536, 65_538)
	over("key00", text(1020), "session_bytes", 65_536, 65_537)
	s.do("PUT", keys+"key00", text(1017)).want(200)
	over("k", "10", "session_bytes", 65_536, 65_537)
	c.must(nil, "put", `"key":"k","value":1`)
	if d := c.fails(wire.LimitExceeded, "txn", `"then":[{"do":"delete","key":"k"},{"do":"put","key":"longer","value":1}]`).Details; d["limit"] != "session_bytes" || d["actual"] != 65_541.0 || d["index"] != 1.0 {
		t.Errorf("txn: %v", d)
	}

	// What belongs to peers, locks and messages.
	other := s.do("POST", "/v1/rooms/r/peers", `{"ttl_ms":60000,"data":`+text(4096)+`}`).want(201)
	if d := s.do("PATCH", "/v1/rooms/r/peers/"+other.text("peer"), `{"data":`+text(4097)+`}`).refused("limit_exceeded"); d["limit"] != "peer_data_bytes" || d["actual"] != 4097.0 {
		t.Errorf("data: %v", d)
	}
	c.must(nil, "send", `"topic":"t","data":`+text(4096))
	if d := c.fails(wire.LimitExceeded, "send", `"topic":"t","data":`+text(4097)).Details; d["limit"] != "message_bytes" || d["actual"] != 4097.0 {
		t.Errorf("message: %v", d)
	}
}

func noSpace(r rune) rune {
	if r == ' ' || r == '\n' {
		return -1
	}
	return r
}

// TestDaily_LimitsToTheByteOverTheWire: 320 KiB in one key or in all of them.
func TestDaily_LimitsToTheByteOverTheWire(t *testing.T) {
	s := newTestServer(t, Config{Profile: "daily"})
	s.open("r")
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	s.do("PUT", keys+"k", text(320<<10-1)).want(201)
	if d := s.do("PUT", keys+"k", text(320<<10)).refused("limit_exceeded"); d["limit"] != "session_bytes" || d["actual"] != 320.0*1024+1 {
		t.Errorf("got %v", d)
	}
	if d := s.do("PUT", keys+"k", text(320<<10+1)).refused("limit_exceeded"); d["limit"] != "value_bytes" || d["actual"] != 320.0*1024+1 {
		t.Errorf("got %v", d)
	}
}

// A limit at its hard bound works: the largest value passes over HTTP, over a
// socket, and with a condition on the one before.
func TestProfiles_TheLargestValueFitsEverywhere(t *testing.T) {
	widest := Profile{Grace: 10 * time.Minute, Linger: 24 * time.Hour}
	for _, l := range limits {
		widest.Set(l.name, l.most)
	}
	s := newTestServer(t, Config{Profile: "widest", Profiles: map[string]Profile{"widest": widest}})
	s.open("r")
	c := s.sockets().join("r", "")
	value := func(x string) string { return `"` + strings.Repeat(x, widest.Limits.ValueBytes-2) + `"` }
	s.do("PUT", keys+"k", value("a")).want(201)
	c.must(nil, "put", `"key":"k","value":`+value("b"))
	near := `"` + strings.Repeat("c", widest.Limits.ValueBytes-4096) + `"`
	c.must(nil, "put", `"key":"k","value":`+near)
	c.must(nil, "put", `"key":"k","value":`+near+`,"if":{"value":`+near+`}`)
	if d := s.do("PUT", keys+"k", `"x`+value("a")[1:]).refused("limit_exceeded"); d["limit"] != "value_bytes" {
		t.Errorf("got %v", d)
	}
}

func TestProfile_Check(t *testing.T) {
	for _, l := range limits {
		for _, bad := range []int{0, -1, l.most + 1} {
			p := builtin[standardProfile]
			if !p.Set(l.name, bad) {
				t.Fatalf("no limit is called %s", l.name)
			}
			err := (Config{Profiles: map[string]Profile{"mine": p}}).Check()
			if want := fmt.Sprintf(`limit profile "mine": %s: want 1 to %d, got %d`, l.name, l.most, bad); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		for _, good := range []int{1, l.most} {
			p := builtin[standardProfile]
			p.Set(l.name, good)
			if err := p.Check(); err != nil {
				t.Error(err)
			}
		}
	}
	// Every member of the limits is in the table, once.
	var names map[string]int
	if err := json.Unmarshal(marshal(wire.Limits{}), &names); err != nil || len(names) != len(limits) {
		t.Errorf("%d limits, %d on the wire, %v", len(limits), len(names), err)
	}
	for name := range names {
		var p Profile
		if !p.Set(name, 7) || !strings.Contains(string(marshal(p.Limits)), fmt.Sprintf("%q:7", name)) {
			t.Errorf("setting %s gives %+v", name, p.Limits)
		}
	}
	for want, change := range map[string]func(*Profile){
		"grace":  func(p *Profile) { p.Grace = 10*time.Minute + time.Millisecond },
		"linger": func(p *Profile) { p.Linger = 24*time.Hour + time.Millisecond },
		"whole":  func(p *Profile) { p.Grace = time.Microsecond },
		"got -1": func(p *Profile) { p.Linger = -time.Second },
	} {
		p := builtin[standardProfile]
		if change(&p); p.Check() == nil || !strings.Contains(p.Check().Error(), want) {
			t.Errorf("got %v, want something about %s", p.Check(), want)
		}
	}
	for _, name := range []string{"", "a b", "ä", "..", strings.Repeat("x", 65)} {
		if err := (Config{Profiles: map[string]Profile{name: builtin[standardProfile]}}).Check(); err == nil {
			t.Errorf("a profile may be called %q", name)
		}
	}
	for _, cfg := range []Config{{TokenWritesPerS: -1}, {TokenWritesBurst: maxTokenWrites + 1}} {
		if cfg.Check() == nil {
			t.Errorf("%+v is let through", cfg)
		}
	}
}
