package esp

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"
	"time"
)

// Limits end an SA. A zero field means its default: MaxBytes, MaxPackets, MaxAge.
// A rekeyed SA has no reason for higher ones; a manually keyed SA, which nobody
// rekeys, may have (RFC 4301, Section 4.5).
type Limits struct {
	Bytes   uint64        // ciphertext under the key
	Packets uint64        // highest sequence number, never above 2^32-1 without ESN
	Age     time.Duration // since Config.Born
}

// Life is how much of its limits an SA has used.
type Life uint8

// States of an SA's life, in order; it never goes back.
const (
	LifeFresh   Life = iota // below every soft limit
	LifeRekey               // a soft limit is passed: a successor is wanted
	LifeExpired             // a hard limit is reached or the SA is closed
)

// String returns the state in lower case.
func (l Life) String() string {
	switch l {
	case LifeFresh:
		return "fresh"
	case LifeRekey:
		return "rekey"
	case LifeExpired:
		return "expired"
	}
	return "invalid"
}

func (l Limits) withDefaults(esn bool) Limits {
	if l.Bytes == 0 {
		l.Bytes = MaxBytes
	}
	if l.Packets == 0 {
		l.Packets = MaxPackets
	}
	if l.Age == 0 {
		l.Age = MaxAge
	}
	if !esn {
		// The counter of 32 bits must not cycle (RFC 4303, Section 3.3.3).
		l.Packets = min(l.Packets, maxSeq32)
	}
	return l
}

// soft returns the same limits at the given share, in 1/softUnit.
func (l Limits) soft(share uint64) Limits {
	return Limits{
		Bytes:   scale(l.Bytes, share),
		Packets: scale(l.Packets, share),
		Age:     time.Duration(scale(uint64(l.Age), share)),
	}
}

func scale(n, share uint64) uint64 {
	hi, lo := bits.Mul64(n, share)
	q, _ := bits.Div64(hi, lo, softUnit)
	return q
}

// drawShare returns an SA's soft limit as a share of the hard one.
func drawShare(rand io.Reader) (uint64, error) {
	var b [4]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return 0, fmt.Errorf("esp: jitter of the soft limit: %w", err)
	}
	return softLow + uint64(binary.BigEndian.Uint32(b[:]))%(softHigh-softLow+1), nil
}

// lifetime accounts for bytes and age; the caller knows the sequence number.
type lifetime struct {
	// Set at start.
	born time.Time
	hard Limits
	soft Limits

	bytes   atomic.Uint64
	expired atomic.Bool // for good: a smaller packet or a clock set back revives nothing
}

// alive says whether the SA may be used at now, and ends it if it may not.
func (l *lifetime) alive(now time.Time) bool {
	if now.Sub(l.born) >= l.hard.Age {
		l.expired.Store(true)
	}
	return !l.expired.Load()
}

// takeBytes books n bytes, all or nothing; exceeding the limit ends the SA.
func (l *lifetime) takeBytes(n uint64) bool {
	for {
		used := l.bytes.Load()
		if n > l.hard.Bytes-used {
			return false
		}
		if l.bytes.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// state returns the SA's life at now with seq numbers used.
func (l *lifetime) state(now time.Time, seq uint64) Life {
	age, used := now.Sub(l.born), l.bytes.Load()
	switch {
	case l.expired.Load(), age >= l.hard.Age, used >= l.hard.Bytes, seq >= l.hard.Packets:
		return LifeExpired
	case age >= l.soft.Age, used >= l.soft.Bytes, seq >= l.soft.Packets:
		return LifeRekey
	}
	return LifeFresh
}

// deadlines returns when age alone passes the soft and the hard limit.
func (l *lifetime) deadlines() (soft, hard time.Time) {
	return l.born.Add(l.soft.Age), l.born.Add(l.hard.Age)
}
