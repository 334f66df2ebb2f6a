package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Errors of Seal, for bugs of the caller.
var (
	ErrType    = errors.New("seal: unknown type")
	ErrTooLong = errors.New("seal: payload or padding target over 1173 bytes")
)

// Seal appends a sealed datagram to dst and returns the extended slice.
//
// The key is that of epoch, or of the highest activated one for Newest; answers
// go under the epoch of their query. The payload is padded with zeros to padTo
// bytes if it is shorter: a target of 0 means no padding. Seal borrows payload,
// which must not overlap dst's spare capacity.
func (r *Ring) Seal(dst []byte, now time.Time, typ Type, epoch uint32, payload []byte, padTo int) ([]byte, error) {
	if !typ.valid() {
		return dst, ErrType
	}
	room := max(len(payload), padTo)
	if room > MaxPayload {
		return dst, ErrTooLong
	}
	k := r.lookup(now, epoch)
	if k == nil {
		return dst, ErrEpoch
	}
	start := len(dst)
	out := slices.Grow(dst, Overhead+room)
	out = putHeader(out, typ, k.kid[typ])
	out = out[:start+headerSize]
	head := out[start:]
	nonce := head[adSize:headerSize]
	// Fresh for every datagram, resends included: no counter could be shared by
	// all the holders of a group key.
	if _, err := io.ReadFull(r.cfg.Rand, nonce); err != nil {
		return dst, fmt.Errorf("seal: random bytes: %w", err)
	}
	out = binary.BigEndian.AppendUint64(out, stamp(r.clock(now)))
	out = binary.BigEndian.AppendUint16(out, uint16(len(payload)))
	out = append(out, payload...)
	end := start + headerSize + innerSize + room
	pad := len(out)
	out = out[:end]
	clear(out[pad:])
	plain := out[start+headerSize:]
	sealed := k.aead[typ].Seal(plain[:0], nonce, plain, head[:adSize])
	r.stats.Sealed.Add(1)
	return out[:start+headerSize+len(sealed)], nil
}
