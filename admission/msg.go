package admission

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// ErrMalformed is wrapped by every error about bytes that a correct peer would
// not have sent. The machine that returns it has failed for good.
var ErrMalformed = errors.New("admission: malformed message")

// ErrOrder is wrapped when a frame comes in the wrong state.
var ErrOrder = errors.New("admission: message out of order")

// body is what all message bodies can do: say whether their fields have the
// lengths the page states. CBOR's shape is checked by wire.Unmarshal.
type body interface{ valid() bool }

type descriptorRequest struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Service []byte // 20
}

func (m *descriptorRequest) valid() bool { return m.Version == version && len(m.Service) == id.Size }

type descriptor struct {
	_          struct{} `cbor:",toarray"`
	Root       []byte
	Descriptor []byte
	Clock      uint64 // Unix ms of the super peer
}

func (m *descriptor) valid() bool {
	return len(m.Root) <= maxRoot && len(m.Descriptor) <= maxDescriptor && m.Clock <= maxUnixMs
}

type start struct {
	_        struct{} `cbor:",toarray"`
	SecretID string   // 1..64
}

func (m *start) valid() bool { return checkSecretID(m.SecretID) == nil }

type challenge struct {
	_    struct{} `cbor:",toarray"`
	Salt []byte   // 16
	B    []byte   // length of N, checked against the group
}

func (m *challenge) valid() bool { return len(m.Salt) == SaltSize }

type proof struct {
	_   struct{} `cbor:",toarray"`
	A   []byte   // length of N, checked against the group
	PID []byte   // 20
	M1  []byte   // 32
}

func (m *proof) valid() bool { return len(m.PID) == id.Size && len(m.M1) == hashSize }

type accept struct {
	_    struct{} `cbor:",toarray"`
	M2   []byte   // 32
	Info []byte
}

func (m *accept) valid() bool { return len(m.M2) == hashSize }

type provision struct {
	_       struct{} `cbor:",toarray"`
	Request []byte
	IDKey   []byte // 32
	Sig     []byte // 64
}

func (m *provision) valid() bool {
	return len(m.IDKey) == ed25519.PublicKeySize && len(m.Sig) == ed25519.SignatureSize
}

type grant struct {
	_       struct{} `cbor:",toarray"`
	Grant   []byte
	Ticket  []byte
	Expires uint64 // Unix ms
}

func (m *grant) valid() bool {
	return len(m.Ticket) > 0 && len(m.Ticket) <= limitTicket && m.Expires <= maxUnixMs
}

// opaque is the body of List and of ListReply.
type opaque struct {
	_     struct{} `cbor:",toarray"`
	Bytes []byte
}

func (m *opaque) valid() bool { return true }

type resume struct {
	_      struct{} `cbor:",toarray"`
	Ticket []byte
	IDKey  []byte // 32
	MAC    []byte // 32
	Sig    []byte // 64
	// Request is what Provision would carry; More says that a List follows.
	Request []byte
	More    bool
}

func (m *resume) valid() bool {
	return len(m.Ticket) <= limitTicket && len(m.IDKey) == ed25519.PublicKeySize &&
		len(m.MAC) == hashSize && len(m.Sig) == ed25519.SignatureSize
}

// what of m the proofs cover besides the session: all but the proofs themselves
// and the key, which gives the PID.
func (m *resume) covered() (ticket, request [hashSize]byte, more []byte) {
	more = []byte{0}
	if m.More {
		more[0] = 1
	}
	return sha256.Sum256(m.Ticket), sha256.Sum256(m.Request), more
}

type refused struct {
	_      struct{} `cbor:",toarray"`
	Code   uint8
	Detail string
	Other  string
}

func (m *refused) valid() bool {
	return m.Code != 0 && len(m.Detail) <= maxDetail && len(m.Other) <= maxOther &&
		printable(m.Detail) && printable(m.Other)
}

// encode returns the frame of m. A body over its limit is a bug of ours or of
// the caller's hooks; WriteFrame refuses it.
func encode(t Type, m body) Frame { return Frame{Type: t, Body: wire.Marshal(m)} }

// decode reads f into m.
func decode(f Frame, m body) error {
	if err := wire.Unmarshal(f.Body, m, f.Type.limit()); err != nil {
		return fmt.Errorf("%w: %v: %w", ErrMalformed, f.Type, err)
	}
	if !m.valid() {
		return fmt.Errorf("%w: %v: field of wrong length or value", ErrMalformed, f.Type)
	}
	return nil
}

func unixMs(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

func fromUnixMs(ms uint64) time.Time { return time.UnixMilli(int64(ms)) }
