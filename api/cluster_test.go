package api

import (
	"encoding/json"
	"strings"
	"testing"

	"conclave/client/wire"
)

func decodeInto(t testing.TB, body string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
}

func TestCluster_status(t *testing.T) {
	s := newTestServer(t, Config{})
	r := s.do("GET", "/v1/cluster", "").want(200)
	var got wire.Cluster
	dec := json.NewDecoder(strings.NewReader(r.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Cluster != "c1" || got.ID != "n1" || got.Leader == nil || *got.Leader != "n1" || got.ConfigIndex != 3 || len(got.Members) != 3 {
		t.Errorf("got %s", r.body)
	}
	if r.header.Get("ETag") != `"3"` {
		t.Errorf("got ETag %s", r.header.Get("ETag"))
	}
	s.store.mu.Lock()
	s.store.leader = wallStart
	s.store.mu.Unlock()
	if r := s.do("GET", "/v1/cluster", "").want(200); !strings.Contains(r.body, `"leader":null`) {
		t.Errorf("got %s", r.body)
	}
}

func TestCluster_membership(t *testing.T) {
	s := newTestServer(t, Config{})
	s.do("POST", "/v1/cluster/members", `{"id":"n4","peer_addr":"127.0.0.1:7503","replica":true}`, "If-Match", `"2"`).refused("conflict")
	r := s.do("POST", "/v1/cluster/members", `{"id":"n4","peer_addr":"127.0.0.1:7503","replica":true}`, "If-Match", `"3"`).want(200)
	if r.header.Get("ETag") != `"4"` || !strings.Contains(r.body, `{"id":"n4","peer_addr":"127.0.0.1:7503","http_addr":"","voter":false`) {
		t.Errorf("got %s", r.body)
	}
	s.do("POST", "/v1/cluster/members", `{"id":"n4","peer_addr":"127.0.0.1:7503"}`).refused("conflict")
	if r := s.do("POST", "/v1/cluster/members/n4/promote", "").want(200); !strings.Contains(r.body, `{"id":"n4","peer_addr":"127.0.0.1:7503","http_addr":"","voter":true`) {
		t.Errorf("got %s", r.body)
	}
	s.do("POST", "/v1/cluster/members/n4/demote", "", "If-Match", `"4"`).refused("conflict")
	if r := s.do("POST", "/v1/cluster/members/n4/demote", "", "If-Match", `"5"`).want(200); !strings.Contains(r.body, `"http_addr":"","voter":false`) {
		t.Errorf("got %s", r.body)
	}
	s.do("DELETE", "/v1/cluster/members/n4", "").want(200)
	s.do("DELETE", "/v1/cluster/members/n4", "").refused("not_found")
	s.do("DELETE", "/v1/cluster/members/n1", "").refused("conflict")
	s.do("DELETE", "/v1/cluster/members/n1?force=true", "").want(200)
	if r := s.do("POST", "/v1/cluster/transfer", `{"to":"n3"}`).want(200); !strings.Contains(r.body, `"http_addr":"127.0.0.1:7402","voter":true,"leader":true`) {
		t.Errorf("got %s", r.body)
	}
	s.do("POST", "/v1/cluster/transfer", "").want(200)
	s.do("POST", "/v1/cluster/transfer", `{"to":"n9"}`).refused("not_found")
	for _, tc := range [][]string{
		{"POST", "/v1/cluster/members", `{"id":"n 5","peer_addr":"h:1"}`, "id"},
		{"POST", "/v1/cluster/members", `{"peer_addr":"h:1"}`, "id"},
		{"POST", "/v1/cluster/members", `{"id":"n5"}`, "peer_addr"},
		{"POST", "/v1/cluster/members", `{"id":"n5","peer_addr":"h:1","voter":true}`, "voter"},
		{"POST", "/v1/cluster/members", `{"id":"n5","peer_addr":"h:1","replica":"yes"}`, "replica"},
		{"DELETE", "/v1/cluster/members/n2?force=please", "", "force"},
		{"DELETE", "/v1/cluster/members/n2?now", "", "now"},
		{"POST", "/v1/cluster/transfer", `{"to":""}`, "to"},
	} {
		if d := s.do(tc[0], tc[1], tc[2]).refused("bad_request"); d["field"] != tc[3] {
			t.Errorf("%v: got %v", tc, d)
		}
	}
	s.do("DELETE", "/v1/cluster/members/n2", "", "If-Match", "4").refused("bad_request")
}
