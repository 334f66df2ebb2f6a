package admission

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// This file, renewal.go and renewer.go are renewal by datagram: what Continue does
// over TLS for a running member, at the super peer that gave its ticket, in two
// round trips of control datagrams (docs/protocol/admission.md).
//
//	member                                              super peer
//	  |-- ask [tx] ---------------------------------------->|
//	  |<- offer [tx, cookie, E, until, sig] ----------------|  E serves a minute
//	  |-- renewal [cookie, e, mac, ticket, {idkey, request}] ->|  cookie, seal, mac, DH
//	  |<- answer [e, {grant, ticket, expires, clock}] ------|
//
// The payloads, all of fixed layout but for the two that are sealed:
//
//	ask      01 ‖ tx 8
//	offer    02 ‖ tx 8 ‖ cookie 8 ‖ E 32 ‖ until u64 ‖ sig 64          until in Unix ms
//	renewal  03 ‖ cookie 8 ‖ e 32 ‖ mac 32 ‖ u16 ‖ ticket ‖ box          u16: the ticket's length
//	answer   04 ‖ first 8 of e ‖ nonce 24 ‖ box
//	declined 05 ‖ first 8 of e                                         go over TLS

const (
	datagramAsk      = 1
	datagramOffer    = 2
	datagramRenewal  = 3
	datagramAnswer   = 4
	datagramDeclined = 5

	txSize     = 8
	cookieSize = 8
	pubSize    = 32 // X25519, RFC 7748

	offerSize     = 1 + txSize + cookieSize + pubSize + 8 + ed25519.SignatureSize
	renewalHeader = 1 + cookieSize + pubSize + hashSize + 2
	answerHeader  = 1 + txSize + chacha20poly1305.NonceSizeX

	// limitDatagram is what a control datagram carries (docs/protocol/control.md).
	limitDatagram = 1173
)

// IsRenewalAsk says whether a payload asks for an offer.
func IsRenewalAsk(payload []byte) bool {
	return len(payload) == 1+txSize && payload[0] == datagramAsk
}

// IsRenewalAnswer says whether a payload answers something of a member's own.
func IsRenewalAnswer(payload []byte) bool {
	return len(payload) > 0 && (payload[0] == datagramOffer || payload[0] == datagramAnswer || payload[0] == datagramDeclined)
}

// datagramGrant is what an answer seals.
type datagramGrant struct {
	_       struct{} `cbor:",toarray"`
	Grant   []byte
	Ticket  []byte
	Expires uint64 // Unix ms, of the ticket
	Clock   uint64 // Unix ms of the super peer
}

func (m *datagramGrant) valid() bool {
	return len(m.Ticket) > 0 && len(m.Ticket) <= limitTicket && m.Expires <= maxUnixMs && m.Clock <= maxUnixMs
}

// agreement is what the key exchange of one renewal gave.
type agreement struct {
	request Key // seals idkey and request
	ratchet Key // key material for the next session key
}

// transcriptOf returns SHA-256("icvpn/1 datagram" ‖ ServiceID ‖ server key ‖ E ‖ e),
// which stands in the place of the TLS exporter.
func transcriptOf(service id.ID, server ed25519.PublicKey, offered, own []byte) [hashSize]byte {
	h := sha256.New()
	h.Write(wire.Label(labelDatagram))
	for _, p := range [][]byte{service[:], server, offered, own} {
		h.Write(p)
	}
	return [hashSize]byte(h.Sum(nil))
}

// agree derives the keys from the shared secret of X25519, which it wipes:
// HKDF-Expand(HKDF-Extract(salt = transcript, IKM = shared), label, 32).
func agree(transcript [hashSize]byte, shared []byte) agreement {
	defer clear(shared)
	prk, err := hkdf.Extract(sha256.New, shared, transcript[:])
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	defer clear(prk)
	return agreement{
		request: Key(expand(prk, labelDatagramRequest, hashSize)),
		ratchet: Key(expand(prk, labelDatagramRatchet, hashSize)),
	}
}

func (a *agreement) wipe() {
	a.request.Wipe()
	a.ratchet.Wipe()
}

// next is the ratchet of a session key, as over TLS.
func (a *agreement) next(kC *Key, service, pid id.ID) Key {
	return nextSessionKey(kC, &Binding{Ratchet: a.ratchet}, service, pid)
}

// datagramMAC returns HMAC(K_c, "icvpn/1 datagram" ‖ transcript ‖ H(ticket) ‖
// H(box)). It needs no shared secret, so that who has no session key costs none.
func datagramMAC(kC *Key, transcript [hashSize]byte, ticket, box []byte) []byte {
	t, b := sha256.Sum256(ticket), sha256.Sum256(box)
	return mac(kC, labelDatagram, transcript[:], t[:], b[:])
}

// requestCipher is ChaCha20-Poly1305 under a key that seals one message: its nonce
// is zero.
func requestCipher(key *Key) cipher.AEAD { return cipherOf(chacha20poly1305.New(key[:])) }

func cipherOf(aead cipher.AEAD, err error) cipher.AEAD {
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return aead
}

// answerCipher is XChaCha20-Poly1305 under HKDF-Expand(K_c', "icvpn/1 datagram
// grant", 32). Its nonce is random: a renewal that was duplicated on its way may be
// answered twice, with different tickets.
func answerCipher(next *Key) cipher.AEAD {
	key := expand(next[:], labelDatagramGrant, chacha20poly1305.KeySize)
	defer clear(key)
	return cipherOf(chacha20poly1305.NewX(key))
}

// offerParts is what an offer's signature covers.
func offerParts(service id.ID, pub []byte, until uint64) [][]byte {
	return [][]byte{service[:], pub, binary.BigEndian.AppendUint64(nil, until)}
}
