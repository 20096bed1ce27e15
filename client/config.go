package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// TokenSource gives the token to present. It is called for every connection and
// every HTTP request, so it should cache; an expired token is asked for again.
type TokenSource func(ctx context.Context) (string, error)

// StaticToken is a TokenSource that always gives the same token.
func StaticToken(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// Config says where the servers are and how to reach them.
type Config struct {
	// Servers are the nodes' HTTP addresses: "http://10.0.0.1:7400", "https://…",
	// or "10.0.0.1:7400". Every node serves every client, so one is enough and
	// several survive the loss of one. A path is kept, for proxies.
	Servers []string
	// Token gives the token; nil presents none.
	Token TokenSource
	// TLS configures https servers; nil means the defaults.
	TLS *tls.Config
	// DialContext makes network connections; nil means a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Agent names the program in the servers' logs; "" means "conclave-go".
	Agent string
	// Logger is told of lost and regained connections; nil discards.
	Logger *slog.Logger
}

// servers parses Config.Servers into base URLs without a trailing slash.
func (c *Config) servers() ([]string, error) {
	if len(c.Servers) == 0 {
		return nil, fmt.Errorf("client: no servers given")
	}
	bases := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		if !strings.Contains(s, "://") {
			s = "http://" + s
		}
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("client: server %q: %w", c.Servers[i], err)
		}
		switch u.Scheme {
		case "http", "https":
		case "ws", "wss":
			u.Scheme = "http" + strings.TrimPrefix(u.Scheme, "ws")
		default:
			return nil, fmt.Errorf("client: server %q: scheme %q is not http or https", c.Servers[i], u.Scheme)
		}
		if u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("client: server %q is not the URL of a server", c.Servers[i])
		}
		bases[i] = strings.TrimSuffix(u.String(), "/")
	}
	return bases, nil
}

func (c *Config) agent() string {
	if c.Agent == "" {
		return "conclave-go"
	}
	return c.Agent
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// authorize presents the token, if there is one.
func (c *Config) authorize(ctx context.Context, h http.Header) error {
	token, err := c.token(ctx)
	if err != nil || token == "" {
		return err
	}
	h.Set("Authorization", "Bearer "+token)
	return nil
}

func (c *Config) token(ctx context.Context) (string, error) {
	if c.Token == nil {
		return "", nil
	}
	token, err := c.Token(ctx)
	if err != nil {
		return "", &TokenError{err}
	}
	return token, nil
}

// roomPath is the path of a room's resources; each element is escaped, so that a
// slash in a key stays part of the key.
func roomPath(room string, elements ...string) string {
	var b strings.Builder
	b.WriteString("/v1/rooms/")
	b.WriteString(url.PathEscape(room))
	for _, e := range elements {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(e))
	}
	return b.String()
}
