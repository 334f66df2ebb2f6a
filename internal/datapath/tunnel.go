package datapath

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"icvpn/esp"
	"icvpn/internal/underlay"
)

// Owner is the conductor's side of a tunnel: what only it can decide or wants
// to know. Methods are called from whichever goroutine works on the tunnel, in
// each direction one at a time; they must not block, and borrow pkt.
type Owner interface {
	// Outbound says whether an inner packet may go to the peer.
	Outbound(pkt []byte, now time.Time) bool
	// Inbound says whether an authentic inner packet goes on to the device: its
	// source must be one that the peer may use (RFC 4301, Section 5.2). False
	// also for a packet that the owner consumed.
	Inbound(pkt []byte, now time.Time) bool
	// NoSA gets a packet for a tunnel without outbound SA.
	NoSA(pkt []byte)
	// Sealed is called after a batch was sent.
	Sealed(s Sealed)
	// Opened is called after a batch was opened, before its packets go on.
	Opened(o Opened)
}

// Sealed says what became of a batch on its way out.
type Sealed struct {
	Now  time.Time
	Sent int      // datagrams that the kernel took
	Life esp.Life // of the outbound SA
	// TooLong is the length of the shortest datagram that the interface was too
	// small for, 0 if there was none: the path MTU is below it.
	TooLong int
}

// Opened says what became of a batch on its way in.
type Opened struct {
	Now  time.Time
	SA   *esp.Inbound
	Life esp.Life // of SA
	// Authentic is how many packets proved that the peer holds the keys.
	Authentic int
	// From is the source of the newest packet of the SA, if it was in the batch:
	// only then may another address mean that the peer moved. Otherwise zero.
	From netip.AddrPort
	// Dummy is the length of the longest authentic dummy datagram, 0 for none:
	// maybe a probe of the path MTU, to be answered.
	Dummy int
}

// Way is how a tunnel's packets go out: replaced as a whole.
type Way struct {
	SA   *esp.Outbound
	Path netip.AddrPort
	// MTU is the longest inner packet that fits the path unfragmented, see
	// esp.Suite.MaxInner. 0: any length.
	MTU int
}

// Policy is what a tunnel does to packets beyond sealing them. The zero value is
// a good choice.
type Policy struct {
	// CopyDSCP shows the inner DSCP on the outside. Default false: the outer one
	// is DSCP. See docs/adr for the reason.
	CopyDSCP bool
	// DSCP of the outer header, 0 to 63, default 0, best effort.
	DSCP uint8
	// Pad hides lengths with TFC padding (RFC 4303, Section 2.7): inner lengths
	// become multiples of Pad, with PadToMTU all of them the MTU. Default 0, none.
	Pad int
	// KeepMSS leaves the maximum segment size of SYNs alone.
	KeepMSS bool
	// Oversize lets through what is longer than the MTU, for the outer packet to
	// be fragmented. IPv6 packets of up to 1280 bytes always get through: no link
	// may refuse those (RFC 8200, Section 5; RFC 2473, Section 7.1).
	Oversize bool
}

// PadToMTU makes all packets of a tunnel equally long.
const PadToMTU = -1

// TunnelStats count one tunnel's inner packets.
type TunnelStats struct {
	RxPackets, RxBytes, TxPackets, TxBytes atomic.Uint64
}

// Tunnel is one peer as the data path sees it. It costs less than a kilobyte
// besides its SAs, and while it is idle nothing else: no goroutine, no timer.
type Tunnel struct {
	// set at start
	d      *Datapath
	owner  Owner
	policy Policy

	way     atomic.Pointer[Way]
	out, in lane
	stats   TunnelStats
}

// NewTunnel returns a tunnel that sends nothing yet.
func (d *Datapath) NewTunnel(owner Owner, policy Policy) *Tunnel {
	t := &Tunnel{d: d, owner: owner, policy: policy}
	t.out.init(d, t.sealBatch)
	t.in.init(d, t.openBatch)
	return t
}

// Owner returns what NewTunnel was given.
func (t *Tunnel) Owner() Owner { return t.owner }

// Stats returns the live counters.
func (t *Tunnel) Stats() *TunnelStats { return &t.stats }

// SetWay says where packets go from now on; nil: nowhere, Owner.NoSA gets them.
func (t *Tunnel) SetWay(w *Way) { t.way.Store(w) }

// Way returns what SetWay set, not to be changed.
func (t *Tunnel) Way() *Way { return t.way.Load() }

// Errors of Dummy.
var (
	ErrNoSA   = errors.New("datapath: the tunnel has no outbound SA")
	ErrNoRoom = errors.New("datapath: no ESP datagram has that length")
)

// Dummy sends one dummy packet (RFC 4303, Section 2.6) whose datagram is length
// bytes long, or as many below it as the suite's alignment asks, and returns
// that number: it keeps a path alive, hides that there is nothing to say, or
// probes the path MTU. length 0 is the shortest.
func (t *Tunnel) Dummy(now time.Time, length int) (int, error) {
	w := t.way.Load()
	if w == nil {
		return 0, ErrNoSA
	}
	size := payload(w.SA.Suite(), length)
	if size < 0 {
		return 0, ErrNoRoom
	}
	pkts := []esp.Packet{{Buf: make([]byte, esp.Headroom+size+esp.Tailroom)}}
	if n, _ := w.SA.SealDummy(now, pkts, size); n == 0 {
		return 0, errors.New("datapath: " + pkts[0].Drop.String())
	}
	ms := []underlay.Message{{Buf: pkts[0].Bytes(), N: pkts[0].Len, Addr: w.Path, TOS: t.policy.DSCP << 2}}
	if _, err := t.d.cfg.Send(ms); err != nil {
		return 0, err
	}
	return pkts[0].Len, ms[0].Err
}

// payload returns the payload with which a suite's datagram is at most length
// bytes long, -1 if there is none.
func payload(s esp.Suite, length int) int {
	least := s.SealedLen(0)
	switch {
	case length == 0:
		return 0
	case length < least || length > 0xffff:
		return -1
	}
	size := length - least
	for size > 0 && s.SealedLen(size) > length {
		size--
	}
	return size
}
