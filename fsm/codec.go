package fsm

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// The encoding is CBOR with integer keys, deterministic (RFC 8949 section
// 4.2.1): equal values give equal bytes. Decoding refuses duplicate keys, tags,
// indefinite lengths, and fields that this version does not know, so that a
// replica never applies half of what a newer one meant.
var (
	encMode = func() cbor.UserBufferEncMode {
		mode, err := cbor.CoreDetEncOptions().UserBufferEncMode()
		if err != nil {
			panic(err)
		}
		return mode
	}()
	decMode = newDecMode(cbor.ExtraDecErrorUnknownField)
	// versionMode reads just the version, of formats to come too.
	versionMode = newDecMode(cbor.ExtraDecErrorNone)
)

func newDecMode(extra cbor.ExtraDecErrorCond) cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   12,
		MaxArrayElements:  maxElements,
		MaxMapPairs:       64,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: extra,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}

// maxElements bounds the arrays of what is decoded.
const maxElements = 128 << 10

// entrySlack is room for what an entry holds besides its commands.
const entrySlack = 64 << 10

// EncodeProposal and DecodeProposal are the codec of log entries. Decode applies
// the replicas' own limits (version, size, depth, counts), so that the proposer
// refuses what a replica would have to stop at. What is wrong with a single
// command is left to Check, which refuses that command alone.
func EncodeProposal(p *Proposal) ([]byte, error) {
	data, err := encMode.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode log entry: %w", err)
	}
	return data, nil
}

// DecodeProposal is the inverse of EncodeProposal.
func DecodeProposal(data []byte) (*Proposal, error) { return decodeProposal(new(decoder), data) }

// decodeProposal is DecodeProposal for who decodes one after the other: it takes
// the decoder, and so all that it gave before.
func decodeProposal(d *decoder, data []byte) (*Proposal, error) {
	if len(data) > MaxCommandBytes+entrySlack {
		return nil, fmt.Errorf("decode log entry: %d bytes are too many", len(data))
	}
	p := new(Proposal)
	if d.reuse(data); !d.proposal(p) {
		*p = Proposal{}
		if err := decMode.Unmarshal(data, p); err != nil {
			return nil, fmt.Errorf("decode log entry: %w", err)
		}
	}
	if p.V < 1 || p.V > FormatVersion {
		return nil, fmt.Errorf("decode log entry: version %d is not known", p.V)
	}
	commands := 0
	for i := range p.Batches {
		commands += len(p.Batches[i].Commands)
		if no := p.Batches[i].malformed(); no != "" {
			return nil, fmt.Errorf("decode log entry: batch %d: %s", i, no)
		}
	}
	if commands > 1 && len(data) > MaxProposalBytes+entrySlack {
		return nil, fmt.Errorf("decode log entry: %d bytes are too many for %d commands", len(data), commands)
	}
	return p, nil
}

// EncodeBatch and DecodeBatch are the codec between nodes.
func EncodeBatch(b *Batch) ([]byte, error) {
	data, err := encMode.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	return data, nil
}

// DecodeBatch is the inverse of EncodeBatch. A batch goes into the log as a whole
// and is let go, so its parts are cut out of one copy of data.
func DecodeBatch(data []byte) (*Batch, error) {
	if len(data) > MaxCommandBytes+entrySlack {
		return nil, fmt.Errorf("decode batch: %d bytes are too many", len(data))
	}
	b := new(Batch)
	d := decoder{in: bytes.Clone(data), text: string(data)}
	if d.batch(b); !d.done() {
		*b = Batch{}
		if err := decMode.Unmarshal(data, b); err != nil {
			return nil, fmt.Errorf("decode batch: %w", err)
		}
	}
	if no := b.malformed(); no != "" {
		return nil, fmt.Errorf("decode batch: %s", no)
	}
	return b, nil
}

// malformed says what is wrong with a batch besides its commands.
func (b *Batch) malformed() string {
	switch {
	case b.Node == "" || len(b.Node) > MaxNameBytes:
		return "no node, or too long a name"
	case b.Incarnation == 0:
		return "no incarnation"
	case (b.Seq == 0) != (b.Register != nil):
		return "number 0 registers, and no other"
	case b.Seq == 0 && len(b.Commands) > 0:
		return "commands in a registration"
	}
	return ""
}
