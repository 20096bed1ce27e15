package api

import (
	"slices"

	"conclave/client/wire"
	"conclave/fsm"
)

// A feature is an optional part of the protocol, beyond version 1. Old and new
// programs meet in a rolling upgrade: a replica that cannot read an entry stops, so
// nothing new may be written before every voter has registered that it understands
// it. What is of version 1 is no feature, and refused by name where it is still to
// come.
type feature struct {
	name string
	// used is the verb or the member of a command that needs the feature, "" when
	// nothing of it does.
	used func(*fsm.Command) string
}

// features are those that this program understands: none yet.
var features []feature

// Features are the names of what this program understands, for its node to register
// (cluster.Config.Features).
func Features() []string { return names(features) }

func names(features []feature) (names []string) {
	for _, f := range features {
		names = append(names, f.name)
	}
	return names
}

// common are the features that clients may use, as hello and GET /v1 show them.
func (s *Server) common() []string {
	common := []string{} // not nil: JSON says [] of none
	known := names(s.cfg.features)
	for _, name := range s.node.Features() {
		if slices.Contains(known, name) {
			common = append(common, name)
		}
	}
	return common
}

// gate refuses a command that some voter would not understand. It looks at the
// command rather than at the request, so that no way to the log goes around it.
func (s *Server) gate(c *fsm.Command) *wire.Error {
	for _, f := range s.cfg.features {
		if field := f.used(c); field != "" && !slices.Contains(s.node.Features(), f.name) {
			return wire.Errorf(wire.BadRequest, "%s: needs the feature %q, which not all voters of the cluster have", field, f.name).
				With("field", field).With("feature", f.name)
		}
	}
	return nil
}

// admit is what every command must pass before it is handed to the log.
func (s *Server) admit(c *fsm.Command) *wire.Error {
	if bad := s.gate(c); bad != nil {
		return bad
	}
	return checkSize(c)
}
