package main

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Ports used where an address names none.
const (
	defaultHTTPPort = 7400
	defaultPeerPort = 7500
)

// withPort completes an address that names no port.
func withPort(addr string, port int) (string, error) {
	if addr == "" {
		return "", fmt.Errorf("empty address")
	}
	host, given, err := net.SplitHostPort(addr)
	if err != nil {
		// Not host:port: a bare name, a bare IPv4 or IPv6 address.
		host = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
		if strings.Contains(host, ":") {
			if _, err := netip.ParseAddr(host); err != nil {
				return "", fmt.Errorf("address %q: %w", addr, err)
			}
		}
		return net.JoinHostPort(host, strconv.Itoa(port)), nil
	}
	if given == "" {
		given = strconv.Itoa(port)
	}
	if n, err := strconv.ParseUint(given, 10, 16); err != nil {
		return "", fmt.Errorf("address %q: port %q is not a number from 0 to 65535", addr, given)
	} else if n == 0 {
		given = "0"
	}
	return net.JoinHostPort(host, given), nil
}

// loopback reports whether only this machine can reach an address. A name counts
// only if all that it stands for does.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	ips, err := net.LookupIP(host)
	if err != nil || len(ips) == 0 {
		return false
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return false
		}
	}
	return true
}

// advertised is the address that others are told to dial: the one given, else
// the one listened on, if that names a host.
func advertised(given string, listening net.Addr, port int) (string, error) {
	if given != "" {
		return withPort(given, port)
	}
	addr, ok := listening.(*net.TCPAddr)
	if !ok || addr.IP.IsUnspecified() {
		return "", fmt.Errorf("listens on every interface (%s): say which address others should dial", listening)
	}
	return addr.String(), nil
}
