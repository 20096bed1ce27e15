package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A node that has just started knows no leader and nothing of the others; the next
// server of the list does.
func TestStatus_asks_who_knows_a_leader(t *testing.T) {
	node := func(id, leader string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"cluster":"c1","id":%q,"leader":%s,"members":[]}`, id, leader)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	fresh, serving, dead := node("n1", "null"), node("n2", `"n2"`), "http://127.0.0.1:1"
	for _, test := range []struct {
		servers []string
		want    string // id of the node whose word counts
	}{
		{[]string{fresh, serving}, "n2"},
		{[]string{dead, fresh, serving}, "n2"},
		{[]string{serving, fresh}, "n2"},
		{[]string{fresh, dead}, "n1"},
		{[]string{dead}, ""},
	} {
		c := connection{servers: test.servers}
		got, err := c.cluster(t.Context())
		if test.want == "" {
			if err == nil {
				t.Errorf("%v: got %+v, want an error", test.servers, got)
			}
		} else if err != nil || got.ID != test.want {
			t.Errorf("%v: got %+v, %v, want the word of %s", test.servers, got, err, test.want)
		}
	}
}
