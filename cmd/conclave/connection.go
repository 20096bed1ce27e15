package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"conclave/client"

	"github.com/spf13/cobra"
)

// connection are the flags of every command that speaks to a server, and how
// such a command prints.
type connection struct {
	servers  []string
	token    string
	patience time.Duration
	asJSON   bool
}

// flags adds the flags of a connection to a command (and those below it).
func (c *connection) flags(cmd *cobra.Command) {
	// Persistent, so that `cluster` gives them to all of its commands at once.
	f := cmd.PersistentFlags()
	f.StringSliceVar(&c.servers, "server", []string{"http://127.0.0.1:7400"}, "`URLs` of nodes; the next is asked when one does not answer")
	f.StringVar(&c.token, "token", "", "bearer `token`")
	f.DurationVar(&c.patience, "patience", 15*time.Second, "how long to go on trying while no server can serve the request; 0: one attempt")
	f.BoolVar(&c.asJSON, "json", false, "print the API's JSON, errors too")
	for _, name := range []string{"server", "token"} { // not file names, as a shell would think
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions); err != nil {
			panic(err) // registered twice
		}
	}
}

// config is the SDK's, with the servers as the user wrote them.
func (c *connection) config() client.Config {
	cfg := client.Config{Agent: "conclave-cli/" + version}
	for _, server := range c.servers {
		if !strings.Contains(server, "://") {
			// A bare address: give it the port that serve uses.
			if addr, err := withPort(server, defaultHTTPPort); err == nil {
				server = "http://" + addr
			}
		}
		cfg.Servers = append(cfg.Servers, server)
	}
	if c.token != "" {
		cfg.Token = client.StaticToken(c.token)
	}
	return cfg
}

// open makes the client. It contacts nobody: what is wrong here is the command line.
func (c *connection) open() (*client.HTTP, error) {
	patience := c.patience
	if patience <= 0 {
		patience = -1 // the SDK's word for one attempt
	}
	h, err := client.NewHTTP(client.HTTPConfig{Config: c.config(), Patience: patience})
	if err != nil {
		return nil, &usageError{err}
	}
	return h, nil
}

// print writes an answer: as JSON, or as people prints it.
func (c *connection) print(w io.Writer, answer any, people func(w io.Writer)) error {
	if c.asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false) // values keep their bytes
		return enc.Encode(answer)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	people(table)
	return table.Flush()
}

// row writes one line of an aligned table.
func row(w io.Writer, cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			io.WriteString(w, "\t")
		}
		fmt.Fprint(w, cell)
	}
	io.WriteString(w, "\n")
}
