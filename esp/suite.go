package esp

import (
	"errors"
	"fmt"
)

// Suite is a pair of algorithms, by its number on the wire. A suite fixes key
// lengths, IV, alignment and ICV, so nothing but this byte is negotiated.
type Suite uint8

// Suites. Numbers are never reused.
const (
	AES128CBCSHA256  Suite = 1 // AES-128-CBC (RFC 3602) + HMAC-SHA2-256-128 (RFC 4868), the default
	AES256CBCSHA512  Suite = 2 // AES-256-CBC (RFC 3602) + HMAC-SHA2-512-256 (RFC 4868)
	AES128GCM        Suite = 3 // AES-128-GCM-16 (RFC 4106)
	AES256GCM        Suite = 4 // AES-256-GCM-16 (RFC 4106)
	ChaCha20Poly1305 Suite = 5 // ChaCha20-Poly1305 (RFC 7634)

	// DefaultSuite is the paper's choice of algorithms.
	DefaultSuite = AES128CBCSHA256

	numSuites = 6
)

// ErrSuite is returned for a suite this package does not know.
var ErrSuite = errors.New("esp: unknown suite")

// KeySizes is what a suite takes from the key schedule, in bytes. A zero means
// that the suite has no such key.
type KeySizes struct {
	Enc  int // encryption key
	Int  int // integrity key; 0 for AEADs
	IV   int // key that makes CBC's IVs; 0 for AEADs
	Salt int // constant half of an AEAD's nonce; 0 for CBC
}

// spec is all there is to know about a suite.
type spec struct {
	name  string
	keys  KeySizes
	iv    int // explicit IV on the wire
	icv   int
	align int // the ciphertext is a multiple of this
	build func(k *Keys, esn bool) (transform, error)
}

var specs = [numSuites]spec{
	AES128CBCSHA256: {
		name: "aes128cbc-sha256", keys: KeySizes{Enc: 16, Int: 32, IV: 16},
		iv: cbcBlock, icv: sha256ICV, align: cbcBlock, build: newCBCSHA256,
	},
	AES256CBCSHA512: {
		name: "aes256cbc-sha512", keys: KeySizes{Enc: 32, Int: 64, IV: 16},
		iv: cbcBlock, icv: sha512ICV, align: cbcBlock, build: newCBCSHA512,
	},
	AES128GCM: {
		name: "aes128gcm", keys: KeySizes{Enc: 16, Salt: aeadSalt},
		iv: aeadIV, icv: aeadTag, align: aeadAlign, build: newGCM,
	},
	AES256GCM: {
		name: "aes256gcm", keys: KeySizes{Enc: 32, Salt: aeadSalt},
		iv: aeadIV, icv: aeadTag, align: aeadAlign, build: newGCM,
	},
	ChaCha20Poly1305: {
		name: "chacha20poly1305", keys: KeySizes{Enc: 32, Salt: aeadSalt},
		iv: aeadIV, icv: aeadTag, align: aeadAlign, build: newChaCha,
	},
}

// Suites returns all suites by number.
func Suites() []Suite {
	return []Suite{AES128CBCSHA256, AES256CBCSHA512, AES128GCM, AES256GCM, ChaCha20Poly1305}
}

// ParseSuite returns the suite of the name that String gives.
func ParseSuite(name string) (Suite, error) {
	for _, s := range Suites() {
		if specs[s].name == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%w %q", ErrSuite, name)
}

// Valid says whether the package implements s.
func (s Suite) Valid() bool { return s > 0 && s < numSuites }

// String returns the suite's name in policies and logs.
func (s Suite) String() string {
	if !s.Valid() {
		return "unknown"
	}
	return specs[s].name
}

// AEAD says whether the suite's nonce must never repeat under a key. Such a
// suite may be keyed by hand only if the keys are declared fresh: after a
// restart the counter would start again (RFC 8221, Section 4).
func (s Suite) AEAD() bool { return s.Valid() && specs[s].keys.Salt > 0 }

// KeySizes returns the lengths of the suite's keys, zeros for an unknown suite.
func (s Suite) KeySizes() KeySizes {
	if !s.Valid() {
		return KeySizes{}
	}
	return specs[s].keys
}

// SealedLen returns the length of the ESP datagram that carries inner bytes of
// packet and TFC padding, 0 for an unknown suite.
func (s Suite) SealedLen(inner int) int {
	if !s.Valid() {
		return 0
	}
	sp := &specs[s]
	return sp.headLen() + sp.cipherLen(inner) + sp.icv
}

// Overhead returns what the tunnel adds to an inner packet of that length: outer
// IP and UDP header, ESP, IV, padding, ICV.
func (s Suite) Overhead(inner int, ipv6Outer bool) int {
	if !s.Valid() {
		return 0
	}
	return OuterLen(ipv6Outer) + s.SealedLen(inner) - inner
}

// MaxInner returns the largest inner packet whose datagram fits a path of that
// MTU, and 0 if none does. Whatever else goes before the ESP header, such as a
// relay's, the caller takes off pathMTU.
func (s Suite) MaxInner(pathMTU int, ipv6Outer bool) int {
	if !s.Valid() {
		return 0
	}
	sp := &specs[s]
	room := pathMTU - OuterLen(ipv6Outer) - sp.headLen() - sp.icv
	return max(0, room-room%sp.align-trailerLen)
}

// OuterLen returns what goes before an ESP datagram: IP header without options and
// UDP header.
func OuterLen(ipv6Outer bool) int {
	if ipv6Outer {
		return ipv6Header + udpHeader
	}
	return ipv4Header + udpHeader
}

// cipherLen returns the length of the ciphertext of n bytes: with pad length and
// next header, rounded up. align is a power of two: a division would cost as much
// as the rest of framing.
func (sp *spec) cipherLen(n int) int {
	return (n + trailerLen + sp.align - 1) &^ (sp.align - 1)
}

// headLen is what goes before the ciphertext.
func (sp *spec) headLen() int { return headerLen + sp.iv }

// minLen is the length of the shortest datagram that can be authentic.
func (sp *spec) minLen() int { return sp.headLen() + sp.align + sp.icv }
