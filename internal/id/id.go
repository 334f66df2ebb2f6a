// Package id is the node identifier of both overlays: 160 bits, compared by
// XOR distance.
//
// A PID names a machine, a ServiceID a service. Both are truncated,
// domain-separated SHA-256 hashes (docs/protocol/identifiers.md), so neither
// can be chosen: whoever shows the pre-image owns the name.
package id

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
)

// Size is the length of an ID in bytes, Kademlia's 160 bits.
const Size = 20

// ID is a PID or a ServiceID. The zero value names nobody.
type ID [Size]byte

// ErrSyntax is returned by Parse and FromBytes for text or bytes that are not
// an ID.
var ErrSyntax = errors.New("id: want 40 hexadecimal digits")

// FromKey returns the PID of an Ed25519 identity key:
// SHA-256("icvpn/1 pid" ‖ 00 ‖ key)[:20].
func FromKey(key ed25519.PublicKey) ID {
	return Hash("icvpn/1 pid", key)
}

// Hash returns SHA-256(domain ‖ 00 ‖ parts...)[:20]. The caller keeps parts
// unambiguous: fixed lengths, or a length before each.
func Hash(domain string, parts ...[]byte) ID {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write([]byte{0})
	for _, p := range parts {
		h.Write(p)
	}
	return ID(h.Sum(nil)[:Size])
}

// FromBytes returns the ID in b, which must be exactly Size bytes.
func FromBytes(b []byte) (ID, error) {
	if len(b) != Size {
		return ID{}, ErrSyntax
	}
	return ID(b), nil
}

// Parse reads the 40 hexadecimal digits that String writes.
func Parse(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return ID{}, ErrSyntax
	}
	return FromBytes(b)
}

// String returns 40 hexadecimal digits.
func (a ID) String() string { return hex.EncodeToString(a[:]) }

// Short returns the first 8 digits, for people; it does not identify.
func (a ID) Short() string { return a.String()[:8] }

// IsZero says whether a names nobody.
func (a ID) IsZero() bool { return a == ID{} }

// Compare orders IDs bytewise: the tie-break of simultaneous key exchanges.
func (a ID) Compare(b ID) int { return bytes.Compare(a[:], b[:]) }

// Distance returns a XOR b, Kademlia's metric.
func (a ID) Distance(b ID) (d ID) {
	for i := range a {
		d[i] = a[i] ^ b[i]
	}
	return d
}

// LeadingZeros returns the number of leading zero bits, 0 to 160: applied to a
// distance it is the index of the k-bucket.
func (a ID) LeadingZeros() int {
	for i, b := range a {
		if b != 0 {
			return 8*i + bits.LeadingZeros8(b)
		}
	}
	return 8 * Size
}

// MarshalText writes what String returns.
func (a ID) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what Parse reads.
func (a *ID) UnmarshalText(text []byte) error {
	v, err := Parse(string(text))
	if err != nil {
		return fmt.Errorf("%w, not %q", err, text)
	}
	*a = v
	return nil
}
