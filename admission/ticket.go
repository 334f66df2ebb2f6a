package admission

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// TicketID makes a ticket single-use: 16 random bytes.
type TicketID [16]byte

// Ticket is what the service remembers of a peer, kept by the peer itself,
// signed by the super peer that issued it and sealed under a key that all super
// peers of the service share. Who has that key alone, from a stolen disk or as a
// super peer of former days, can read tickets but makes none.
//
//	 0         1          5          29                    n-16        n
//	+---------+----------+----------+---------------------+-----------+
//	| 03      | kid 4    | nonce 24 | CBOR, encrypted     | tag 16    |
//	+---------+----------+----------+---------------------+-----------+
//
// XChaCha20-Poly1305; associated data "icvpn/1 ticket" ‖ 00 ‖ ServiceID ‖ the
// first five bytes. Random 24-byte nonces need no state and no coordination
// between super peers.
type Ticket struct {
	ID       TicketID
	PID      id.ID
	SecretID string
	Admitted time.Time // by SRP; kept over renewals, since revocation counts from it
	Memo     []byte    // what the granting Backend wants to know again, at most 256 B
	Expires  time.Time
	Key      Key   // K_c
	Issuer   id.ID // the super peer that signed it

	sig []byte
	own []byte // the issuer's mark for itself
}

// errTicket says only that: a peer never learns which check failed.
var errTicket = errors.New("admission: ticket cannot be opened or used")

type ticketWire struct {
	_        struct{} `cbor:",toarray"`
	ID       []byte
	PID      []byte
	SecretID string
	Admitted uint64
	Memo     []byte
	Expires  uint64
	Key      []byte
	Issuer   []byte
	Sig      []byte // none in what is signed ...
	Own      []byte // ... or marked
}

const (
	ticketVersion = 3
	kidSize       = 4
	ticketPrefix  = 1 + kidSize
	ticketHeader  = ticketPrefix + chacha20poly1305.NonceSizeX
)

// fields are all of t, the signature excepted.
func (t *Ticket) fields() ticketWire {
	return ticketWire{
		ID: t.ID[:], PID: t.PID[:], SecretID: t.SecretID, Admitted: unixMs(t.Admitted),
		Memo: t.Memo, Expires: unixMs(t.Expires), Key: t.Key[:], Issuer: t.Issuer[:], Sig: []byte{}, Own: []byte{},
	}
}

// issuedBy says whether t was issued for service by the super peer with this key,
// which is self's or another's. A ticket of its own a super peer knows by a mark
// that nobody else can make or check, for a hundredth of what the signature costs.
func (t *Ticket) issuedBy(key ed25519.PublicKey, self ed25519.PrivateKey, service id.ID) bool {
	if id.FromKey(key) != t.Issuer {
		return false
	}
	if t.isOwn(self, service) {
		return true
	}
	w := t.fields()
	body := wire.Marshal(&w)
	defer clear(body)
	return wire.Verify(key, t.sig, labelTicketSignature, service[:], body)
}

// isOwn says whether t bears self's mark.
func (t *Ticket) isOwn(self ed25519.PrivateKey, service id.ID) bool {
	if t.Issuer != id.FromKey(self.Public().(ed25519.PublicKey)) {
		return false
	}
	w := t.fields()
	body := wire.Marshal(&w)
	defer clear(body)
	return equal(t.own, ownTicket(self, service, body, t.sig))
}

// ownTicket returns HMAC(HKDF-Expand(issuer's seed, "icvpn/1 own ticket" ‖
// ServiceID, 32), "icvpn/1 own ticket" ‖ body ‖ sig).
func ownTicket(issuer ed25519.PrivateKey, service id.ID, body, sig []byte) []byte {
	seed := issuer.Seed()
	key := Key(expand(seed, labelTicketOwn, hashSize, service[:]))
	defer clear(seed)
	defer key.Wipe()
	return mac(&key, labelTicketOwn, body, sig)
}

