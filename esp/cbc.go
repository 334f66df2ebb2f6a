package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"hash"
)

// ivMode is a CBC mode whose IV can be set again: what crypto/tls relies on too,
// since a new mode per packet would be an allocation per packet.
type ivMode interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

var errNoSetIV = errors.New("esp: crypto/cipher's CBC mode cannot set its IV again")

// cbcHMAC is AES-CBC (RFC 3602) with a truncated HMAC-SHA2 (RFC 4868), encrypt
// then authenticate (RFC 4303, Section 3.3.2.1), packet after packet and with the
// standard library only. cbcLanes does the same faster, where it can.
type cbcHMAC struct {
	enc, dec ivMode
	ivKey    cipher.Block
	mac      hash.Hash
	icvLen   int
	esn      bool

	// Scratch. Fields and no locals, because arguments of interface methods
	// escape to the heap.
	ivBlock [cbcBlock]byte
	high    [4]byte
	sum     [sha512.Size]byte
}

func newCBCPortable(k *Keys, newHash func() hash.Hash, icvLen int, esn bool) (transform, error) {
	block, err := aes.NewCipher(k.Enc)
	if err != nil {
		return nil, err
	}
	ivKey, err := aes.NewCipher(k.IV)
	if err != nil {
		return nil, err
	}
	var zero [cbcBlock]byte
	enc, encOK := cipher.NewCBCEncrypter(block, zero[:]).(ivMode)
	dec, decOK := cipher.NewCBCDecrypter(block, zero[:]).(ivMode)
	if !encOK || !decOK {
		return nil, errNoSetIV
	}
	return &cbcHMAC{
		enc: enc, dec: dec, ivKey: ivKey,
		mac: hmac.New(newHash, k.Int), icvLen: icvLen, esn: esn,
	}, nil
}

func (t *cbcHMAC) seal(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		t.makeIV(pkt[headerLen:headerLen+cbcBlock], p.Seq)
		t.encrypt(pkt)
		copy(pkt[len(pkt)-t.icvLen:], t.icv(pkt, p.Seq))
	}
}

// open authenticates the whole batch before it decrypts anything.
func (t *cbcHMAC) open(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		if !hmac.Equal(pkt[len(pkt)-t.icvLen:], t.icv(pkt, p.Seq)) {
			p.Drop = DropAuth
		}
	}
	for i := range batch {
		if p := &batch[i]; p.Drop == DropNone {
			t.decrypt(p.Bytes())
		}
	}
}

// makeIV writes AES(IV key, 0^64 ‖ seq): unique because seq is, and not to be
// predicted without the key (RFC 3602, Section 3; NIST SP 800-38A, Appendix C).
func (t *cbcHMAC) makeIV(iv []byte, seq uint64) {
	binary.BigEndian.PutUint64(t.ivBlock[cbcBlock-8:], seq)
	t.ivKey.Encrypt(iv, t.ivBlock[:])
}

func (t *cbcHMAC) encrypt(pkt []byte) {
	iv, body := t.split(pkt)
	t.enc.SetIV(iv)
	t.enc.CryptBlocks(body, body)
}

func (t *cbcHMAC) decrypt(pkt []byte) {
	iv, body := t.split(pkt)
	t.dec.SetIV(iv)
	t.dec.CryptBlocks(body, body)
}

func (t *cbcHMAC) split(pkt []byte) (iv, body []byte) {
	return pkt[headerLen : headerLen+cbcBlock], pkt[headerLen+cbcBlock : len(pkt)-t.icvLen]
}

// icv covers SPI, low sequence bits, IV and ciphertext as they are on the wire,
// then the high bits, which are not (RFC 4303, Section 2.2.1). The result is
// valid until the next call.
func (t *cbcHMAC) icv(pkt []byte, seq uint64) []byte {
	t.mac.Reset()
	t.mac.Write(pkt[:len(pkt)-t.icvLen])
	if t.esn {
		binary.BigEndian.PutUint32(t.high[:], uint32(seq>>32))
		t.mac.Write(t.high[:])
	}
	return t.mac.Sum(t.sum[:0])[:t.icvLen]
}

func (t *cbcHMAC) wipe() {
	clear(t.sum[:])
	t.enc, t.dec, t.ivKey, t.mac = nil, nil, nil, nil
}
