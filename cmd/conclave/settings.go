package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// applySettings sets the flags that the command line left alone: from the
// environment, else from the config file. Afterwards a flag counts as changed
// wherever it came from, so that commands look at flags only.
func applySettings(cmd *cobra.Command) error {
	if err := fromEnvironment(cmd, "config"); err != nil {
		return err
	}
	path, _ := cmd.Flags().GetString("config")
	file, err := readConfig(path, cmd.Root())
	if err != nil {
		return err
	}
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if failed != nil || f.Changed || f.Name == "help" {
			return
		}
		if failed = fromEnvironment(cmd, f.Name); failed != nil || f.Changed {
			return
		}
		if value, ok := file[f.Name]; ok {
			if err := cmd.Flags().Set(f.Name, value); err != nil {
				failed = usagef("%s: %s: %w", path, f.Name, err)
			}
		}
	})
	return failed
}

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "CONCLAVE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets a flag from its variable, unless the command line did. An
// empty variable counts as given: it may mean to overrule the file.
func fromEnvironment(cmd *cobra.Command, flag string) error {
	f := cmd.Flags().Lookup(flag)
	value, ok := os.LookupEnv(variable(flag))
	if f == nil || f.Changed || !ok {
		return nil
	}
	if err := cmd.Flags().Set(flag, value); err != nil {
		return usagef("%s: %w", variable(flag), err)
	}
	return nil
}

// readConfig reads a config file into flag values. A name that no command knows
// is refused, so that a misspelt setting is not silently without effect; one file
// may serve several commands.
func readConfig(path string, root *cobra.Command) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &usageError{err}
	}
	var members map[string]any
	if err := yaml.Unmarshal(text, &members); err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	known := flagNames(root)
	values := make(map[string]string, len(members))
	for name, member := range members {
		if !known[name] || name == "config" {
			return nil, usagef("%s: no command has a flag %q", path, name)
		}
		if values[name], err = flagValue(member); err != nil {
			return nil, usagef("%s: %s: %w", path, name, err)
		}
	}
	return values, nil
}

// flagValue is a YAML value as it would stand on the command line.
func flagValue(member any) (string, error) {
	switch member := member.(type) {
	case []any:
		items := make([]string, len(member))
		for i, item := range member {
			var err error
			if items[i], err = flagValue(item); err != nil {
				return "", err
			}
		}
		return strings.Join(items, ","), nil
	case map[string]any, nil:
		return "", fmt.Errorf("want a value or a list of values")
	}
	return fmt.Sprint(member), nil
}

// flagNames collects the flags of a command and all below it.
func flagNames(cmd *cobra.Command) map[string]bool {
	names := map[string]bool{}
	add := func(f *pflag.Flag) { names[f.Name] = true }
	cmd.PersistentFlags().VisitAll(add)
	cmd.Flags().VisitAll(add)
	for _, sub := range cmd.Commands() {
		for name := range flagNames(sub) {
			names[name] = true
		}
	}
	return names
}
