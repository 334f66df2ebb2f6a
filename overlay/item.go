package overlay

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"

	"github.com/anacrolix/dht/v2/bep44"

	"icvpn/internal/id"
)

// Item is a mutable item of BEP 44: a value under a key and a salt, replaced by
// the next higher sequence number. An empty value is a withdrawal.
//
// The signature names neither type nor service nor expiry: what those are
// stands in the value (docs/protocol/documents.md).
type Item struct {
	Key   ed25519.PublicKey
	Salt  []byte // at most MaxSalt bytes, may be empty
	Seq   int64  // 0 and more
	Value []byte // at most MaxValue bytes
	Sig   [ed25519.SignatureSize]byte
}

// SignItem returns the signed item. It borrows salt and value. The caller bounds
// them: Verify is false for an item beyond the limits.
func SignItem(key ed25519.PrivateKey, salt []byte, seq int64, value []byte) Item {
	it := Item{
		Key:   key.Public().(ed25519.PublicKey),
		Salt:  bytes.Clone(salt),
		Seq:   seq,
		Value: bytes.Clone(value),
	}
	copy(it.Sig[:], bep44.Sign(key, it.Salt, seq, appendStr(nil, value)))
	return it
}

// Verify says whether the item is within the limits and signed by its key.
func (it Item) Verify() bool {
	return len(it.Key) == ed25519.PublicKeySize && len(it.Salt) <= MaxSalt && len(it.Value) <= MaxValue &&
		it.Seq >= 0 && bep44.Verify(it.Key, it.Salt, it.Seq, appendStr(nil, it.Value), it.Sig[:])
}

// Withdrawn says whether the item is a withdrawal.
func (it Item) Withdrawn() bool { return len(it.Value) == 0 }

// Target returns the ID at which an item is stored: SHA-1(key ‖ salt) (BEP 44).
// A collision would only make two slots share nodes: readers check key and salt.
// The key must have its 32 bytes.
func Target(key ed25519.PublicKey, salt []byte) id.ID {
	return id.ID(bep44.MakeMutableTarget([ed25519.PublicKeySize]byte(key), salt))
}

// newer orders items of one target: the higher sequence number wins and, so that
// all readers agree, of equal ones the higher value.
func (it Item) newer(than Item) bool {
	if it.Seq != than.Seq {
		return it.Seq > than.Seq
	}
	return bytes.Compare(it.Value, than.Value) > 0
}

func (it Item) equal(other Item) bool {
	return it.Seq == other.Seq && bytes.Equal(it.Value, other.Value) &&
		bytes.Equal(it.Key, other.Key) && bytes.Equal(it.Salt, other.Salt)
}

// chunk is an immutable item: its value is its name.
//
// Deviation: BEP 44 stores it at SHA-1 of the bencoded value. Here the name is
// SHA-256 of the value and the target its first 160 bits, because an object's
// root names its chunks by SHA-256 and a reader must find them by that name.
type chunk []byte

func (c chunk) name() [sha256.Size]byte { return sha256.Sum256(c) }

func chunkTarget(name [sha256.Size]byte) id.ID { return id.ID(name[:id.Size]) }
