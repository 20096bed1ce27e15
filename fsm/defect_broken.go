//go:build broken

package fsm

// See defect.go.
var unfenced, untermed, forgetful, eventless, torn, undying bool

// Break switches a defect on, until mend is called. No state may be in use meanwhile.
func Break(defect string) (mend func()) {
	at := map[string]*bool{
		"unfenced": &unfenced, "untermed": &untermed, "forgetful": &forgetful,
		"eventless": &eventless, "torn": &torn, "undying": &undying,
	}[defect]
	*at = true
	return func() { *at = false }
}
