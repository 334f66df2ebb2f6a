package keyex

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"errors"
	"fmt"
	"io"
)

// Group names a way to agree on DH_R.
type Group uint8

// The groups of docs/protocol/keyex.md.
const (
	GroupHybrid   Group = 1 // ML-KEM-768 and X25519, the default
	GroupX25519   Group = 2
	GroupMODP3072 Group = 3 // RFC 3526, group 15
	GroupMODP2048 Group = 4 // RFC 3526, group 14
)

// String returns the name of the group.
func (g Group) String() string {
	switch g {
	case GroupHybrid:
		return "x25519-mlkem768"
	case GroupX25519:
		return "x25519"
	case GroupMODP3072:
		return "modp3072"
	case GroupMODP2048:
		return "modp2048"
	}
	return fmt.Sprintf("group %d", uint8(g))
}

var errShare = errors.New("keyex: unusable key share")

// agreement is one group. Secrets are plain bytes, so that their owner can
// wipe them; a share has the right length when it is handed in.
type agreement interface {
	// lengths of DH_A and DH_B.
	lengths() (a, b int)
	// offer returns a fresh secret and DH_A.
	offer(rand io.Reader) (secret, shareA []byte)
	// answer returns DH_B and DH_R.
	answer(rand io.Reader, shareA []byte) (shareB, dhR []byte, err error)
	// finish returns DH_R to who made the offer.
	finish(secret, shareB []byte) (dhR []byte, err error)
}

// agreements returns every group; the two MODP moduli are set up once.
func agreements() map[Group]agreement {
	return map[Group]agreement{
		GroupHybrid: hybrid{encapsulate: func(ek *mlkem.EncapsulationKey768) (ss, ct []byte, err error) {
			ss, ct = ek.Encapsulate()
			return ss, ct, nil
		}},
		GroupX25519:   x25519{},
		GroupMODP3072: modp3072(),
		GroupMODP2048: modp2048(),
	}
}

const x25519Size = 32

type x25519 struct{}

func (x25519) lengths() (a, b int) { return x25519Size, x25519Size }

func (x25519) offer(rand io.Reader) (secret, shareA []byte) {
	secret = random(rand, x25519Size)
	return secret, x25519Key(secret).PublicKey().Bytes()
}

func (g x25519) answer(rand io.Reader, shareA []byte) (shareB, dhR []byte, err error) {
	secret, shareB := g.offer(rand)
	defer clear(secret)
	dhR, err = g.finish(secret, shareA)
	return shareB, dhR, err
}

// finish refuses an all-zero result (RFC 7748, Section 6.1), which crypto/ecdh
// checks.
func (x25519) finish(secret, shareB []byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(shareB)
	if err != nil {
		return nil, errShare
	}
	dhR, err := x25519Key(secret).ECDH(pub)
	if err != nil {
		return nil, errShare
	}
	return dhR, nil
}

func x25519Key(secret []byte) *ecdh.PrivateKey {
	k, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	return k
}

// hybrid is DH_A = ek ‖ X25519, DH_B = ct ‖ X25519, DH_R = both secrets in that
// order. Its secret is the seed of FIPS 203 (64 bytes), then the scalar.
type hybrid struct {
	encapsulate func(*mlkem.EncapsulationKey768) (ss, ct []byte, err error) // replaced for fixed vectors only
}

func (hybrid) lengths() (a, b int) {
	return mlkem.EncapsulationKeySize768 + x25519Size, mlkem.CiphertextSize768 + x25519Size
}

func (hybrid) offer(rand io.Reader) (secret, shareA []byte) {
	secret = random(rand, mlkem.SeedSize+x25519Size)
	ek := mlkemKey(secret[:mlkem.SeedSize]).EncapsulationKey().Bytes()
	return secret, append(ek, x25519Key(secret[mlkem.SeedSize:]).PublicKey().Bytes()...)
}

// answer checks ek as FIPS 203, Section 7.2 demands: NewEncapsulationKey768
// refuses coefficients that are not reduced.
func (g hybrid) answer(rand io.Reader, shareA []byte) (shareB, dhR []byte, err error) {
	ek, err := mlkem.NewEncapsulationKey768(shareA[:mlkem.EncapsulationKeySize768])
	if err != nil {
		return nil, nil, errShare
	}
	pubB, dh, err := x25519{}.answer(rand, shareA[mlkem.EncapsulationKeySize768:])
	if err != nil {
		return nil, nil, err
	}
	ss, ct, err := g.encapsulate(ek)
	if err != nil {
		return nil, nil, errShare
	}
	return append(ct, pubB...), joinSecrets(ss, dh), nil
}

func (hybrid) finish(secret, shareB []byte) ([]byte, error) {
	ss, err := mlkemKey(secret[:mlkem.SeedSize]).Decapsulate(shareB[:mlkem.CiphertextSize768])
	if err != nil {
		return nil, errShare
	}
	dh, err := x25519{}.finish(secret[mlkem.SeedSize:], shareB[mlkem.CiphertextSize768:])
	if err != nil {
		clear(ss)
		return nil, err
	}
	return joinSecrets(ss, dh), nil
}

func mlkemKey(seed []byte) *mlkem.DecapsulationKey768 {
	k, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	return k
}

// joinSecrets returns a ‖ b and wipes both.
func joinSecrets(a, b []byte) []byte {
	out := append(append(make([]byte, 0, len(a)+len(b)), a...), b...)
	clear(a)
	clear(b)
	return out
}

// random reads n bytes. A random source that fails leaves nothing safe to do.
func random(r io.Reader, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		panic("keyex: internal error: random source: " + err.Error())
	}
	return b
}
