package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"conclave/client/wire"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the files of testdata/script against one cluster of three
// processes. Each works in rooms of its own.
func TestScripts(t *testing.T) {
	c := startCluster(t, 3)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("CONCLAVE_SERVER", c.nodes[0].url())
			for i, n := range c.nodes {
				env.Setenv("SERVER"+strconv.Itoa(i+1), n.url())
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":         scriptCode,
			"rev":          scriptRev,
			"until-exists": scriptUntilExists,
			"until-ok":     scriptUntil(true),
			"until-fails":  scriptUntil(false),
		},
	})
}

// code N COMMAND...: the command exits with that very code.
func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// rev NAME ROOM KEY: sets a variable to the revision of a key.
func scriptRev(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: rev name room key")
	}
	ts.Check(ts.Exec("conclave", "get", args[1], args[2], "--json"))
	var e wire.Entry
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &e))
	ts.Setenv(args[0], strconv.FormatUint(e.Rev, 10))
}

// until-exists FILE: waits for a file.
func scriptUntilExists(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: until-exists file")
	}
	scriptWait(ts, func() bool { _, err := os.Stat(ts.MkAbs(args[0])); return err == nil })
}

// until-ok COMMAND... and until-fails COMMAND...: repeat a command until it does.
func scriptUntil(ok bool) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) == 0 {
			ts.Fatalf("usage: until-ok|until-fails command...")
		}
		scriptWait(ts, func() bool { return (ts.Exec(args[0], args[1:]...) == nil) == ok })
	}
}

func scriptWait(ts *testscript.TestScript, condition func() bool) {
	if !within(patience, condition) {
		ts.Fatalf("not within %v", patience)
	}
}
