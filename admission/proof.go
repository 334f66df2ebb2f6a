package admission

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// This file is PROTOCOL's section on SRP proofs: H is SHA-256, a label is its
// ASCII bytes and one zero byte, lp(x) is a u16 length and x.

// Binding ties proofs to one TLS session. BindClient and BindServer make it.
type Binding struct {
	ServerKey ed25519.PublicKey // of the TLS certificate
	Exporter  [32]byte          // tls-exporter, RFC 9266: public
	Ratchet   Key               // key material for the next session key
	// Hybrid says that ML-KEM took part in the key exchange.
	Hybrid bool
}

func (b *Binding) wipe() { b.Ratchet.Wipe() }

// transcript is all that M1 covers besides the key.
type transcript struct {
	binding  *Binding
	group    *srp
	secretID string
	salt     []byte
	a, b     []byte // PAD(A), PAD(B)
	service  id.ID
	pid      id.ID
}

// macKey returns kM = HKDF(K, "icvpn/1 srp mac") with K = H(PAD(S)).
func macKey(s []byte) Key {
	k := sha256.Sum256(s)
	defer clear(k[:])
	prk, err := hkdf.Extract(sha256.New, k[:], nil) // nil is 32 zeros, RFC 5869, Section 2.2
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	defer clear(prk)
	return Key(expand(prk, labelSRP, hashSize))
}

// clientProof returns M1 = HMAC(kM, "c" ‖ exporter ‖ H(N, g) ‖ lp(I) ‖ lp(s) ‖
// PAD(A) ‖ PAD(B) ‖ ServiceID ‖ PID ‖ server key). H(N, g) = H(N ‖ PAD(g)),
// which is k of RFC 5054.
func (t *transcript) clientProof(kM *Key) []byte {
	return mac(kM, labelClient, t.binding.Exporter[:], t.group.kBytes,
		wire.AppendLP(nil, []byte(t.secretID)), wire.AppendLP(nil, t.salt), t.a, t.b,
		t.service[:], t.pid[:], t.binding.ServerKey)
}

// serverProof returns M2 = HMAC(kM, "s" ‖ exporter ‖ PAD(A) ‖ M1).
func (t *transcript) serverProof(kM *Key, m1 []byte) []byte {
	return mac(kM, labelServer, t.binding.Exporter[:], t.a, m1)
}

// sessionKey returns K_c = HKDF-Expand(kM, "icvpn/1 continuity" ‖ ServiceID ‖
// PID ‖ exporter, 32).
func (t *transcript) sessionKey(kM *Key) Key {
	return Key(expand(kM[:], labelContinuity, hashSize, t.service[:], t.pid[:], t.binding.Exporter[:]))
}

// enrolSignature signs "icvpn/1 enrol" ‖ exporter ‖ H(request).
func enrolSignature(key ed25519.PrivateKey, b *Binding, request []byte) []byte {
	h := sha256.Sum256(request)
	return wire.Sign(key, labelEnrol, b.Exporter[:], h[:])
}

func verifyEnrol(key ed25519.PublicKey, sig []byte, b *Binding, request []byte) bool {
	h := sha256.Sum256(request)
	return wire.Verify(key, sig, labelEnrol, b.Exporter[:], h[:])
}

// continueMAC returns HMAC(K_c, "icvpn/1 continue" ‖ exporter ‖ H(ticket) ‖
// H(request) ‖ more).
//
// Deviation: PROTOCOL's proofs do not cover a request, which has a frame and a
// signature of its own there. Covered here, it saves both.
func continueMAC(kC *Key, b *Binding, m *resume) []byte {
	t, r, more := m.covered()
	return mac(kC, labelContinue, b.Exporter[:], t[:], r[:], more)
}

// continueSignature signs "icvpn/1 continue" ‖ exporter ‖ H(ticket) ‖
// H(request) ‖ more ‖ ServiceID ‖ PID.
func continueSignature(key ed25519.PrivateKey, b *Binding, m *resume, service, pid id.ID) []byte {
	t, r, more := m.covered()
	return wire.Sign(key, labelContinue, b.Exporter[:], t[:], r[:], more, service[:], pid[:])
}

func verifyContinue(b *Binding, m *resume, service, pid id.ID) bool {
	t, r, more := m.covered()
	return wire.Verify(m.IDKey, m.Sig, labelContinue, b.Exporter[:], t[:], r[:], more, service[:], pid[:])
}

// nextSessionKey is the ratchet: K_c' = HKDF-Expand(HKDF-Extract(salt = K_c,
// IKM = exported "EXPORTER-icvpn-continuity"), "icvpn/1 continuity" ‖
// ServiceID ‖ PID, 32). A stolen K_c opens no later session that its thief did
// not take part in.
func nextSessionKey(kC *Key, b *Binding, service, pid id.ID) Key {
	prk, err := hkdf.Extract(sha256.New, b.Ratchet[:], kC[:])
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	defer clear(prk)
	return Key(expand(prk, labelContinuity, hashSize, service[:], pid[:]))
}

// continuedProof is the server's answer to Continue, in the place of M2:
// HMAC(K_c', "icvpn/1 continued" ‖ exporter ‖ mac).
//
// Deviation: PROTOCOL has no server proof here. With it both sides know that
// they hold the same K_c' before either replaces K_c.
func continuedProof(next *Key, b *Binding, clientMAC []byte) []byte {
	return mac(next, labelContinued, b.Exporter[:], clientMAC)
}

// grantCipher seals the grant of a continued session under HKDF-Expand(K_c',
// "icvpn/1 continued grant", 32). That TLS session has no ML-KEM in it, which
// would cost a third of a renewal; K_c' is as safe from a quantum computer as
// the session key that the first admission agreed, and now so is the grant.
// The key is fresh and seals one message, so its nonce is zero.
func grantCipher(next *Key) cipher.AEAD {
	key := expand(next[:], labelGrant, chacha20poly1305.KeySize)
	defer clear(key)
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return aead
}

func sealGrant(next *Key, grant []byte) []byte {
	return grantCipher(next).Seal(nil, make([]byte, chacha20poly1305.NonceSize), grant, nil)
}

func openGrant(next *Key, sealed []byte) ([]byte, error) {
	return grantCipher(next).Open(nil, make([]byte, chacha20poly1305.NonceSize), sealed, nil)
}

func mac(key *Key, label string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(wire.Label(label))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
