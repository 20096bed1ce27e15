//go:build broken

package cluster

// See defect.go.
var unconfirmed, stubborn, grudging, hasty bool

// Break switches a defect on, until mend is called. No node may be open meanwhile.
func Break(defect string) (mend func()) {
	at := map[string]*bool{"unconfirmed": &unconfirmed, "stubborn": &stubborn, "grudging": &grudging, "hasty": &hasty}[defect]
	*at = true
	return func() { *at = false }
}
