package seal

import (
	"cmp"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
)

// Newest as an epoch number stands for the highest activated epoch. Real
// epochs start at 1.
const Newest uint32 = 0

// Errors of Ring that a caller may branch on.
var (
	ErrEpoch       = errors.New("seal: no usable key for that epoch")
	ErrEpochKey    = errors.New("seal: that epoch is installed with another key")
	ErrEpochPassed = errors.New("seal: that epoch is over")
	ErrEpochCount  = errors.New("seal: too many epochs installed ahead")
)

// Config of a Ring. Only Service is required.
type Config struct {
	// Service names the overlay whose group key this is; it is part of every key.
	Service id.ID

	// Rand gives nonces. Default crypto/rand.Reader; it must be safe for
	// concurrent use. Anything else belongs in tests.
	Rand io.Reader

	// ReplayEntries bounds each of the two generations of the DHT's nonce set; the
	// other types, which are rare, have a quarter of that each. Default 65536.
	ReplayEntries int

	// IsAnswer says of an authentic payload that it answers something this
	// process asked, so that playing it again gains nothing. When the nonce set
	// is full such datagrams still pass and all others are shed. Default: none is.
	// It borrows payload and must be quick and safe for concurrent use.
	IsAnswer func(typ Type, payload []byte) bool
}

func (c Config) withDefaults() Config {
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.ReplayEntries <= 0 {
		c.ReplayEntries = defaultReplayEntries
	}
	if c.IsAnswer == nil {
		c.IsAnswer = func(Type, []byte) bool { return false }
	}
	return c
}

// Epoch is one generation of the group key with the fields of its signed record.
type Epoch struct {
	Number     uint32
	Key        MemberKey
	ActivateAt time.Time     // on the service's clock
	Grace      time.Duration // how long Number-1 still opens after ActivateAt
}

// Ring seals and opens for one service.
type Ring struct {
	// set at start
	cfg   Config
	stats Stats

	// atomics
	offset atomic.Int64                // service's clock minus ours, in ns
	floor  atomic.Uint32               // highest epoch ever seen activated
	keys   atomic.Pointer[[]*epochKey] // ascending; the slice is never changed

	// mu orders the writers of keys
	mu sync.Mutex

	seen [typeEnd]nonceSet // each has its own lock
}

// epochKey is an Epoch with everything derived from it. It is never changed.
type epochKey struct {
	Epoch
	kid  [typeEnd][4]byte
	aead [typeEnd]cipher.AEAD
}

// NewRing returns a Ring without keys.
func NewRing(cfg Config) *Ring {
	r := &Ring{cfg: cfg.withDefaults()}
	for t := range r.seen {
		r.seen[t].limit = max(1, r.cfg.ReplayEntries/4)
	}
	r.seen[TypeDHT].limit = r.cfg.ReplayEntries
	r.keys.Store(&[]*epochKey{})
	return r
}

// Service returns the service this Ring seals for.
func (r *Ring) Service() id.ID { return r.cfg.Service }

// Stats returns the live counters.
func (r *Ring) Stats() *Stats { return &r.stats }

// SetClockOffset tells how far the service's clock is ahead of ours, as learnt
// at admission.
func (r *Ring) SetClockOffset(d time.Duration) { r.offset.Store(int64(d)) }

// ClockOffset returns what SetClockOffset was told.
func (r *Ring) ClockOffset() time.Duration { return time.Duration(r.offset.Load()) }

// clock turns our time into the service's.
func (r *Ring) clock(now time.Time) time.Time { return now.Add(r.ClockOffset()) }

