package provision

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// Parts are what of a grant may stay as it is when a machine comes back with a
// ticket. What goes out with every grant is none of them: the credential, where
// to enter the overlay, the observed address.
type Parts uint8

// The parts. Each bit is wire format.
const (
	PartKey     Parts = 1 << iota // AttributeKey and SlotCiphertext
	PartPolicy                    // Policy
	PartEpoch                     // EpochKey, Epochs and Keys
	PartSealing                   // Publish, PublishNext and Envelopes

	AllParts = PartKey | PartPolicy | PartEpoch | PartSealing
)

// Renewal is the request of a machine with a ticket. It is not sealed to a
// policy: the ticket's proofs cover it, and it tells nothing new.
type Renewal struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Request []byte // Request.Encode
	Holds   Parts  // what the machine still has from before, and can still use
}

// Brief is the request of a machine that renews by datagram: it holds all parts,
// and knows these documents of the owners.
type Brief struct {
	_                struct{} `cbor:",toarray"`
	Version          uint8
	Request          []byte // Request.Encode
	Root, Descriptor uint64 // sequence numbers
}

// Renewed is the answer: a grant in which the parts in Kept are empty, because
// they are those of the grant before.
type Renewed struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Kept    Parts
	Grant   Grant
}

// Encode returns the bytes to send.
func (r Renewal) Encode() []byte { r.Version = version; return wire.Marshal(r) }

// Encode returns the bytes to send.
func (b Brief) Encode() []byte { b.Version = version; return wire.Marshal(b) }

// Encode returns the bytes to send.
func (r Renewed) Encode() []byte {
	r.Version, r.Grant.Version = version, version
	return wire.Marshal(r)
}

// ParseRenewal reads a Renewal and the Request in it.
func ParseRenewal(b []byte) (r Renewal, q Request, err error) {
	err = parse("renewal", b, &r, MaxRequest, func() error {
		if r.Holds&^AllParts != 0 {
			return fmt.Errorf("unknown parts %#x", uint8(r.Holds&^AllParts))
		}
		return checkVersion(r.Version)
	})
	if err != nil {
		return r, q, err
	}
	q, err = ParseRequest(r.Request)
	return r, q, err
}

// ParseBrief reads a Brief and the Request in it.
func ParseBrief(b []byte) (r Brief, q Request, err error) {
	if err = parse("renewal", b, &r, MaxRequest, func() error { return checkVersion(r.Version) }); err != nil {
		return r, q, err
	}
	q, err = ParseRequest(r.Request)
	return r, q, err
}

// ParseRenewed reads a Renewed.
func ParseRenewed(b []byte) (r Renewed, err error) {
	err = parse("renewed grant", b, &r, MaxGrant, func() error {
		g := r.Grant
		switch {
		case r.Kept&^AllParts != 0:
			return fmt.Errorf("unknown parts %#x", uint8(r.Kept&^AllParts))
		case !g.goodKeys(), len(g.Entries) > maxEntries || len(g.Envelopes) > maxEnvelopes:
			return errors.New("field of wrong length")
		case r.Kept&PartEpoch == 0 && len(g.EpochKey) != 32, r.Kept&PartKey == 0 && len(g.AttributeKey) == 0:
			return errors.New("a part is neither there nor kept")
		case r.Kept&PartEpoch != 0 && len(g.EpochKey)+len(g.Keys)+len(g.Epochs.Body) != 0, r.Kept&PartKey != 0 && len(g.AttributeKey)+len(g.SlotCiphertext) != 0,
			r.Kept&PartPolicy != 0 && len(g.Policy.Body) != 0, r.Kept&PartSealing != 0 && len(g.Publish)+len(g.PublishNext)+len(g.Envelopes) != 0:
			return errors.New("a part is there and kept")
		case g.Version != version:
			return checkVersion(g.Version)
		}
		return checkVersion(r.Version)
	})
	return r, err
}

// Without returns g without the parts that the machine has.
func (g Grant) Without(kept Parts) Grant {
	if kept&PartKey != 0 {
		g.AttributeKey, g.SlotCiphertext = nil, nil
	}
	if kept&PartPolicy != 0 {
		g.Policy = service.Signed{}
	}
	if kept&PartEpoch != 0 {
		g.EpochKey, g.Epochs, g.Keys = nil, service.Signed{}, nil
	}
	if kept&PartSealing != 0 {
		g.Publish, g.PublishNext, g.Envelopes = nil, nil, nil
	}
	return g
}

// Over returns the grant that r makes of the one before.
func (r Renewed) Over(old Grant) (Grant, error) {
	g := r.Grant
	if r.Kept&PartKey != 0 {
		g.AttributeKey, g.SlotCiphertext = old.AttributeKey, old.SlotCiphertext
	}
	if r.Kept&PartPolicy != 0 {
		g.Policy = old.Policy
	}
	if r.Kept&PartEpoch != 0 {
		if old.Epoch != g.Epoch {
			return g, fmt.Errorf("provision: the grant is of epoch %d, and its key is to be that of epoch %d", g.Epoch, old.Epoch)
		}
		g.EpochKey, g.Epochs, g.Keys = old.EpochKey, old.Epochs, old.Keys
	}
	if r.Kept&PartSealing != 0 {
		g.Publish, g.PublishNext, g.Envelopes = old.Publish, old.PublishNext, old.Envelopes
	}
	return g, nil
}

// Turn returns g when epoch current is in force and those before oldest are over,
// and whether that changes it. What it has no key of, it cannot turn to.
func (g Grant) Turn(current, oldest uint32) (Grant, bool) {
	keys := g.Keys
	turned := current > g.Epoch && g.Key(current) != nil
	if turned {
		keys = append([]EpochKey{{Number: g.Epoch, Key: g.EpochKey}}, keys...)
		publish := g.PublishNext
		if current != g.Epoch+1 {
			publish = nil // the super peer gives another
		}
		g.EpochKey, g.Publish, g.PublishNext, g.Epoch = g.Key(current), publish, nil, current
	}
	kept := make([]EpochKey, 0, len(keys))
	for _, k := range keys {
		if k.Number != g.Epoch && k.Number >= oldest {
			kept = append(kept, k)
		}
	}
	slices.SortFunc(kept, func(a, b EpochKey) int { return cmp.Compare(a.Number, b.Number) })
	if !turned && len(kept) == len(g.Keys) {
		return g, false
	}
	g.Keys = kept
	return g, true
}
