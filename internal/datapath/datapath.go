package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"icvpn/esp"
	"icvpn/internal/ippkt"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

// Config is what a Datapath conducts between. It owns none of it.
type Config struct {
	// Device carries inner packets. Required.
	Device tun.Device
	// Send sends sealed datagrams, as underlay.Conn.WriteBatch does. Required.
	Send func([]underlay.Message) (int, error)
	// SAD finds the inbound SA of a datagram; Config.Owner of its SAs is their
	// *Tunnel. Required.
	SAD *esp.SAD
	// Route returns the tunnel that leads to an inner destination, nil if none
	// does. It must not block. Required.
	Route func(dst netip.Addr) *Tunnel
	// Unrouted borrows a packet that Route has no tunnel for. Default: none.
	Unrouted func(pkt []byte)
	// Stray is told of datagrams of size bytes with an SPI that no SA has. It must not
	// block. Default: none.
	Stray func(spi uint32, from netip.AddrPort, size int)
	// MaxMTU is the largest MTU the interface will have, default 1500: slots are
	// that long.
	MaxMTU int
}

// Stats counts what a Datapath itself does and drops; sealing and opening count
// in esp.Stats. All fields only grow.
type Stats struct {
	QueueDrops atomic.Uint64 // a tunnel's queue was full
	NotIP      atomic.Uint64 // from the device, but no IP packet
	Unrouted   atomic.Uint64 // no tunnel leads there
	NoSA       atomic.Uint64 // the tunnel had no outbound SA
	Refused    atomic.Uint64 // Owner.Outbound or Owner.Inbound said no
	TooLong    atomic.Uint64 // longer than the tunnel's MTU, not to be fragmented
	TooBigSent atomic.Uint64 // ICMP errors made about them
	Fragmented atomic.Uint64 // inner packets cut
	Clamped    atomic.Uint64 // SYNs whose MSS was lowered
	Congestion atomic.Uint64 // marked on the way, inner packet not ECN-capable (RFC 6040)
	NotSent    atomic.Uint64 // the kernel refused the datagram
}

// Datapath conducts packets between one device, the SAs of any number of
// tunnels and one port. Make it with New.
type Datapath struct {
	// set at start
	cfg      Config
	maxInner int // longest packet a slot holds
	fewCores bool

	company company
	mem     pools
	stats   Stats
	workers sync.WaitGroup // tunnels' goroutines

	// ICMP errors, each kind by its own rate: whoever knocks on closed doors must
	// not keep others from learning their MTU.
	tooBigs, prohibits *rate.Limiter
}

// New returns a Datapath. It starts nothing.
func New(cfg Config) (*Datapath, error) {
	if cfg.Device == nil || cfg.Send == nil || cfg.SAD == nil || cfg.Route == nil {
		return nil, errors.New("datapath: Device, Send, SAD and Route are required")
	}
	if cfg.MaxMTU == 0 {
		cfg.MaxMTU = 1500
	}
	if cfg.MaxMTU < 0 || cfg.MaxMTU > tun.MaxMTU {
		return nil, fmt.Errorf("datapath: MaxMTU: %d, want 1 to %d", cfg.MaxMTU, tun.MaxMTU)
	}
	slot := max(slotSize, (esp.Headroom+cfg.MaxMTU+esp.Tailroom+255)&^255)
	d := &Datapath{
		cfg: cfg, maxInner: slot - esp.Headroom - esp.Tailroom, fewCores: runtime.GOMAXPROCS(0) <= fewCores,
		tooBigs: rate.NewLimiter(tooBigRate, tooBigRate), prohibits: rate.NewLimiter(prohibitRate, prohibitRate),
	}
	d.mem.init(slot)
	return d, nil
}

// Stats returns the live counters.
func (d *Datapath) Stats() *Stats { return &d.stats }

// Wait returns when no tunnel has a goroutine. Call it when nothing calls
// ReadLoop, Receive or Inject any more.
func (d *Datapath) Wait() { d.workers.Wait() }

// write gives packets to the device, from any goroutine.
func (d *Datapath) write(pkts [][]byte) {
	// The only error is that the device is closed: we are leaving.
	_, _ = d.cfg.Device.Write(pkts, 0)
}

// Prohibit tells the sender of pkt, who is on this side of the device, that it
// may not go where it wants: the owner calls it for what its rules refuse. It
// borrows pkt.
func (d *Datapath) Prohibit(pkt []byte, now time.Time) {
	if d.prohibits.AllowN(now, 1) {
		buf := make([]byte, ippkt.MaxError)
		d.answer(buf, ippkt.Prohibited(buf, pkt))
	}
}

// tooBig tells the sender of pkt what fits.
func (d *Datapath) tooBig(pkt []byte, mtu int, now time.Time) {
	if !d.tooBigs.AllowN(now, 1) {
		return
	}
	buf := make([]byte, ippkt.MaxError)
	if d.answer(buf, ippkt.TooBig(buf, pkt, mtu)) {
		d.stats.TooBigSent.Add(1)
	}
}

// answer writes the ICMP error of n bytes in buf to the device, if there is one.
func (d *Datapath) answer(buf []byte, n int) bool {
	if n > 0 {
		d.write([][]byte{buf[:n]})
	}
	return n > 0
}

// company tells whether one tunnel alone has traffic.
type company struct {
	last  atomic.Pointer[Tunnel]
	until atomic.Int64 // ns; before it, more than one had
}

// lone notes that t has traffic at now and says whether it has been the only one
// for some time.
func (c *company) lone(t *Tunnel, now int64) bool {
	if last := c.last.Load(); last != t {
		c.last.Store(t)
		if last != nil {
			c.until.Store(now + int64(companyTime))
		}
	}
	return now >= c.until.Load()
}
