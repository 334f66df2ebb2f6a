// Package provision holds what enrolment carries once a machine has proved its
// secret: the paper's steps iii to vii as messages.
//
//	super peer                                            peer
//	   │ Info: ABE parameters, provisioning key     [iii]  │
//	   │ ────────────────────────────────────────────────> │
//	   │      Request, sealed to the provisioning key [iv] │
//	   │ <──────────────────────────────────────────────── │
//	   │ Grant: credential, attribute key, epoch key [v]   │
//	   │ ────────────────────────────────────────────────> │
//	   │ publishes the member in the directory       [vi]  │
//	   │ List, sealed to the peer's slot             [vii] │
//	   │ ────────────────────────────────────────────────> │
//
// Admission carries them as opaque bytes inside TLS and SRP; this package only
// reads and writes them, strictly and within limits. Formats:
// docs/protocol/provisioning.md.
package provision

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// Limits in bytes and counts, checked before anything is believed.
const (
	MaxInfo      = 16 << 10
	MaxRequest   = 4 << 10
	MaxGrant     = 60 << 10
	MaxList      = 60 << 10
	maxEndpoints = 8
	maxEntries   = 64
	maxEnvelopes = 64
	maxKeys      = 3
)

const version = 1

// Info is what the peer needs to make its request.
type Info struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	ABEParams []byte // their SHA-256 stands in the descriptor
	Statement []byte // abe.PublicStatement of the policy "this service and this super peer"
}

// Request asks for membership.
type Request struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	PID       id.ID
	Name      string
	VM        string
	Labels    map[string]string // asked for beyond the secret's own
	Endpoints []netip.AddrPort
	Binary    string // version of the binary, for the operator's eyes
	Instance  service.Instance
	Claim     service.Claim // that this process asked this super peer now
}

// Grant makes the peer a member.
type Grant struct {
	_              struct{} `cbor:",toarray"`
	Version        uint8
	Credential     []byte
	AttributeKey   []byte // abe key for {service, slot, labels, generation}
	SlotCiphertext []byte // ABE ciphertext of the slot's secret
	Policy         service.Signed
	Epoch          uint32
	EpochKey       []byte   // K_e, 32 bytes
	Publish        []byte   // abe.PublicStatement: what to seal the own contact to
	Envelopes      [][]byte // abe.Envelope of each policy that the peer's labels satisfy
	Ticket         []byte   // continuity ticket, opaque to the peer
	SessionExpires int64    // Unix seconds
	Entries        []Entry  // where to enter the overlay
	Observed       netip.Addr
	Epochs         service.Signed // what the owners say of epochs; empty until they do
	Keys           []EpochKey     // of other epochs that are good: announced, or in their grace
	PublishNext    []byte         // Publish for the epoch after Epoch, if it is announced
}

// EpochKey is K of one epoch.
type EpochKey struct {
	_      struct{} `cbor:",toarray"`
	Number uint32
	Key    []byte // 32 bytes
}

// LogValue keeps the key out of logs.
func (k EpochKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// String keeps the key out of formatted text.
func (k EpochKey) String() string { return fmt.Sprintf("key of epoch %d", k.Number) }

// GoString keeps the key out of %#v.
func (k EpochKey) GoString() string { return k.String() }

// Key returns K of an epoch, nil if the grant does not have it.
func (g Grant) Key(epoch uint32) []byte {
	if epoch == g.Epoch {
		return g.EpochKey
	}
	for _, k := range g.Keys {
		if k.Number == epoch {
			return k.Key
		}
	}
	return nil
}

// goodKeys says whether the keys of other epochs are well formed.
func (g Grant) goodKeys() bool {
	if len(g.Keys) > maxKeys {
		return false
	}
	for i, k := range g.Keys {
		if len(k.Key) != 32 || k.Number == 0 || k.Number == g.Epoch || i > 0 && k.Number <= g.Keys[i-1].Number {
			return false
		}
	}
	return true
}

// Entry is a node of the VPN overlay.
type Entry struct {
	_         struct{} `cbor:",toarray"`
	PID       id.ID
	Endpoints []netip.AddrPort
}

// LogValue keeps keys out of logs.
func (g Grant) LogValue() slog.Value { return slog.StringValue(g.String()) }

// String keeps keys out of formatted text.
func (g Grant) String() string { return fmt.Sprintf("grant of epoch %d", g.Epoch) }

// GoString keeps keys out of %#v.
func (g Grant) GoString() string { return g.String() }

// List is the answer to a peer-list request.
type List struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Members []service.Member
}

// ParseInfo reads an Info.
func ParseInfo(b []byte) (i Info, err error) {
	err = parse("info", b, &i, MaxInfo, func() error { return checkVersion(i.Version) })
	return i, err
}

// ParseRequest reads a Request.
func ParseRequest(b []byte) (r Request, err error) {
	err = parse("request", b, &r, MaxRequest, func() error {
		switch {
		case !service.ValidName(r.Name):
			return fmt.Errorf("name %.80q is not a DNS label", r.Name)
		case len(r.VM) > 64:
			return errors.New("VM identifier is longer than 64 bytes")
		case len(r.Labels) > 16 || len(r.Endpoints) > maxEndpoints || len(r.Binary) > 64:
			return errors.New("more labels, endpoints or version text than allowed")
		case r.Instance.IsZero():
			return errors.New("it names no instance")
		case len(r.Claim) != service.ClaimSize:
			return errors.New("it has no claim")
		}
		for k, v := range r.Labels {
			if !service.ValidLabel(k) || !service.ValidLabel(v) {
				return fmt.Errorf("label %.40q=%.40q is not made of a-z, 0-9, '.', '_' and '-'", k, v)
			}
		}
		return checkVersion(r.Version)
	})
	return r, err
}

// ParseGrant reads a Grant.
func ParseGrant(b []byte) (g Grant, err error) {
	err = parse("grant", b, &g, MaxGrant, func() error {
		if len(g.EpochKey) != 32 || !g.goodKeys() || len(g.Entries) > maxEntries || len(g.Envelopes) > maxEnvelopes {
			return errors.New("field of wrong length")
		}
		return checkVersion(g.Version)
	})
	return g, err
}

// ParseList reads a List.
func ParseList(b []byte) (l List, err error) {
	err = parse("peer list", b, &l, MaxList, func() error { return checkVersion(l.Version) })
	return l, err
}

func parse(what string, b []byte, v any, limit int, check func() error) error {
	if err := wire.Unmarshal(b, v, limit); err != nil {
		return fmt.Errorf("provision: %s: %w", what, err)
	}
	if err := check(); err != nil {
		return fmt.Errorf("provision: %s: %w", what, err)
	}
	return nil
}

func checkVersion(v uint8) error {
	if v != version {
		return fmt.Errorf("version %d, this binary knows %d", v, version)
	}
	return nil
}

// Encode returns the bytes to send.
func (i Info) Encode() []byte { i.Version = version; return wire.Marshal(i) }

// Encode returns the bytes to seal.
func (r Request) Encode() []byte { r.Version = version; return wire.Marshal(r) }

// Encode returns the bytes to send.
func (g Grant) Encode() []byte { g.Version = version; return wire.Marshal(g) }

// Encode returns the bytes to seal.
func (l List) Encode() []byte { l.Version = version; return wire.Marshal(l) }
