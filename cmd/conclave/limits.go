package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"conclave/api"
)

// limitOptions are the flags of serve, and of dev, that say what sessions may hold
// and how fast callers may write.
type limitOptions struct {
	profile              string
	profiles             profileSet
	tokenPerS, tokenMost int
}

func (o *limitOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.profile, "profile", "standard", "limits of sessions whose opener names none: the `name` of a profile")
	f.Var(&o.profiles, "profiles", "profiles of your own, as `YAML`: {name: {base: standard, peers: 500, grace: 30s}}; better in the --config file")
	f.IntVar(&o.tokenPerS, "token-writes-per-s", 1_000, "writes a second of callers with one token, in a room and through this node")
	f.IntVar(&o.tokenMost, "token-writes-burst", 2_000, "how many of them at once")
}

// into fills in what the server is configured with. Its own check has the ranges.
func (o *limitOptions) into(cfg *api.Config) {
	cfg.Profile, cfg.Profiles = o.profile, o.profiles
	cfg.TokenWritesPerS, cfg.TokenWritesBurst = o.tokenPerS, o.tokenMost
}

func (o *limitOptions) check() error {
	switch {
	case o.tokenPerS < 1:
		return usagef("--token-writes-per-s: want 1 or more, got %d", o.tokenPerS)
	case o.tokenMost < 1:
		return usagef("--token-writes-burst: want 1 or more, got %d", o.tokenMost)
	}
	var cfg api.Config
	o.into(&cfg)
	if err := cfg.Check(); err != nil {
		return &usageError{err}
	}
	return nil
}

// args hands the flags on to another process.
func (o *limitOptions) args() []string {
	args := []string{
		"--profile", o.profile,
		"--token-writes-per-s", fmt.Sprint(o.tokenPerS), "--token-writes-burst", fmt.Sprint(o.tokenMost),
	}
	if len(o.profiles) > 0 {
		args = append(args, "--profiles", o.profiles.String())
	}
	return args
}

// profileSet is the flag with the operator's profiles. In the config file it is a
// map; on the command line and in the environment, the same as text.
type profileSet map[string]api.Profile

// yamlType marks a flag whose value may be a map.
const yamlType = "YAML"

// Type implements pflag.Value.
func (*profileSet) Type() string { return yamlType }

// String implements pflag.Value: what Set takes.
func (s *profileSet) String() string {
	if len(*s) == 0 {
		return ""
	}
	all := map[string]map[string]any{}
	for name, p := range *s {
		all[name] = map[string]any{"grace": p.Grace.String(), "linger": p.Linger.String()}
		for limit, n := range p.All() {
			all[name][limit] = n
		}
	}
	text, err := yaml.MarshalWithOptions(all, yaml.Flow(true))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Set implements pflag.Value. What is wrong is told with the names of the profile
// and of its member.
func (s *profileSet) Set(text string) error {
	var all map[string]map[string]any
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		return fmt.Errorf("want {name: {limit: number}}: %w", err)
	}
	set := profileSet{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p, err := newProfile(name, all[name])
		if err != nil {
			return fmt.Errorf("profile %q: %w", name, err)
		}
		set[name] = p
	}
	if err := (api.Config{Profiles: set}).Check(); err != nil {
		return err
	}
	*s = set
	return nil
}

// newProfile makes a profile of what the operator says of it, and of a built-in one
// for all else: base, or the one that has its name, or standard.
func newProfile(name string, members map[string]any) (api.Profile, error) {
	p, ok := api.BuiltinProfile(name)
	if !ok {
		p, _ = api.BuiltinProfile("standard")
	}
	if base, given := members["base"]; given {
		if p, ok = api.BuiltinProfile(fmt.Sprint(base)); !ok {
			return p, fmt.Errorf("base: no built-in profile is called %v", base)
		}
	}
	for _, member := range slices.Sorted(maps.Keys(members)) {
		var err error
		switch value := members[member]; member {
		case "base":
		case "grace":
			p.Grace, err = duration(value)
		case "linger":
			p.Linger, err = duration(value)
		default:
			err = setLimit(&p, member, value)
		}
		if err != nil {
			return p, fmt.Errorf("%s: %w", member, err)
		}
	}
	return p, nil
}

func duration(value any) (time.Duration, error) {
	text, ok := value.(string)
	if !ok {
		return 0, fmt.Errorf("want a duration like 15s, got %v", value)
	}
	return time.ParseDuration(text)
}

// setLimit wants an integer: limits are exact.
func setLimit(p *api.Profile, name string, value any) error {
	const most = 1 << 40 // the range is Check's to tell; this one fits an int
	var n int
	switch value := value.(type) {
	case uint64:
		n = int(min(value, most))
	case int64:
		n = int(max(value, -most))
	default:
		return fmt.Errorf("want an integer, got %v", value)
	}
	if !p.Set(name, n) {
		return errors.New("no limit is called so")
	}
	return nil
}
