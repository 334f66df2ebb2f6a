package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// DefaultPort is the port of UDP-encapsulated ESP (RFC 3948, Section 2.1).
const DefaultPort = 4500

const (
	// socketBuffer is asked for in both directions: 4 MiB hold 3 ms at
	// 10 Gbit/s, about what a scheduling hiccup costs. The kernel may give less.
	socketBuffer = 4 << 20

	// portTries bounds the search for a port that is free in both families when
	// the caller leaves the choice to the kernel.
	portTries = 16
)

var (
	// ErrNoFamily marks a message to an address family the Conn has no socket for.
	ErrNoFamily = errors.New("underlay: no socket for this address family")
	// ErrBadMessage marks a message without data or without a valid address, or
	// one that is a train.
	ErrBadMessage = errors.New("underlay: message without data or address, or a train")
	// ErrTooLong marks a datagram longer than UDP, or, where fragmentation is
	// off, the interface can carry. Nothing of it was sent.
	ErrTooLong = errors.New("underlay: datagram longer than the interface carries")
)

// PortInUseError says that another socket holds the port.
type PortInUseError struct {
	Port    uint16
	Network string // "udp4" or "udp6"
}

func (e *PortInUseError) Error() string {
	hint := ""
	if e.Port == DefaultPort {
		hint = " (another icvpn, or an IKE daemon such as strongSwan, uses this port too)"
	}
	return fmt.Sprintf("underlay: UDP port %d is already in use on this machine%s: stop the other program or choose another port", e.Port, hint)
}

// Conn is the socket pair. Make one with Listen.
type Conn struct {
	// set at start
	v4, v6  *socket // either may be nil
	port    uint16
	ipv6Err error

	closed atomic.Bool
	stats  Stats
}

// Listen opens the sockets. The unspecified or zero address of local listens
// on all addresses of both families; any other one only there. Port 0 takes a
// free port, the same in both families. Where IPv6 is not available the Conn
// serves IPv4 alone and IPv6Err says why.
//
// The sockets belong to the network namespace of the calling thread.
func Listen(ctx context.Context, local netip.AddrPort) (*Conn, error) {
	if a := local.Addr(); a.IsValid() && !a.IsUnspecified() {
		return listenOne(ctx, netip.AddrPortFrom(a.Unmap(), local.Port()))
	}
	for try := 1; ; try++ {
		c, err := listenPair(ctx, local.Port())
		var inUse *PortInUseError
		if local.Port() == 0 && errors.As(err, &inUse) && try < portTries {
			continue
		}
		return c, err
	}
}

// listenOne opens a Conn on a single address.
func listenOne(ctx context.Context, local netip.AddrPort) (*Conn, error) {
	c := &Conn{}
	s, err := openSocket(ctx, local, &c.stats)
	if err != nil {
		return nil, err
	}
	c.port = s.port
	if local.Addr().Is4() {
		c.v4, c.ipv6Err = s, ErrNoFamily
	} else {
		c.v6 = s
	}
	return c, nil
}

// listenPair opens both families on one port number.
func listenPair(ctx context.Context, port uint16) (*Conn, error) {
	c := &Conn{}
	var err error
	c.v4, err = openSocket(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), port), &c.stats)
	if err != nil {
		return nil, err
	}
	c.port = c.v4.port
	c.v6, err = openSocket(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), c.port), &c.stats)
	var inUse *PortInUseError
	if errors.As(err, &inUse) || ctx.Err() != nil {
		c.v4.conn.Close()
		return nil, err
	}
	c.ipv6Err = err // a kernel or container without IPv6 is no reason to stop
	return c, nil
}

// openSocket opens one socket and names a taken port.
func openSocket(ctx context.Context, local netip.AddrPort, stats *Stats) (*socket, error) {
	network := "udp4"
	if local.Addr().Is6() {
		network = "udp6"
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, network, local.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &PortInUseError{Port: local.Port(), Network: network}
	}
	if err != nil {
		return nil, fmt.Errorf("underlay: listen on UDP %v: %w", local, err)
	}
	s, err := newSocket(pc.(*net.UDPConn), network == "udp6", stats)
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("underlay: listen on UDP %v: %w", local, err)
	}
	return s, nil
}

// Port returns the port of both sockets.
func (c *Conn) Port() uint16 { return c.port }

// IPv6Err returns nil if the Conn serves IPv6, otherwise why it does not.
func (c *Conn) IPv6Err() error { return c.ipv6Err }

// Stats returns the live counters.
func (c *Conn) Stats() *Stats { return &c.stats }

// Readers returns one Reader per address family served. Each call makes new
// ones; use one set.
func (c *Conn) Readers() []Reader {
	var rs []Reader
	for _, s := range []*socket{c.v4, c.v6} {
		if s != nil {
			rs = append(rs, s.newReader())
		}
	}
	return rs
}

// SetDontFragment says what happens to datagrams that are too long for their
// path. Off, as after Listen: the kernel discovers path MTUs by ICMP and
// fragments. On: every datagram carries DF (IPv6: is never fragmented at its
// source), the kernel's path MTUs play no part, and what the interface cannot
// carry is refused with ErrTooLong; finding the path MTU is then the caller's
// task (RFC 8899). Systems that cannot say errors.ErrUnsupported.
func (c *Conn) SetDontFragment(on bool) error {
	for _, s := range []*socket{c.v4, c.v6} {
		if s == nil {
			continue
		}
		if err := s.setDontFragment(on); err != nil {
			return fmt.Errorf("underlay: turn fragmentation of outer packets off or on: %w", err)
		}
	}
	return nil
}

// WriteBatch sends every message of ms, in order within each address family,
// and returns how many the kernel took; Message.Err says why it refused one.
// It borrows ms, waits while the socket's buffer is full, and may be called
// from many goroutines at a time. The only error is net.ErrClosed.
//
// It is cheapest for runs of messages with one destination, one TOS and one
// length, of which the last may be shorter: those cross the network stack as
// one.
func (c *Conn) WriteBatch(ms []Message) (int, error) {
	sent := 0
	for len(ms) > 0 {
		run := runLength(ms)
		n, err := c.writeRun(ms[:run])
		sent += n
		if err != nil {
			return sent, err
		}
		ms = ms[run:]
	}
	return sent, nil
}

// writeRun sends messages of one family.
func (c *Conn) writeRun(ms []Message) (int, error) {
	s := c.v6
	if isV4(ms[0].Addr) {
		s = c.v4
	}
	if s != nil {
		return s.write(ms)
	}
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	for i := range ms {
		ms[i].Err = ErrNoFamily
		c.stats.WriteErrors.Add(1)
	}
	return 0, nil
}

// Close closes both sockets. Readers and writers return net.ErrClosed. It may
// be called more than once.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	var errs [2]error
	for i, s := range []*socket{c.v4, c.v6} {
		if s != nil {
			errs[i] = s.conn.Close()
		}
	}
	return errors.Join(errs[:]...)
}

// runLength returns how many messages at the front share a family.
func runLength(ms []Message) int {
	v4 := isV4(ms[0].Addr)
	n := 1
	for n < len(ms) && isV4(ms[n].Addr) == v4 {
		n++
	}
	return n
}

func isV4(a netip.AddrPort) bool { return a.Addr().Is4() || a.Addr().Is4In6() }

// valid reports whether m can be sent at all.
func (m *Message) valid() bool {
	return m.N > 0 && m.N <= len(m.Buf) && m.Addr.IsValid() && m.Addr.Port() != 0 && (m.Segment <= 0 || m.Segment >= m.N)
}
