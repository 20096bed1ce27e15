package main

import (
	"net"
	"testing"
)

func TestWithPort_completes_addresses(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1":      "127.0.0.1:7400",
		"127.0.0.1:80":   "127.0.0.1:80",
		"127.0.0.1:":     "127.0.0.1:7400",
		"127.0.0.1:0":    "127.0.0.1:0",
		"n1.internal":    "n1.internal:7400",
		":7401":          ":7401",
		"::1":            "[::1]:7400",
		"[::1]":          "[::1]:7400",
		"[::1]:7401":     "[::1]:7401",
		"":               "",
		"a:b:c":          "",
		"127.0.0.1:http": "",
		"127.0.0.1:-1":   "",
		"n1:65536":       "",
	} {
		got, err := withPort(in, 7400)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("withPort(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestLoopback_is_only_what_this_machine_reaches(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:7400": true, "127.8.9.10:1": true, "[::1]:7400": true, "localhost:7400": true,
		"0.0.0.0:7400": false, ":7400": false, "[::]:7400": false, "192.0.2.1:7400": false, "no.such.host.invalid:7400": false, "nonsense": false,
	} {
		if got := loopback(addr); got != want {
			t.Errorf("loopback(%q) = %v, want %v", addr, got, want)
		}
	}
}

func TestAdvertised_needs_a_host(t *testing.T) {
	everywhere := &net.TCPAddr{IP: net.IPv4zero, Port: 7400}
	here := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7401}
	if got, err := advertised("", everywhere, 7400); err == nil {
		t.Errorf("listening everywhere is advertised as %q", got)
	}
	if got, err := advertised("n1.internal", everywhere, 7400); err != nil || got != "n1.internal:7400" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := advertised("", here, 7400); err != nil || got != "127.0.0.1:7401" {
		t.Errorf("got %q, %v", got, err)
	}
}
