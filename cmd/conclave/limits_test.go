package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/api"
	"conclave/client"
	"conclave/client/wire"
)

func TestProfileSet_starts_from_a_built_in_profile(t *testing.T) {
	standard, _ := api.BuiltinProfile("standard")
	daily, _ := api.BuiltinProfile("daily")
	webinar, large, named := standard, daily, daily
	webinar.Limits.Peers, webinar.Limits.WritesPerS, webinar.Grace, webinar.Linger = 20_000, 5, 30*time.Second, time.Hour
	large.Limits.SessionBytes = 64 << 20
	named.Grace = 0
	var got profileSet
	if err := got.Set(`{
		webinar: {peers: 20000, writes_per_s: 5, grace: 30s, linger: 1h},
		big: {base: daily, session_bytes: 67108864},
		daily: {grace: 0s}}`); err != nil {
		t.Fatal(err)
	}
	want := profileSet{"webinar": webinar, "big": large, "daily": named}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var again profileSet
	if err := again.Set(got.String()); err != nil {
		t.Fatalf("%v: %s", err, got.String())
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("dev's nodes would get others: %s", diff)
	}
}

// What is wrong is told by the names of the profile and the limit, and nothing of
// the set is taken.
func TestProfileSet_says_what_is_wrong(t *testing.T) {
	for text, want := range map[string]string{
		`{webinar: {peers: 20001}}`:             `limit profile "webinar": peers: want 1 to 20000, got 20001`,
		`{webinar: {value_bytes: 2097152}}`:     `limit profile "webinar": value_bytes: want 1 to 1048576, got 2097152`,
		`{webinar: {locks: 0}}`:                 `limit profile "webinar": locks: want 1 to 100000, got 0`,
		`{webinar: {stores: -1}}`:               `limit profile "webinar": stores: want 1 to 1000, got -1`,
		`{webinar: {peers: 1.5}}`:               `profile "webinar": peers: want an integer, got 1.5`,
		`{webinar: {peers: "5"}}`:               `profile "webinar": peers: want an integer, got 5`,
		`{webinar: {peers: 99999999999999999}}`: `want 1 to 20000`,
		`{webinar: {peers: }}`:                  `profile "webinar": peers: want an integer`,
		`{webinar: {participants: 5}}`:          `profile "webinar": participants: no limit is called so`,
		`{webinar: {base: huge}}`:               `profile "webinar": base: no built-in profile is called huge`,
		`{a: {}, webinar: {base: a}}`:           `profile "webinar": base: no built-in profile is called a`,
		`{webinar: {grace: 15}}`:                `profile "webinar": grace: want a duration like 15s, got 15`,
		`{webinar: {grace: soon}}`:              `profile "webinar": grace: time: invalid duration`,
		`{webinar: {grace: 11m}}`:               `limit profile "webinar": grace: want whole milliseconds from 0 to 10m0s, got 11m0s`,
		`{webinar: {linger: 25h}}`:              `limit profile "webinar": linger: want whole milliseconds from 0 to 24h0m0s, got 25h0m0s`,
		`{webinar: {grace: 1us}}`:               `whole milliseconds`,
		`{"web inar": {}}`:                      `limit profile "web inar": its name may only have letters`,
		`{webinar: 5}`:                          `want {name: {limit: number}}`,
		`[webinar]`:                             `want {name: {limit: number}}`,
		`{webinar: {peers: 5}, webinar: {}}`:    `already defined`,
		`{webinar: {peers: 5, peers: 6}}`:       `already defined`,
	} {
		before := profileSet{"kept": api.Profile{}}
		err := before.Set(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
		if len(before) != 1 {
			t.Errorf("%s: left %v", text, before)
		}
	}
}

// A mistake in the config file stops serve before anything is opened.
func TestServe_refuses_limits_that_cannot_be(t *testing.T) {
	for text, want := range map[string]string{
		"profiles: {webinar: {peers: 20001}}":          `conclave.yaml: profiles: limit profile "webinar": peers: want 1 to 20000, got 20001`,
		"profile: webinar":                             `no limit profile is called "webinar"`,
		"profiles: {a: {}}\nprofile: b":                `no limit profile is called "b"`,
		"profiles: [a]":                                `profiles: want {name: {limit: number}}`,
		"token-writes-per-s: 0":                        "--token-writes-per-s: want 1 or more, got 0",
		"token-writes-burst: -1":                       "--token-writes-burst: want 1 or more, got -1",
		"token-writes-per-s: 1000001":                  "writes of a token: 1000001",
		"profiles: {standard: {peers: 5}}\nprofile: a": `no limit profile is called "a"`,
	} {
		var stdout, stderr strings.Builder
		data := t.TempDir() + "/none"
		code := run(t.Context(), []string{"serve", "--id", "n1", "--data", data, "--config", configFile(t, text)}, strings.NewReader(""), &stdout, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: exit code %d, %s; want %q", text, code, &stderr, want)
		}
	}
}

// The numbers of a session are its own: nodes whose configurations differ show and
// enforce those with which it was opened, wherever that was.
func TestCluster_nodes_with_other_profiles_agree_on_a_session(t *testing.T) {
	c := &testCluster{t: t}
	for i := range 3 {
		c.add(fmt.Sprintf("n%d", i+1))
	}
	peers := c.nodes[0].peer + "," + c.nodes[1].peer + "," + c.nodes[2].peer
	for i, config := range []string{
		"profile: webinar\nprofiles:\n  webinar: {base: realtimekit, keys_per_store: 3, value_bytes: 5, grace: 30s, linger: 2m}\n",
		"profile: webinar\nprofiles:\n  webinar:\n    base: standard\n    keys_per_store: 5\n",
		"",
	} {
		c.nodes[i].args = []string{"--bootstrap-expect", "3", "--join", peers, "--config", configFile(t, config)}
		c.nodes[i].start()
	}
	for _, n := range c.nodes {
		n.ready()
	}
	ctx := t.Context()
	at := make([]*client.HTTP, 3)
	for i := range at {
		h, err := client.NewHTTP(client.HTTPConfig{Config: client.Config{Servers: []string{c.nodes[i].url()}}})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		at[i] = h
	}

	first, err := at[0].OpenRoom(ctx, "first", client.OpenParams{})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := api.BuiltinProfile("realtimekit")
	want.Limits.KeysPerStore, want.Limits.ValueBytes = 3, 5
	for i := range at {
		got, err := at[i].Room(ctx, "first")
		if err != nil || got.Profile != "webinar" || got.Limits != want.Limits || got.GraceMs != 30_000 || got.LingerMs != 120_000 {
			t.Errorf("n%d shows %+v, %v; n1 opened %+v", i+1, got, err, first)
		}
		if _, err := at[i].Put(ctx, "first", fmt.Sprint("k", i), i, client.WriteParams{}); err != nil {
			t.Errorf("n%d: %v", i+1, err)
		}
	}
	for i := range at {
		refused := func(key string, value any) map[string]any {
			var e *wire.Error
			if _, err := at[i].Put(ctx, "first", key, value, client.WriteParams{}); !errors.As(err, &e) {
				t.Fatalf("n%d: %v", i+1, err)
			}
			return e.Details
		}
		if d := refused("k3", 1); d["limit"] != "keys_per_store" || d["max"] != 3.0 {
			t.Errorf("n%d: %v", i+1, d)
		}
		if d := refused("k0", "long"); d["limit"] != "value_bytes" || d["max"] != 5.0 || d["actual"] != 6.0 {
			t.Errorf("n%d: %v", i+1, d)
		}
	}

	c.nodes[1].joins("second", client.JoinOptions{})
	for i := range at {
		if got, err := at[i].Room(ctx, "second"); err != nil || got.Limits.KeysPerStore != 5 || got.Limits.ValueBytes != 64<<10 || got.LingerMs != 0 {
			t.Errorf("n%d shows %+v, %v", i+1, got, err)
		}
	}

	if _, err := at[2].OpenRoom(ctx, "third", client.OpenParams{Profile: "webinar"}); !client.HasCode(err, wire.BadRequest) {
		t.Errorf("n3 knows no webinar, and says %v", err)
	}
	// A benchmark runs in rooms of a profile that the server knows, or not at all.
	bench := []string{"bench", "put", "--profile", "webinar", "--size", "4", "--connections", "2", "--rooms", "1", "--duration", "200ms", "--warm-up", "0s"}
	if out, errs, code := c.conclave(c.urls(2), bench...); code != exitRefused || !strings.Contains(errs, "bad_request") {
		t.Errorf("at n3: exit code %d: %s%s", code, out, errs)
	}
	if out, errs, code := c.conclave(c.urls(0), bench...); code != exitDone {
		t.Errorf("at n1: exit code %d: %s%s", code, out, errs)
	}
	if got, err := at[2].OpenRoom(ctx, "third", client.OpenParams{}); err != nil || got.Profile != "standard" {
		t.Errorf("got %+v, %v", got, err)
	}
}
