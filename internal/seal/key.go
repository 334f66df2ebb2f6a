package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// ErrKeySize is returned for key bytes that are not 32.
var ErrKeySize = errors.New("seal: a group key has 32 bytes")

// ErrEpochErased is returned for an epoch before the one a MasterKey stands at.
var ErrEpochErased = errors.New("seal: the master key has left that epoch")

// ErrEpochFar is returned for an epoch too far after it.
var ErrEpochFar = errors.New("seal: epoch is too far ahead of the master key")

// MasterKey is M_e, the group secret super peers share. It only moves forward:
// Next erases what opened the epoch before. It is not safe for concurrent use.
type MasterKey struct {
	epoch uint32
	key   [keySize]byte
}

// NewMasterKey draws a fresh M for epoch, which is at least 1.
func NewMasterKey(epoch uint32, rand io.Reader) (*MasterKey, error) {
	var b [keySize]byte
	defer clear(b[:])
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("seal: random bytes: %w", err)
	}
	return ParseMasterKey(epoch, b[:])
}

// ParseMasterKey restores what Bytes returned. It borrows b.
func ParseMasterKey(epoch uint32, b []byte) (*MasterKey, error) {
	if len(b) != keySize {
		return nil, ErrKeySize
	}
	if epoch == Newest {
		return nil, ErrEpoch
	}
	return &MasterKey{epoch: epoch, key: [keySize]byte(b)}, nil
}

// Epoch returns e of M_e.
func (m *MasterKey) Epoch() uint32 { return m.epoch }

// Bytes returns a copy of the 32 secret bytes, for the sealed store.
func (m *MasterKey) Bytes() []byte { return bytes.Clone(m.key[:]) }

// Next turns M_e into M_{e+1} = HKDF-Expand(M_e, "icvpn/1 next", 32) and erases
// M_e. Call it once e+1 is activated and its own K_e needed no more.
func (m *MasterKey) Next() {
	if m.epoch == ^uint32(0) {
		panic("seal: internal error: epoch numbers are used up")
	}
	next := expand(m.key[:], wire.Label("icvpn/1 next"), keySize)
	copy(m.key[:], next)
	clear(next)
	m.epoch++
}

// Member returns K_e for e = epoch or a later one; the ratchet itself stays
// where it is, so that keys can be handed out ahead of their activation.
func (m *MasterKey) Member(epoch uint32) (MemberKey, error) {
	if epoch < m.epoch {
		return MemberKey{}, ErrEpochErased
	}
	if epoch-m.epoch > maxAhead {
		return MemberKey{}, ErrEpochFar
	}
	at := *m
	defer at.Wipe()
	for at.epoch < epoch {
		at.Next()
	}
	info := binary.BigEndian.AppendUint32(wire.Label("icvpn/1 member"), epoch)
	k := expand(at.key[:], info, keySize)
	defer clear(k)
	return MemberKey{key: [keySize]byte(k)}, nil
}

// Wipe erases the key.
func (m *MasterKey) Wipe() { clear(m.key[:]) }

// Format redacts the key under every verb.
func (m MasterKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.String()) }

// String names the epoch, never the key.
func (m MasterKey) String() string { return fmt.Sprintf("master key of epoch %d (redacted)", m.epoch) }

// LogValue redacts the key in logs.
func (m MasterKey) LogValue() slog.Value { return slog.StringValue(m.String()) }

// MemberKey is K_e, the group key of one epoch as members hold it.
type MemberKey struct{ key [keySize]byte }

// ParseMemberKey restores what Bytes returned. It borrows b.
func ParseMemberKey(b []byte) (MemberKey, error) {
	if len(b) != keySize {
		return MemberKey{}, ErrKeySize
	}
	return MemberKey{key: [keySize]byte(b)}, nil
}

// Bytes returns a copy of the 32 secret bytes: for the channel of admission, the
// sealed store and the key exchange, which mixes K_e in.
func (k MemberKey) Bytes() []byte { return bytes.Clone(k.key[:]) }

// Equal compares in constant time.
func (k MemberKey) Equal(other MemberKey) bool {
	return subtle.ConstantTimeCompare(k.key[:], other.key[:]) == 1
}

// Wipe erases this copy.
func (k *MemberKey) Wipe() { clear(k.key[:]) }

// Format redacts the key under every verb.
func (k MemberKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// String never shows the key.
func (k MemberKey) String() string { return "group key (redacted)" }

// LogValue redacts the key in logs.
func (k MemberKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// subkey returns HKDF-Expand(K_e, label ‖ type ‖ ServiceID ‖ u32 e, n). Each type
// has keys of its own: what was sealed as a probe never opens as a DHT message.
func (k *MemberKey) subkey(label string, typ Type, service id.ID, epoch uint32, n int) []byte {
	info := append(wire.Label(label), byte(typ))
	info = append(info, service[:]...)
	info = binary.BigEndian.AppendUint32(info, epoch)
	return expand(k.key[:], info, n)
}

func expand(key, info []byte, n int) []byte {
	out, err := hkdf.Expand(sha256.New, key, string(info), n)
	if err != nil {
		panic("seal: internal error: " + err.Error())
	}
	return out
}
