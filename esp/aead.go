package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"
)

// combined is AES-GCM (RFC 4106) or ChaCha20-Poly1305 (RFC 7634), which share
// their ESP format.
//
//	nonce = salt 4 ‖ IV 8               IV = the sequence number, when we send
//	AAD   = SPI 4 ‖ sequence number 8   (4 without ESN)
type combined struct {
	aead cipher.AEAD
	esn  bool

	// Scratch, see cbcHMAC.
	nonce [aeadSalt + aeadIV]byte
	aad   [4 + 8]byte
}

func newGCMPortable(k *Keys, esn bool) (transform, error) {
	block, err := aes.NewCipher(k.Enc)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return newCombined(aead, k, esn), nil
}

func newChaCha(k *Keys, esn bool) (transform, error) {
	aead, err := chacha20poly1305.New(k.Enc)
	if err != nil {
		return nil, err
	}
	return newCombined(aead, k, esn), nil
}

func newCombined(aead cipher.AEAD, k *Keys, esn bool) *combined {
	t := &combined{aead: aead, esn: esn}
	copy(t.nonce[:aeadSalt], k.Salt)
	return t
}

func (t *combined) seal(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		binary.BigEndian.PutUint64(pkt[headerLen:], p.Seq)
		t.encrypt(pkt, p.Seq)
	}
}

func (t *combined) encrypt(pkt []byte, seq uint64) {
	const body = headerLen + aeadIV
	n := len(pkt)
	t.aead.Seal(pkt[body:body:n], t.nonceOf(pkt), pkt[body:n-aeadTag], t.aadOf(pkt, seq))
}

func (t *combined) open(batch []Packet) {
	const body = headerLen + aeadIV
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		if _, err := t.aead.Open(pkt[body:body], t.nonceOf(pkt), pkt[body:], t.aadOf(pkt, p.Seq)); err != nil {
			p.Drop = DropAuth
		}
	}
}

// nonceOf takes the IV from the packet: a peer that is not us may fill it
// otherwise (RFC 4106, Section 3.1 only asks that it be unique).
func (t *combined) nonceOf(pkt []byte) []byte {
	copy(t.nonce[aeadSalt:], pkt[headerLen:headerLen+aeadIV])
	return t.nonce[:]
}

// aadOf follows RFC 4106, Section 5: unlike HMAC's, the high bits stand between
// SPI and low bits.
func (t *combined) aadOf(pkt []byte, seq uint64) []byte {
	copy(t.aad[:4], pkt[:4])
	if t.esn {
		binary.BigEndian.PutUint64(t.aad[4:], seq)
		return t.aad[:12]
	}
	binary.BigEndian.PutUint32(t.aad[4:], uint32(seq))
	return t.aad[:8]
}

func (t *combined) wipe() {
	clear(t.nonce[:])
	t.aead = nil
}
