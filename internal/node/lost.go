package node

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"icvpn/internal/seal"
)

// A machine that restarted has lost its keys; its peers go on sending to SAs that
// are no more. It says so, and they ask once whether that is so before they agree
// new keys (docs/protocol/tunnel.md; the INVALID_SPI of RFC 7296, Section 1.5):
//
//	ESP of an unknown SPI ──> lost ──sealed under the group key──> peer
//	peer: ping on that pair ──pong──> it was not true, nothing is done
//	                        └ silence for lostWait ──> key exchange
//
// Any member could say so of anybody's SA whose SPI it has seen. All that it gains is
// a ping now and then: who has the keys of a pair answers, and the pair stays. Anybody
// at all can make us say it, to whom he likes: so it is said for a while after the
// start only, when it can be true, and seldom to one address.

// We chose:
const (
	// lostWait is how long the peer may take to show that it has the keys after all.
	lostWait = 500 * time.Millisecond
	// lostEvery is the least time between two questions about one tunnel.
	lostEvery = 10 * time.Second
	// lostFor is how long after its start a machine says so: no tunnel of before that is
	// used lives longer without being asked whether we are there.
	lostFor = idleLife + time.Minute
	// lostRate bounds what a machine says of unknown SPIs, a second, and at once; to one
	// address it says something once in lostEvery. Addresses share lostSources places.
	lostRate, lostBurst = 50, 100
	lostSources         = 1024

	lostSize   = 4 + 4
	lostOnWire = seal.Overhead + lostSize
)

// strays bounds what is said of SPIs that no SA has.
type strays struct {
	all  *rate.Limiter
	seed maphash.Seed
	last [lostSources]atomic.Int64 // nanoseconds since the start when something was said
}

func newStrays() *strays {
	return &strays{all: rate.NewLimiter(lostRate, lostBurst), seed: maphash.MakeSeed()}
}

// place is where it is kept when something was said to an address.
func (s *strays) place(to netip.Addr) uint64 { return maphash.Comparable(s.seed, to) % lostSources }

// allow says whether to answer an address, some time after the start.
func (s *strays) allow(since time.Duration, to netip.Addr) bool {
	last := &s.last[s.place(to)]
	before := last.Load()
	if since >= lostFor || before != 0 && since-time.Duration(before) < lostEvery || !s.all.Allow() {
		return false
	}
	return last.CompareAndSwap(before, int64(since)+1)
}

// onStray is told of datagrams of size bytes with an SPI that no SA has. It never
// answers with more than came. Called by the port's readers, and the control loop.
func (n *Node) onStray(spi uint32, from netip.AddrPort, size int) {
	if size < lostOnWire || !n.strays.allow(time.Since(n.started), from.Addr()) {
		return
	}
	if err := n.port.SendControl(n.ring, seal.TypeProbe, seal.Newest, encodeLost(spi), 0, from); err != nil {
		n.log.Debug("a lost SPI not answered", "addr", from, "err", err)
	}
}

// encodeLost is no notice of a tunnel: those begin with an SPI, which is never zero
// (RFC 4303, Section 2.1), and are longer.
func encodeLost(spi uint32) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 4, lostSize), spi)
}

func parseLost(b []byte) (spi uint32, ok bool) {
	if len(b) != lostSize || binary.BigEndian.Uint32(b) != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[4:]), true
}

// onLost asks the peer of a tunnel whether it has the keys of its pair, if somebody
// says from where the tunnel leads that it has not. Control loop only.
func (n *Node) onLost(spi uint32, from netip.AddrPort) {
	now := time.Now()
	for t := range n.active {
		p := t.current()
		if p == nil || p.out.SPI() != spi || p.path != from {
			continue
		}
		if t.rekeying || n.leaving || now.Sub(t.lostAt) < lostEvery {
			return
		}
		t.lostAt, t.doubted = now, true
		n.sendNotice(t, p, noticePing, 0)
		if at := now.Add(lostWait); at.Before(n.upkeepAt) {
			n.upkeepAt = at
		}
		return
	}
}

// tendLost agrees new keys with a peer that was said to have lost them and has not
// shown that it has. Where it is we know: it was heard from there.
func (n *Node) tendLost(t *tunnel, p *saPair, now time.Time) {
	if !t.doubted || now.Sub(t.lostAt) < lostWait {
		return
	}
	t.doubted = false
	if t.stats.lastRx.Load() >= t.lostAt.UnixNano() || t.rekeying || now.Before(t.retryAt) {
		return
	}
	path, _ := n.shown(p.path)
	n.log.Info("the peer has lost its keys, agreeing new ones", "peer", t.name(), "addr", path)
	t.rekeying = true
	n.initiate(t, nil)
}
