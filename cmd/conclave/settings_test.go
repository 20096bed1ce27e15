package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// settle runs applySettings on a command with a few flags, below a root that has
// another command, and returns the flags' values.
func settle(t *testing.T, args ...string) (map[string]string, error) {
	t.Helper()
	values := map[string]string{}
	var settled error
	root := &cobra.Command{Use: "root", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().String("config", "", "")
	other := &cobra.Command{Use: "other", Run: func(*cobra.Command, []string) {}}
	other.Flags().String("elsewhere", "", "")
	cmd := &cobra.Command{Use: "cmd", Run: func(cmd *cobra.Command, _ []string) {
		if settled = applySettings(cmd); settled != nil {
			return
		}
		for _, name := range []string{"disk-limit", "count", "join"} {
			values[name] = cmd.Flags().Lookup(name).Value.String()
		}
	}}
	cmd.Flags().Duration("disk-limit", 10, "")
	cmd.Flags().Int("count", 1, "")
	cmd.Flags().StringSlice("join", nil, "")
	root.AddCommand(cmd, other)
	root.SetArgs(append([]string{"cmd"}, args...))
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	return values, settled
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conclave.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettings_command_line_before_environment_before_file(t *testing.T) {
	t.Setenv("CONCLAVE_CONFIG", configFile(t, "disk-limit: 3s\ncount: 3\njoin: [a:1, b:2]\nelsewhere: x\n"))
	t.Setenv("CONCLAVE_DISK_LIMIT", "2s")
	t.Setenv("CONCLAVE_COUNT", "2")
	got, err := settle(t, "--count", "1")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"count": "1", "disk-limit": "2s", "join": "[a:1,b:2]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSettings_refuses_what_it_does_not_know(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a misspelt name":    {"disk-limt: 3s", `no command has a flag "disk-limt"`},
		"a bad value":        {"disk-limit: soon", "disk-limit"},
		"a map":              {"count: {a: 1}", "want a value or a list"},
		"nothing":            {"count:", "want a value or a list"},
		"a file in a file":   {"config: other.yaml", `no command has a flag "config"`},
		"broken YAML":        {"count: [", "conclave.yaml"},
		"a name given twice": {"count: 1\ncount: 2", "conclave.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := settle(t, "--config", configFile(t, c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
			if got := exitCode(err); got != exitUsage {
				t.Errorf("exit code %d, want %d", got, exitUsage)
			}
		})
	}
	if _, err := settle(t, "--config", "/nowhere/at/all.yaml"); exitCode(err) != exitUsage {
		t.Errorf("a file that is not there: %v", err)
	}
}

// Every flag has an environment variable of its own: no two flags of one command
// may share one.
func TestSettings_variables_are_unique(t *testing.T) {
	root, _ := newRoot()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		seen := map[string]string{}
		for name := range flagNames(cmd) {
			if before, ok := seen[variable(name)]; ok {
				t.Errorf("%s: --%s and --%s are both %s", cmd.CommandPath(), before, name, variable(name))
			}
			seen[variable(name)] = name
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

func TestRun_mistakes_on_the_command_line_are_usage(t *testing.T) {
	for _, line := range []string{
		"nonsense", "put demo", "put demo k v --nonsense", "put demo k v", "put demo k 1 --if-absent --if-rev 3", "put demo k 1 --ttl soon",
		"get", "get a b c", "watch", "lock demo k", "lock demo k true", "lock demo -- true", "lock demo k -- /no/such/command",
		"cluster", "cluster nonsense", "cluster join n4", "cluster join n4 host:port", "serve", "serve --id n1", "serve --id n1 --data d --auth jwt",
		"serve --id n1 --data d --auth whatever", "serve --id n1 --data d --http 0.0.0.0", "serve --id n1 --data d --peer :7500",
		"serve --id n1 --data d --peer 192.0.2.1", "serve --id n1 --data d --timeout 0s", "serve --id n1 --data d --bootstrap-expect 3",
		"serve --id n1 --data d --log-level loud", "serve --id n1 --data d --http 127.0.0.1:99999", "dev --http-port 0", "dev 3", "version 1",
		"get a b --server ftp://x", "get a b --config /nowhere.yaml",
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(line), strings.NewReader(""), &stdout, &stderr)
		if code != exitUsage || !strings.HasPrefix(stderr.String(), "usage: ") || stdout.Len() > 0 {
			t.Errorf("conclave %s: exit code %d, stdout %q, stderr %q, want %d and an explanation on stderr",
				line, code, &stdout, &stderr, exitUsage)
		}
	}
}

// The examples under deploy set nothing that serve does not know.
func TestSettings_of_the_deployment_examples_exist(t *testing.T) {
	known := map[string]bool{}
	for name := range flagNames(newServe()) {
		known[variable(name)] = true
	}
	var files []string
	for _, pattern := range []string{"systemd/*", "docker/*"} {
		found, err := filepath.Glob(filepath.Join("../../deploy", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`CONCLAVE_[A-Z_]+`).FindAllString(string(text), -1) {
			if seen++; !known[name] {
				t.Errorf("%s sets %s, which is no flag of serve", file, name)
			}
		}
	}
	if seen < 20 {
		t.Errorf("found %d settings in %v: this test does not read them any more", seen, files)
	}
}
