package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"icvpn/internal/wire"
)

// Ratchet is what a super peer holds of a service's epochs: M of the highest one
// that it was told of, and K of those below that are still in use. M_e is gone as
// soon as e+1 is announced; K_e stays until Forget. It is not safe for concurrent
// use.
type Ratchet struct {
	master MasterKey
	keys   []keptKey // ascending, below master.epoch, at most maxEpochs
}

// keptKey is K of one epoch.
type keptKey struct {
	_      struct{} `cbor:",toarray"`
	Number uint32
	Key    []byte
}

// NewRatchet returns a Ratchet that stands at m, which it takes.
func NewRatchet(m *MasterKey) *Ratchet {
	r := &Ratchet{master: *m}
	m.Wipe()
	return r
}

// Epoch returns the highest epoch there is a key of.
func (r *Ratchet) Epoch() uint32 { return r.master.epoch }

// Advance goes on to epoch to, and keeps the keys of the epochs since oldest. To
// go back, or nowhere, does nothing.
func (r *Ratchet) Advance(to, oldest uint32) error {
	if to > r.master.epoch && to-r.master.epoch > maxAhead {
		return ErrEpochFar
	}
	for r.master.epoch < to {
		if e := r.master.epoch; e >= oldest {
			k, err := r.master.Member(e)
			if err != nil {
				return err
			}
			if len(r.keys) == maxEpochs {
				return ErrEpochCount
			}
			r.keys = append(r.keys, keptKey{Number: e, Key: k.Bytes()})
			k.Wipe()
		}
		r.master.Next()
	}
	return nil
}

// Key returns K_e, if it is still there.
func (r *Ratchet) Key(epoch uint32) (MemberKey, bool) {
	if epoch == r.master.epoch {
		k, err := r.master.Member(epoch)
		return k, err == nil
	}
	for i := range r.keys {
		if r.keys[i].Number == epoch {
			k, err := ParseMemberKey(r.keys[i].Key)
			return k, err == nil
		}
	}
	return MemberKey{}, false
}

// Forget erases the keys of all epochs before oldest, and says whether there were
// any. M stays.
func (r *Ratchet) Forget(oldest uint32) bool {
	n := len(r.keys)
	r.keys = slices.DeleteFunc(r.keys, func(k keptKey) bool {
		if k.Number >= oldest {
			return false
		}
		clear(k.Key)
		return true
	})
	return len(r.keys) < n
}

// ratchetFile is a Ratchet in the sealed store.
type ratchetFile struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Epoch   uint32
	Master  []byte
	Keys    []keptKey
}

const (
	ratchetVersion = 1
	maxRatchet     = 512
)

// Bytes returns a copy of all of it, for the sealed store.
func (r *Ratchet) Bytes() []byte {
	f := ratchetFile{Version: ratchetVersion, Epoch: r.master.epoch, Master: r.master.Bytes(), Keys: r.keys}
	defer clear(f.Master)
	return wire.Marshal(f)
}

// ParseRatchet restores what Bytes returned. It borrows b.
func ParseRatchet(b []byte) (*Ratchet, error) {
	var f ratchetFile
	if err := wire.Unmarshal(b, &f, maxRatchet); err != nil {
		return nil, fmt.Errorf("seal: kept epochs: %w", err)
	}
	if f.Version != ratchetVersion || len(f.Keys) > maxEpochs {
		return nil, fmt.Errorf("seal: kept epochs have version %d, this binary knows %d", f.Version, ratchetVersion)
	}
	m, err := ParseMasterKey(f.Epoch, f.Master)
	if err != nil {
		return nil, err
	}
	last := Newest
	for _, k := range f.Keys {
		if k.Number <= last || k.Number >= f.Epoch || len(k.Key) != keySize {
			return nil, errors.New("seal: kept epochs are out of order")
		}
		last = k.Number
	}
	clear(f.Master)
	return &Ratchet{master: *m, keys: f.Keys}, nil
}

// Equal says whether two hold the same.
func (r *Ratchet) Equal(other *Ratchet) bool { return bytes.Equal(r.Bytes(), other.Bytes()) }

// Wipe erases every key.
func (r *Ratchet) Wipe() {
	r.Forget(^uint32(0))
	r.master.Wipe()
}

// Format redacts the keys under every verb.
func (r *Ratchet) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// String names the epoch, never a key.
func (r *Ratchet) String() string {
	return fmt.Sprintf("ratchet at epoch %d (redacted)", r.master.epoch)
}

// LogValue redacts the keys in logs.
func (r *Ratchet) LogValue() slog.Value { return slog.StringValue(r.String()) }
