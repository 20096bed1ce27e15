package lock

// Owner is who holds or wants a lock: a peer of the session (a socket's owner),
// or, over HTTP, a token's subject together with an owner name. The two never
// compare equal, whatever the names are. The zero Owner is nobody.
type Owner struct {
	Peer    string `cbor:"1,keyasint,omitempty"` // set for peers only
	Subject string `cbor:"2,keyasint,omitempty"` // with Name: a caller without a socket
	Name    string `cbor:"3,keyasint,omitempty"`
}

// String is the owner as the wire shows it.
func (o Owner) String() string {
	if o.Peer != "" {
		return o.Peer
	}
	return o.Name
}