// sealTicket signs t as issuer and seals it under key, both for service.
func sealTicket(key *Key, service id.ID, issuer ed25519.PrivateKey, t *Ticket) []byte {
	signed := *t
	defer signed.Key.Wipe()
	signed.Issuer = id.FromKey(issuer.Public().(ed25519.PublicKey))
	w := signed.fields()
	body := wire.Marshal(&w)
	defer clear(body)
	w.Sig = wire.Sign(issuer, labelTicketSignature, service[:], body)
	w.Own = ownTicket(issuer, service, body, w.Sig)
	plain := wire.Marshal(&w)
	defer clear(plain)
	out := make([]byte, ticketHeader, ticketHeader+len(plain)+chacha20poly1305.Overhead)
	out[0] = ticketVersion
	copy(out[1:], ticketKid(key, service))
	rand.Read(out[ticketPrefix:])
	aead, wipe := ticketAEAD(key, service)
	defer wipe()
	return aead.seal(out, plain, ticketAD(service, out))
}

// openTicket opens b under whichever of keys fits. Signature, expiry and use are
// the caller's to check.
func openTicket(keys []Key, service id.ID, b []byte) (*Ticket, error) {
	if len(b) < ticketHeader+chacha20poly1305.Overhead || len(b) > limitTicket || b[0] != ticketVersion {
		return nil, errTicket
	}
	for i := range keys {
		// The kid is public and only saves a decryption; two keys may share one.
		if !equal(ticketKid(&keys[i], service), b[1:ticketPrefix]) {
			continue
		}
		aead, wipe := ticketAEAD(&keys[i], service)
		plain, err := aead.open(b, ticketAD(service, b))
		wipe()
		if err == nil {
			defer clear(plain)
			return parseTicket(plain)
		}
	}
	return nil, errTicket
}

func parseTicket(plain []byte) (*Ticket, error) {
	var w ticketWire
	if err := wire.Unmarshal(plain, &w, limitTicket); err != nil {
		return nil, fmt.Errorf("%w: %w", errTicket, err)
	}
	defer clear(w.Key)
	if len(w.ID) != len(TicketID{}) || len(w.PID) != id.Size || len(w.Memo) > limitMemo ||
		len(w.Key) != hashSize || len(w.Issuer) != id.Size || len(w.Sig) != ed25519.SignatureSize || len(w.Own) != hashSize || w.Admitted > maxUnixMs || w.Expires > maxUnixMs ||
		checkSecretID(w.SecretID) != nil {
		return nil, errTicket
	}
	return &Ticket{
		ID: TicketID(w.ID), PID: id.ID(w.PID), SecretID: w.SecretID, Admitted: fromUnixMs(w.Admitted),
		Memo: w.Memo, Expires: fromUnixMs(w.Expires), Key: Key(w.Key), Issuer: id.ID(w.Issuer), sig: w.Sig, own: w.Own,
	}, nil
}

func ticketKid(key *Key, service id.ID) []byte {
	return expand(key[:], labelTicketKid, kidSize, service[:])
}

func ticketAD(service id.ID, b []byte) []byte {
	return append(append(wire.Label(labelTicket), service[:]...), b[:ticketPrefix]...)
}

// ticketCipher is XChaCha20-Poly1305 over the layout above.
type ticketCipher struct{ key []byte }

// ticketAEAD derives the sealing key, one per service, and a function that
// wipes it.
func ticketAEAD(key *Key, service id.ID) (ticketCipher, func()) {
	k := expand(key[:], labelTicketKey, chacha20poly1305.KeySize, service[:])
	return ticketCipher{k}, func() { clear(k) }
}

func (c ticketCipher) seal(header, plain, ad []byte) []byte {
	aead, err := chacha20poly1305.NewX(c.key)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return aead.Seal(header, header[ticketPrefix:ticketHeader], plain, ad)
}

func (c ticketCipher) open(b, ad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(c.key)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return aead.Open(nil, b[ticketPrefix:ticketHeader], b[ticketHeader:], ad)
}
