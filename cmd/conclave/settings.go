package main

import (
	"fmt"
	"maps"
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
			if err := setFlag(cmd, f, value); err != nil {
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
	if err := setFlag(cmd, f, value); err != nil {
		return usagef("%s: %w", variable(flag), err)
	}
	return nil
}

// setFlag sets a flag. cobra's errors repeat the value, which of a map in a file
// would bury what is wrong with it.
func setFlag(cmd *cobra.Command, f *pflag.Flag, value string) error {
	if f.Value.Type() != yamlType {
		return cmd.Flags().Set(f.Name, value)
	}
	err := f.Value.Set(value)
	f.Changed = err == nil
	return err
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
		f := known[name]
		if f == nil || name == "config" {
			return nil, usagef("%s: no command has a flag %q", path, name)
		}
		if values[name], err = flagValue(f, member); err != nil {
			return nil, usagef("%s: %s: %w", path, name, err)
		}
	}
	return values, nil
}

// flagValue is a YAML value as it would stand on the command line.
func flagValue(f *pflag.Flag, member any) (string, error) {
	if f.Value.Type() == yamlType {
		text, err := yaml.Marshal(member)
		return string(text), err
	}
	switch member := member.(type) {
	case []any:
		items := make([]string, len(member))
		for i, item := range member {
			var err error
			if items[i], err = flagValue(f, item); err != nil {
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
func flagNames(cmd *cobra.Command) map[string]*pflag.Flag {
	names := map[string]*pflag.Flag{}
	add := func(f *pflag.Flag) { names[f.Name] = f }
	cmd.PersistentFlags().VisitAll(add)
	cmd.Flags().VisitAll(add)
	for _, sub := range cmd.Commands() {
		maps.Copy(names, flagNames(sub))
	}
	return names
}
