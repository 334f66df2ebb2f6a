package admission

import (
	"crypto/rand"
	"io"

	"filippo.io/bigmod"
)

// ephemeral is b and g^b, for one challenge only.
type ephemeral struct {
	b  []byte
	gb *bigmod.Nat
}

func newEphemeral(p *srp, random io.Reader) (ephemeral, error) {
	b, err := newExponent(random)
	if err != nil {
		return ephemeral{}, err
	}
	return ephemeral{b: b, gb: p.power(b)}, nil
}

func (e *ephemeral) wipe() {
	clear(e.b)
	if e.gb != nil {
		wipeNat(e.gb)
	}
	*e = ephemeral{}
}

// EphemeralPool holds pairs (b, g^b) made in idle time, which is a third of a
// login's arithmetic. Each pair serves one challenge. It is safe for
// concurrent use.
type EphemeralPool struct {
	group Group
	ready chan ephemeral // capacity chosen by the caller; full means enough
}

// NewEphemeralPool returns an empty pool of at most size pairs for g, which
// must be Valid. It starts nothing: the caller fills it with Precompute.
func NewEphemeralPool(g Group, size int) *EphemeralPool {
	if !g.Valid() || size < 1 {
		panic("admission: internal error: pool of an unknown group or of no size")
	}
	return &EphemeralPool{group: g, ready: make(chan ephemeral, size)}
}

// Precompute makes one pair. It is false, without work, when the pool is full.
func (p *EphemeralPool) Precompute() bool {
	if len(p.ready) == cap(p.ready) {
		return false
	}
	e, err := newEphemeral(p.group.srp(), rand.Reader)
	if err != nil {
		return false
	}
	select {
	case p.ready <- e:
		return true
	default: // another caller was faster
		e.wipe()
		return false
	}
}

// Len returns the number of pairs ready.
func (p *EphemeralPool) Len() int { return len(p.ready) }

// Wipe overwrites and drops every pair.
func (p *EphemeralPool) Wipe() {
	for {
		select {
		case e := <-p.ready:
			e.wipe()
		default:
			return
		}
	}
}

// take returns a pair for group g: from the pool, or made now when it is empty
// or of another group. A nil pool is always empty.
func (p *EphemeralPool) take(g Group, random io.Reader) (ephemeral, error) {
	if p != nil && p.group == g {
		select {
		case e := <-p.ready:
			return e, nil
		default:
		}
	}
	return newEphemeral(g.srp(), random)
}
