package state

import (
	"crypto/cipher"
	"errors"

	"icvpn/internal/wire"
)

// Sealer seals the values of a store that keeps many records in one file of the
// directory, under a key of its own. Safe for concurrent use, also after the
// directory was closed.
//
//	nonce 24 ‖ ciphertext ‖ tag 16
//	XChaCha20-Poly1305; associated data: "icvpn/1 state record" ‖ 00 ‖ lp(part) for each part
//
// The parts are where a value lies: store, bucket, key. A value that was moved
// to another place does not open.
type Sealer struct {
	aead  cipher.AEAD
	keyID [keyIDSize]byte
	store string
}

// ErrSeal is returned for a value that does not open at its place under this key.
var ErrSeal = errors.New("state: the seal of a record does not verify")

const labelRecord = "icvpn/1 state record"

// Sealer returns the sealer of a store.
func (d *Dir) Sealer(store string) *Sealer {
	return &Sealer{aead: d.records, keyID: d.keyID, store: store}
}

// KeyID tells a foreign key from damage; it is no secret.
func (s *Sealer) KeyID() []byte { return s.keyID[:] }

// Seal returns value sealed for its place.
func (s *Sealer) Seal(bucket string, key, value []byte) []byte {
	b := make([]byte, nonceSize, nonceSize+len(value)+tagSize)
	copy(b, randomBytes(nonceSize))
	return s.aead.Seal(b, b[:nonceSize], value, s.place(bucket, key))
}

// Open returns what Seal was given for the same place.
func (s *Sealer) Open(bucket string, key, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize+tagSize {
		return nil, ErrSeal
	}
	value, err := s.aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], s.place(bucket, key))
	if err != nil {
		return nil, ErrSeal
	}
	return value, nil
}

func (s *Sealer) place(bucket string, key []byte) []byte {
	b := wire.Label(labelRecord)
	for _, part := range [][]byte{[]byte(s.store), []byte(bucket), key} {
		b = wire.AppendLP(b, part)
	}
	return b
}
