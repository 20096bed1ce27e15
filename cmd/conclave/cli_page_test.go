package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestRoot_every_command_and_flag_is_in_the_page: docs/cli.md has a section whose
// heading names the command, and in it each flag, and no flag that there is not.
func TestRoot_every_command_and_flag_is_in_the_page(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	intro, rest, _ := strings.Cut(string(text), "\n## ")
	sections := strings.Split(rest, "\n## ")
	mentioned := regexp.MustCompile("--([a-z][a-z-]*)")
	root, _ := newRoot()
	known := flagNames(root)
	for _, m := range mentioned.FindAllStringSubmatch(string(text), -1) {
		if known[m[1]] == nil && m[1] != "help" {
			t.Errorf("docs/cli.md speaks of --%s, which no command has", m[1])
		}
	}

	commands := 0
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		subs := cmd.Commands()
		for _, sub := range subs {
			visit(sub)
		}
		if len(subs) > 0 || cmd == root {
			return
		}
		commands++
		name := strings.TrimPrefix(cmd.CommandPath(), "conclave ")
		section := ""
		for _, s := range sections {
			if heading, _, _ := strings.Cut(s, "\n"); strings.Contains(heading, "`"+name+"`") {
				section = s
			}
		}
		if section == "" {
			t.Errorf("docs/cli.md has no section for %s", name)
			return
		}
		shown := func(f *pflag.Flag) {
			if !regexp.MustCompile("--" + f.Name + `\b[^-]`).MatchString(section + intro) {
				t.Errorf("docs/cli.md does not have --%s of %s", f.Name, name)
			}
		}
		cmd.LocalFlags().VisitAll(shown)
		cmd.InheritedFlags().VisitAll(shown)
	}
	visit(root)
	if commands < 15 {
		t.Errorf("found %d commands: this test does not read them any more", commands)
	}
}