// Install adds an epoch, or replaces the dates of one it has. It starts to be
// sealed under at e.ActivateAt and opens at once. At most four are held: those
// before e-1 are forgotten, a fifth is refused.
func (r *Ring) Install(e Epoch) error {
	if e.Number == Newest {
		return ErrEpoch
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if floor := r.floor.Load(); floor > 0 && e.Number < floor-1 {
		return ErrEpochPassed
	}
	if k := r.find(e.Number); k != nil && !k.Key.Equal(e.Key) {
		return ErrEpochKey
	}
	keys := slices.DeleteFunc(slices.Clone(*r.keys.Load()), func(k *epochKey) bool {
		return k.Number == e.Number || uint64(k.Number)+1 < uint64(r.floor.Load())
	})
	if len(keys) == maxEpochs {
		return ErrEpochCount
	}
	keys = append(keys, r.derive(e))
	slices.SortFunc(keys, func(a, b *epochKey) int { return cmp.Compare(a.Number, b.Number) })
	r.keys.Store(&keys)
	return nil
}

// Activate makes an installed epoch the newest from now on, whatever its record
// said: for the epoch admission hands over, and for an emergency. It never goes
// back to a lower one.
func (r *Ring) Activate(now time.Time, number uint32) error {
	k := r.find(number)
	if k == nil {
		return ErrEpoch
	}
	e := k.Epoch
	if at := r.clock(now); at.Before(e.ActivateAt) {
		e.ActivateAt = at
	}
	return r.Install(e)
}

func (r *Ring) derive(e Epoch) *epochKey {
	k := &epochKey{Epoch: e}
	for t := TypeDHT; t < typeEnd; t++ {
		copy(k.kid[t][:], e.Key.subkey("icvpn/1 kid", t, r.cfg.Service, e.Number, 4))
		key := e.Key.subkey("icvpn/1 seal", t, r.cfg.Service, e.Number, keySize)
		aead, err := chacha20poly1305.NewX(key)
		if err != nil {
			panic("seal: internal error: " + err.Error())
		}
		clear(key)
		k.aead[t] = aead
	}
	return k
}

func (r *Ring) find(number uint32) *epochKey {
	for _, k := range *r.keys.Load() {
		if k.Number == number {
			return k
		}
	}
	return nil
}

// newest returns the highest activated epoch, nil if none is.
//
// Invariant: its number never falls, even if the clock does, so no datagram is
// sealed for a member that an epoch change has put out.
func (r *Ring) newest(now time.Time) *epochKey {
	at, floor := r.clock(now), r.floor.Load()
	keys := *r.keys.Load()
	for i := len(keys) - 1; i >= 0; i-- {
		k := keys[i]
		if k.Number != floor && (k.Number < floor || at.Before(k.ActivateAt)) {
			continue
		}
		for floor < k.Number && !r.floor.CompareAndSwap(floor, k.Number) {
			floor = r.floor.Load()
		}
		return k
	}
	return nil
}

// usable says whether k opens and answers now: e-1 until the grace of e ends, e
// and e+1 (whose sender's clock is ahead of ours). Before any is activated only
// the next one to be is.
func (r *Ring) usable(k *epochKey, now time.Time) bool {
	e := r.newest(now)
	switch {
	case e == nil:
		return k == (*r.keys.Load())[0]
	case k.Number == e.Number, k.Number == e.Number+1 && k.Number != Newest:
		return true
	case k.Number == e.Number-1:
		return r.clock(now).Before(e.ActivateAt.Add(e.Grace))
	}
	return false
}

// Current returns the number of the highest activated epoch, Newest if none is.
func (r *Ring) Current(now time.Time) uint32 {
	if e := r.newest(now); e != nil {
		return e.Number
	}
	return Newest
}

// Key returns K_e of an epoch that is usable now, for the key exchange.
func (r *Ring) Key(now time.Time, epoch uint32) (MemberKey, bool) {
	k := r.lookup(now, epoch)
	if k == nil {
		return MemberKey{}, false
	}
	return k.Key, true
}

// Epochs returns copies of all installed epochs, ascending.
func (r *Ring) Epochs() []Epoch {
	var all []Epoch
	for _, k := range *r.keys.Load() {
		all = append(all, k.Epoch)
	}
	return all
}

func (r *Ring) lookup(now time.Time, epoch uint32) *epochKey {
	if epoch == Newest {
		return r.newest(now)
	}
	if k := r.find(epoch); k != nil && r.usable(k, now) {
		return k
	}
	return nil
}

// Tick forgets epochs that can never be used again. Open and Seal refuse them
// without it; Tick is what removes their keys from memory.
func (r *Ring) Tick(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.newest(now)
	if e == nil {
		return
	}
	keys := slices.DeleteFunc(slices.Clone(*r.keys.Load()), func(k *epochKey) bool {
		return k.Number < e.Number && !r.usable(k, now)
	})
	r.keys.Store(&keys)
}

// Deadline returns, on our clock, when the next epoch activates or the last
// grace ends: the caller then calls Tick and rekeys. The zero time means never.
func (r *Ring) Deadline(now time.Time) time.Time {
	var next time.Time
	earliest := func(t time.Time) {
		if t = t.Add(-r.ClockOffset()); t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	current := r.Current(now)
	for _, k := range *r.keys.Load() {
		switch {
		case k.Number > current:
			earliest(k.ActivateAt)
		case k.Number == current && r.find(current-1) != nil:
			earliest(k.ActivateAt.Add(k.Grace))
		}
	}
	return next
}

// stamp is the u64 of the inner header.
func stamp(t time.Time) uint64 { return uint64(max(0, t.UnixMilli())) }

func putHeader(dst []byte, typ Type, kid [4]byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = append(dst, byte(typ))
	return append(dst, kid[:]...)
}
