package port

import (
	"errors"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"icvpn/internal/seal"
	"icvpn/internal/wire"
)

// reflectMessage asks for, or tells, the address a datagram came from
// (docs/protocol/tunnel.md). Observed is invalid in a query.
type reflectMessage struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	TxID     []byte // 8 bytes, the querier's
	Observed netip.AddrPort
}

const maxReflect = 64

// ReflectQuery returns a query; it is to be padded to seal.PadQuery.
func ReflectQuery(tx [8]byte) []byte {
	return wire.Marshal(reflectMessage{Version: 1, TxID: tx[:]})
}

// AnswerReflect returns the answer to a query that came from an address; false
// for anything else.
func AnswerReflect(query []byte, from netip.AddrPort) ([]byte, bool) {
	m, ok := parseReflect(query)
	if !ok || m.Observed.IsValid() {
		return nil, false
	}
	m.Observed = from
	return wire.Marshal(m), true
}

// ParseReflected reads an answer.
func ParseReflected(answer []byte) (tx [8]byte, observed netip.AddrPort, ok bool) {
	m, ok := parseReflect(answer)
	if !ok || !m.Observed.IsValid() {
		return tx, observed, false
	}
	return [8]byte(m.TxID), m.Observed, true
}

func parseReflect(b []byte) (m reflectMessage, ok bool) {
	err := wire.Unmarshal(b, &m, maxReflect)
	return m, err == nil && m.Version == 1 && len(m.TxID) == 8
}

// We chose: the reflections that one service is answered, a second and at once.
const (
	// reflectRate is in all: 8,000 members ask a super peer 320 times a second.
	reflectRate, reflectBurst = 1000, 2000
	// networkRate is of one /24 or /56, where 5,000 members behind one NAT ask as
	// often. So it takes six networks to use up what there is for everybody.
	networkRate, networkBurst = 200, 400
	// reservedRate is of one super peer beside all that: what it measures us by must
	// not depend on what members ask. It asks once in 8 s, and four times at first.
	reservedRate, reservedBurst = 2, 10
	// maxBuckets bounds the networks that are told apart; a full table is looked
	// through for those to forget each sweepEvery at most.
	maxBuckets = 1024
	sweepEvery = 100 * time.Millisecond
)

// errReflections is returned for a query beyond the rate.
var errReflections = errors.New("port: too many reflection queries")

// Reflector tells members under which address we see them: a super peer, and a
// member that helps. Members only, because a query is sealed under the epoch's key;
// its answer goes back to where it came from and is shorter, so reflection gains
// nobody anything. Safe for concurrent use.
type Reflector struct {
	port     *Port
	ring     *seal.Ring
	rate     *rate.Limiter
	networks *Buckets
	reserved *Buckets // of super peers

	answered, limited atomic.Uint64
}

// NewReflector returns a reflector for the members of a ring's service.
func NewReflector(p *Port, ring *seal.Ring) *Reflector {
	return &Reflector{
		port: p, ring: ring, rate: rate.NewLimiter(reflectRate, reflectBurst),
		networks: NewBuckets(networkRate, networkBurst), reserved: NewBuckets(reservedRate, reservedBurst),
	}
}

// Answer answers a datagram of type seal.TypeReflect that is a query; it does
// nothing for anything else.
func (r *Reflector) Answer(o seal.Opened, from netip.AddrPort) error { return r.answer(o, from, false) }

// AnswerSuper is Answer for what comes from a super peer's address: there is a
// little that others cannot use up, and beyond it the same as for others, since
// members can forge the address.
func (r *Reflector) AnswerSuper(o seal.Opened, from netip.AddrPort) error {
	return r.answer(o, from, true)
}

func (r *Reflector) answer(o seal.Opened, from netip.AddrPort, super bool) error {
	answer, ok := AnswerReflect(o.Payload, from)
	if !ok || len(answer) > o.Room {
		return nil
	}
	if !r.allow(time.Now(), from.Addr().Unmap(), super) {
		r.limited.Add(1)
		return errReflections
	}
	r.answered.Add(1)
	return r.port.SendControl(r.ring, seal.TypeReflect, o.Epoch, answer, 0, from)
}

// allow asks the smaller limit first: what a network has too many of costs others
// nothing.
func (r *Reflector) allow(now time.Time, from netip.Addr, super bool) bool {
	if super && r.reserved.allow(now, netip.PrefixFrom(from, from.BitLen())) {
		return true
	}
	return r.networks.Allow(now, from) && r.rate.AllowN(now, 1)
}

// Counts returns how many queries were answered, and how many were not because
// there were too many.
func (r *Reflector) Counts() (answered, limited uint64) { return r.answered.Load(), r.limited.Load() }

// Buckets are a token bucket for each network, or other prefix. One that is full again is forgotten,
// so that there are only those that were busy lately; beyond maxBuckets of these
// newcomers share one.
type Buckets struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex
	of    map[netip.Prefix]*rate.Limiter
	swept time.Time
}

// NewBuckets returns buckets of one size.
func NewBuckets(perSecond rate.Limit, burst int) *Buckets {
	return &Buckets{rate: perSecond, burst: burst, of: map[netip.Prefix]*rate.Limiter{}}
}

// Allow takes a token of the network, /24 or /56, that an address is in.
func (b *Buckets) Allow(now time.Time, from netip.Addr) bool {
	from = from.Unmap()
	bits := 56
	if from.Is4() {
		bits = 24
	}
	network, _ := from.Prefix(bits) // invalid only for an invalid address: one bucket for all
	return b.allow(now, network)
}

func (b *Buckets) allow(now time.Time, of netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of[of]
	if l == nil && len(b.of) >= maxBuckets && now.Sub(b.swept) >= sweepEvery {
		b.swept = now
		maps.DeleteFunc(b.of, func(_ netip.Prefix, l *rate.Limiter) bool { return l.TokensAt(now) >= float64(b.burst) })
	}
	if l == nil && len(b.of) >= maxBuckets {
		of = netip.Prefix{}
		l = b.of[of]
	}
	if l == nil {
		l = rate.NewLimiter(b.rate, b.burst)
		b.of[of] = l
	}
	return l.AllowN(now, 1)
}
