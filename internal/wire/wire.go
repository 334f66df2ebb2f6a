// Package wire holds what every wire format shares: one strict deterministic
// CBOR profile, domain-separated hashes and signatures, and the lp() notation
// of docs/protocol.
//
// Reading is strict on purpose: an unknown field, an indefinite length, a
// duplicate key, a tag, a float, trailing bytes or an encoding that is not the
// shortest makes the whole message invalid, so that equal meaning has equal
// bytes and hashes can cover bytes as sent.
package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits of the CBOR profile. They bound what a decoder allocates before the
// sender is known; each message's own byte limit is checked first.
const (
	maxNesting  = 8
	maxElements = 4096
)

// ErrNotCanonical is returned for well-formed CBOR that is not in the one
// allowed form.
var ErrNotCanonical = errors.New("wire: encoding is not deterministic CBOR")

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   maxNesting,
		MaxArrayElements:  maxElements,
		MaxMapPairs:       maxElements,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("wire: internal error: " + err.Error())
	}
	return v
}

// Marshal returns v in deterministic CBOR (RFC 8949, Section 4.2.1). Wire
// structs use `cbor:",toarray"`. It panics on a type that cannot be encoded,
// which is a bug of ours and never depends on peer bytes.
func Marshal(v any) []byte {
	return must(encMode.Marshal(v))
}

// Unmarshal reads exactly one value of at most limit bytes into v and refuses
// every encoding that Marshal would not have written.
func Unmarshal(b []byte, v any, limit int) error {
	if len(b) > limit {
		return fmt.Errorf("wire: %d bytes, the limit is %d", len(b), limit)
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	again, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	if !bytes.Equal(again, b) {
		return ErrNotCanonical
	}
	return nil
}

// Label returns the bytes of a quoted string in docs/protocol: its ASCII
// characters and one zero byte.
func Label(s string) []byte { return append([]byte(s), 0) }

// AppendLP appends lp(x): a big-endian u16 length, then x. It panics when x is
// longer than 65535 bytes; callers bound x before.
func AppendLP(dst, x []byte) []byte {
	if len(x) > 0xffff {
		panic("wire: internal error: lp of more than 65535 bytes")
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(x)))
	return append(dst, x...)
}

// Sign signs Label(domain) ‖ parts with Ed25519.
func Sign(key ed25519.PrivateKey, domain string, parts ...[]byte) []byte {
	return ed25519.Sign(key, signed(domain, parts))
}

// Verify checks a signature made by Sign. It is false, not a panic, for a key
// or signature of wrong length.
func Verify(key ed25519.PublicKey, sig []byte, domain string, parts ...[]byte) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	return ed25519.Verify(key, signed(domain, parts), sig)
}

func signed(domain string, parts [][]byte) []byte {
	m := Label(domain)
	for _, p := range parts {
		m = append(m, p...)
	}
	return m
}
