package api

import (
	"slices"
	"strings"
	"testing"
)

func TestServer_cors(t *testing.T) {
	const app = "https://app.example"
	s := newTestServer(t, Config{Origins: []string{app}})
	s.open("r")
	t.Run("an allowed origin reads answers", func(t *testing.T) {
		r := s.do("GET", "/v1/rooms/r", "", "Origin", app).want(200)
		if r.header.Get("Access-Control-Allow-Origin") != app || !strings.Contains(r.header.Get("Access-Control-Expose-Headers"), "Conclave-Rev") {
			t.Errorf("got %v", r.header)
		}
	})
	t.Run("and errors", func(t *testing.T) {
		for _, path := range []string{"/v1/rooms/other", "/v1/nowhere"} {
			r := s.do("GET", path, "", "Origin", app).want(404)
			if r.header.Get("Access-Control-Allow-Origin") != app {
				t.Errorf("%s: got %v", path, r.header)
			}
		}
		if r := s.do("POST", "/v1/rooms/r", "", "Origin", app).want(405); r.header.Get("Access-Control-Allow-Origin") != app {
			t.Errorf("got %v", r.header)
		}
	})
	t.Run("a preflight allows all methods and headers of the protocol", func(t *testing.T) {
		for _, path := range []string{"/v1", "/v1/rooms/r/stores/default/keys/k", "/v1/rooms/r/events", "/v1/cluster/members/n1", "/v1/nowhere"} {
			r := s.do("OPTIONS", path, "", "Origin", app,
				"Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "if-match,conclave-session").want(204)
			for header, names := range map[string][]string{
				"Access-Control-Allow-Methods": {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"},
				"Access-Control-Allow-Headers": {
					"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID",
					"Conclave-Session", "Conclave-Peer", "Conclave-Peer-Key",
				},
			} {
				allowed := strings.Split(r.header.Get(header), ", ")
				for _, name := range names {
					if !slices.Contains(allowed, name) {
						t.Errorf("%s: %s is not in %s %v", path, name, header, allowed)
					}
				}
			}
			if r.header.Get("Access-Control-Allow-Origin") != app || r.header.Get("Vary") != "Origin" {
				t.Errorf("%s: got %v", path, r.header)
			}
		}
	})
	t.Run("answers and errors show their headers", func(t *testing.T) {
		put := s.do("PUT", "/v1/rooms/r/stores/default/keys/shown", "1", "Origin", app).want(201)
		for name, r := range map[string]reply{
			"a success":    put,
			"a conflict":   s.do("PUT", "/v1/rooms/r/stores/default/keys/shown", "1", "Origin", app, "If-None-Match", "*").want(412),
			"no such key":  s.do("GET", "/v1/rooms/r/stores/default/keys/none", "", "Origin", app).want(404),
			"a bad member": s.do("POST", "/v1/rooms/r/txn", "{}", "Origin", app).want(400),
			"no method":    s.do("DELETE", "/v1", "", "Origin", app).want(405),
		} {
			exposed := strings.Split(r.header.Get("Access-Control-Expose-Headers"), ", ")
			for _, header := range []string{"ETag", "Conclave-Rev", "Retry-After"} {
				if !slices.Contains(exposed, header) {
					t.Errorf("%s does not show %s: %v", name, header, exposed)
				}
			}
		}
		if put.header.Get("ETag") == "" || put.header.Get("Conclave-Rev") == "" {
			t.Errorf("got %v", put.header)
		}
		s.store.breakWith(unavailable("no leader"))
		defer s.store.breakWith(nil)
		r := s.do("GET", "/v1/rooms/r", "", "Origin", app).want(503)
		if r.header.Get("Retry-After") == "" || !strings.Contains(r.header.Get("Access-Control-Expose-Headers"), "Retry-After") {
			t.Errorf("got %v", r.header)
		}
	})
	t.Run("OPTIONS that is no preflight is no method", func(t *testing.T) {
		if r := s.do("OPTIONS", "/v1/rooms/r", ""); r.status != 405 || r.header.Get("Allow") == "" {
			t.Errorf("got %d %v", r.status, r.header)
		}
	})
	t.Run("a page of the server itself may call", func(t *testing.T) {
		s.do("GET", "/v1/rooms/r", "", "Origin", s.http.URL).want(200)
	})
	t.Run("a foreign origin changes nothing", func(t *testing.T) {
		for _, origin := range []string{"https://evil.example", "null", "http://localhost:3000"} {
			r := s.do("POST", "/v1/rooms/r/txn", `{"then":[{"do":"put","key":"k","value":1}]}`, "Origin", origin)
			r.refused("forbidden")
			if r.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("got %v", r.header)
			}
		}
		s.do("GET", "/v1/rooms/r/stores/default/keys/k", "").refused("not_found")
	})
	t.Run("any localhost may in dev", func(t *testing.T) {
		dev := newTestServer(t, Config{Dev: true})
		for _, origin := range []string{"http://localhost:3000", "http://127.0.0.1:5173", "https://[::1]:1"} {
			dev.do("GET", "/v1", "", "Origin", origin).want(200)
		}
		dev.do("GET", "/v1", "", "Origin", "http://localhost.evil.example").refused("forbidden")
	})
}
