package port

import (
	"errors"
	"net/netip"
	"sync/atomic"

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

// We chose: the reflections that one service is answered at most, a second. 8,000
// members ask a super peer 320 times a second.
const (
	reflectRate  = 1000
	reflectBurst = 2000
)

// errReflections is returned for a query beyond the rate.
var errReflections = errors.New("port: too many reflection queries")

// Reflector tells members under which address we see them: a super peer, and a
// member that helps. Members only, because a query is sealed under the epoch's key;
// its answer goes back to where it came from and is shorter, so reflection gains
// nobody anything. Safe for concurrent use.
type Reflector struct {
	port *Port
	ring *seal.Ring
	rate *rate.Limiter

	answered, limited atomic.Uint64
}

// NewReflector returns a reflector for the members of a ring's service.
func NewReflector(p *Port, ring *seal.Ring) *Reflector {
	return &Reflector{port: p, ring: ring, rate: rate.NewLimiter(reflectRate, reflectBurst)}
}

// Answer answers a datagram of type seal.TypeReflect that is a query; it does
// nothing for anything else.
func (r *Reflector) Answer(o seal.Opened, from netip.AddrPort) error {
	answer, ok := AnswerReflect(o.Payload, from)
	if !ok || len(answer) > o.Room {
		return nil
	}
	if !r.rate.Allow() {
		r.limited.Add(1)
		return errReflections
	}
	r.answered.Add(1)
	return r.port.SendControl(r.ring, seal.TypeReflect, o.Epoch, answer, 0, from)
}

// Counts returns how many queries were answered, and how many were not because
// there were too many.
func (r *Reflector) Counts() (answered, limited uint64) { return r.answered.Load(), r.limited.Load() }
