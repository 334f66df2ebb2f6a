package service

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const (
	maxHandOver     = 1 << 20
	handOverVersion = 3
)

// handOverMagic starts a sealed hand-over file and is its associated data.
var handOverMagic = []byte("icvpn hand-over 1\n")

// HandOver is what the owner gives to one super peer, sealed under a key that
// travels another way.
type HandOver struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Seed      []byte // Ed25519 seed of the super peer's identity and TLS key
	Service   Membership
	Universe  Membership // the universal overlay
	Policy    Signed
	ABESeed   []byte // 32 bytes, the ABE master key; empty for a super peer that is no authority
	FakeKey   []byte // 32 bytes, shared: answers to unknown enrolment secrets
	TicketKey []byte // 32 bytes, shared: continuity tickets
	Secrets   []EnrolmentSecret
	// Join is a token for a universal overlay of several operators; empty for none.
	Join []byte
	// Epochs is the newest document on group keys; empty until there is one.
	Epochs Signed
}

// HandOver2 is HandOver of version 2, which knew of one epoch only.
type HandOver2 struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Seed      []byte
	Service   Membership
	Universe  Membership
	Policy    Signed
	ABESeed   []byte
	FakeKey   []byte
	TicketKey []byte
	Secrets   []EnrolmentSecret
	Join      []byte
}

// Current returns f as a HandOver of today.
func (f HandOver2) Current() HandOver {
	return HandOver{
		Version: handOverVersion, Seed: f.Seed, Service: f.Service, Universe: f.Universe, Policy: f.Policy,
		ABESeed: f.ABESeed, FakeKey: f.FakeKey, TicketKey: f.TicketKey, Secrets: f.Secrets, Join: f.Join,
	}
}

// FormerHandOver is HandOver of version 1, which could join no overlay.
type FormerHandOver struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Seed      []byte
	Service   Membership
	Universe  Membership
	Policy    Signed
	ABESeed   []byte
	FakeKey   []byte
	TicketKey []byte
	Secrets   []EnrolmentSecret
}

// Current returns f as a HandOver of today.
func (f FormerHandOver) Current() HandOver {
	return HandOver{
		Version: handOverVersion, Seed: f.Seed, Service: f.Service, Universe: f.Universe, Policy: f.Policy,
		ABESeed: f.ABESeed, FakeKey: f.FakeKey, TicketKey: f.TicketKey, Secrets: f.Secrets,
	}
}

// Membership is what admits a super peer to one overlay.
type Membership struct {
	_         struct{} `cbor:",toarray"`
	ID        id.ID
	Documents Documents
	Epoch     uint32
	Master    []byte // M_e, 32 bytes (PROTOCOL.md 2)
}

// EnrolmentSecret is what a super peer knows of a token's secret: enough to
// check a proof, not to make one.
type EnrolmentSecret struct {
	_        struct{} `cbor:",toarray"`
	ID       string
	Verifier []byte              // admission.Verifier
	Grant    map[string]string   // labels every machine with this secret gets
	Scope    map[string][]string // labels it may ask for
	Expires  int64               // Unix seconds, 0 = never
	Quota    uint32              // admissions, 0 = no limit
}

// LogValue keeps every secret out of logs.
func (h HandOver) LogValue() slog.Value { return slog.StringValue(h.String()) }

// String keeps every secret out of formatted text.
func (h HandOver) String() string { return "hand-over of service " + h.Service.ID.Short() }

// GoString keeps every secret out of %#v.
func (h HandOver) GoString() string { return h.String() }

// Grants returns the labels for a request: the secret's own, and those asked
// for within its scope. The error names the first label outside it.
func (s EnrolmentSecret) Grants(asked map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(s.Grant)+len(asked))
	for k, v := range s.Grant {
		out[k] = v
	}
	for k, v := range asked {
		if own, ok := s.Grant[k]; ok && own == v {
			continue
		}
		if _, fixed := s.Grant[k]; fixed || !allows(s.Scope, k, v) {
			return nil, &ScopeError{Label: k + "=" + v, SecretID: s.ID}
		}
		out[k] = v
	}
	if len(out) > maxLabels {
		return nil, fmt.Errorf("service: %d labels asked for, at most %d are allowed", len(out), maxLabels)
	}
	return out, nil
}

// ScopeError says that a label is outside an enrolment secret's scope.
type ScopeError struct{ Label, SecretID string }

func (e *ScopeError) Error() string {
	return fmt.Sprintf("label %s is outside the scope of enrolment secret %s", e.Label, e.SecretID)
}

// Seal returns h under key (32 bytes): magic ‖ nonce 24 ‖ XChaCha20-Poly1305.
func (h HandOver) Seal(key []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	h.Version = handOverVersion
	out := append([]byte(nil), handOverMagic...)
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	out = append(out, nonce...)
	plain := wire.Marshal(h)
	defer clear(plain)
	return aead.Seal(out, nonce, plain, handOverMagic), nil
}

// OpenHandOver opens what Seal returned.
func OpenHandOver(b, key []byte) (h HandOver, err error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return h, fmt.Errorf("the hand-over key has %d bytes, want %d; is this the right key file?", len(key), chacha20poly1305.KeySize)
	}
	if len(b) < len(handOverMagic) || string(b[:len(handOverMagic)]) != string(handOverMagic) {
		return h, errors.New("this is not an icvpn hand-over file of version 1")
	}
	plain, err := open(aead, b[len(handOverMagic):])
	if err != nil {
		return h, errors.New("the hand-over file does not open with this key: it was altered, or the key belongs to another super peer")
	}
	defer clear(plain)
	if err := wire.Unmarshal(plain, &h, maxHandOver); err != nil {
		if h, err = openFormer(plain, err); err != nil {
			return h, err
		}
	}
	return h, h.Validate()
}

// openFormer reads a hand-over of an earlier version; err is why it is none of
// today's.
func openFormer(plain []byte, err error) (HandOver, error) {
	var second HandOver2
	if wire.Unmarshal(plain, &second, maxHandOver) == nil && second.Version == 2 {
		return second.Current(), nil
	}
	var first FormerHandOver
	if wire.Unmarshal(plain, &first, maxHandOver) == nil && first.Version == 1 {
		return first.Current(), nil
	}
	return HandOver{}, fmt.Errorf("the hand-over file cannot be read: %w", err)
}

// Validate checks the lengths of keys, so that nobody converts a short one.
func (h HandOver) Validate() error {
	if h.Version != handOverVersion {
		return fmt.Errorf("the hand-over has version %d, this binary knows %d", h.Version, handOverVersion)
	}
	if len(h.Join) > maxToken {
		return errors.New("the hand-over has a token that is too long; create it again")
	}
	keys := [][]byte{h.Seed, h.Service.Master, h.Universe.Master, h.FakeKey, h.TicketKey}
	if len(h.ABESeed) > 0 {
		keys = append(keys, h.ABESeed)
	}
	for _, key := range keys {
		if len(key) != 32 {
			return errors.New("the hand-over has a key of wrong length; create it again")
		}
	}
	return nil
}

func open(aead cipher.AEAD, b []byte) ([]byte, error) {
	n := aead.NonceSize()
	if len(b) < n {
		return nil, errors.New("short")
	}
	return aead.Open(nil, b[:n], b[n:], handOverMagic)
}
