//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/internal/port"
	"icvpn/internal/underlay"
)

// latency is one way, as between zones of one provider's region.
const latency = time.Millisecond

// Queues of a host. The receive buffer that a peer asks of the kernel holds some
// 3000 datagrams; 1024 of them are enough and hold less memory.
const (
	peerQueue  = 1024
	superQueue = 8192
)

// maxDatagram is the longest datagram that fits the path: 1500 bytes less IPv4
// and UDP headers.
const (
	headers     = 28
	maxDatagram = 1500 - headers
)

// network joins hosts in memory: every datagram arrives after latency, in the
// order of sending, unless its queue is full or a partition lies between. It
// holds less memory for a host than simnet, which models loss and jitter, so
// that what is left is the peer's.
type network struct {
	mu    sync.Mutex // guards what follows
	hosts map[netip.Addr]*host
	queue []flight
	wake  chan struct{} // capacity 1
	parts map[netip.Addr]int
}

// flight is a datagram under way.
type flight struct {
	due  time.Time
	from netip.AddrPort
	to   *host
	tos  uint8
	n    int
	data *[maxDatagram]byte
}

var buffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// host is one machine's UDP socket. It implements port.Conn and
// underlay.Reader.
type host struct {
	net   *network
	addr  netip.AddrPort
	inbox chan flight
	done  chan struct{}
	once  sync.Once

	// bytes count UDP payload and headers, both directions.
	sent, received, bytes, lost atomic.Uint64
}

var (
	_ port.Conn       = (*host)(nil)
	_ underlay.Reader = (*host)(nil)
)

func newNetwork() *network {
	return &network{hosts: map[netip.Addr]*host{}, wake: make(chan struct{}, 1), parts: map[netip.Addr]int{}}
}

// attach makes a host. It must not exist.
func (n *network) attach(addr netip.AddrPort, queue int) *host {
	h := &host{net: n, addr: addr, inbox: make(chan flight, queue), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr.Addr()] = h
	return h
}

// part puts addresses into a part of the network that reaches only itself. All
// begin in part 0.
func (n *network) part(which int, addrs ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		n.parts[a] = which
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.parts)
}

// connected says whether no partition lies between two addresses.
func (n *network) connected(a, b netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.parts[a] == n.parts[b]
}

// deliverLoop hands datagrams over when they are due: all have the same
// latency, so the queue is in order.
func (n *network) deliverLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch []flight
	for {
		var wait time.Duration
		batch, wait = n.due(batch[:0])
		for i := range batch {
			batch[i].to.put(batch[i])
		}
		clear(batch)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.wake:
		}
	}
}

// due takes what has arrived, and says how long it is until the next does.
func (n *network) due(batch []flight) ([]flight, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, i := time.Now(), 0
	for ; i < len(n.queue) && !n.queue[i].due.After(now); i++ {
		batch = append(batch, n.queue[i])
	}
	rest := copy(n.queue, n.queue[i:])
	clear(n.queue[rest:])
	n.queue = n.queue[:rest]
	if rest == 0 {
		return batch, time.Hour
	}
	return batch, n.queue[0].due.Sub(now)
}

func (h *host) send(m *underlay.Message) error {
	if m.N > maxDatagram {
		return underlay.ErrTooLong
	}
	h.sent.Add(1)
	h.bytes.Add(uint64(m.N + headers))
	n := h.net
	n.mu.Lock()
	to := n.hosts[m.Addr.Addr().Unmap()]
	if to == nil || to.addr.Port() != m.Addr.Port() || n.parts[h.addr.Addr()] != n.parts[to.addr.Addr()] {
		n.mu.Unlock()
		return nil // lost, as on a real path
	}
	b := buffers.Get().(*[maxDatagram]byte)
	copy(b[:], m.Buf[:m.N])
	n.queue = append(n.queue, flight{due: time.Now().Add(latency), from: h.addr, to: to, tos: m.TOS, n: m.N, data: b})
	first := len(n.queue) == 1
	n.mu.Unlock()
	if first {
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func (h *host) put(f flight) {
	select {
	case h.inbox <- f:
	default:
		h.lost.Add(1)
		buffers.Put(f.data)
	}
}

// Readers implements port.Conn.
func (h *host) Readers() []underlay.Reader { return []underlay.Reader{h} }

// Port implements port.Conn.
func (h *host) Port() uint16 { return h.addr.Port() }

// WriteBatch implements port.Conn.
func (h *host) WriteBatch(ms []underlay.Message) (sent int, err error) {
	select {
	case <-h.done:
		return 0, net.ErrClosed
	default:
	}
	for i := range ms {
		if ms[i].Err = h.send(&ms[i]); ms[i].Err == nil {
			sent++
		}
	}
	return sent, nil
}

// ReadBatch implements underlay.Reader.
func (h *host) ReadBatch(ms []underlay.Message) (int, error) {
	select {
	case <-h.done:
		return 0, net.ErrClosed
	case f := <-h.inbox:
		h.take(&ms[0], f)
	}
	for i := 1; i < len(ms); i++ {
		select {
		case f := <-h.inbox:
			h.take(&ms[i], f)
		default:
			return i, nil
		}
	}
	return len(ms), nil
}

func (h *host) take(m *underlay.Message, f flight) {
	m.N, m.Segment, m.Addr, m.TOS = copy(m.Buf, f.data[:f.n]), 0, f.from, f.tos
	buffers.Put(f.data)
	h.received.Add(1)
	h.bytes.Add(uint64(f.n + headers))
}

// Close implements port.Conn: the machine is off the network.
func (h *host) Close() error {
	h.once.Do(func() {
		h.net.mu.Lock()
		defer h.net.mu.Unlock()
		if h.net.hosts[h.addr.Addr()] == h {
			delete(h.net.hosts, h.addr.Addr())
		}
		close(h.done)
	})
	return nil
}

// listener accepts connections in memory.
type listener struct {
	addr   netip.AddrPort
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener(addr netip.AddrPort) *listener {
	return &listener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

var errRefused = errors.New("connection refused")

// dial connects from an address, whose port means nothing.
func (l *listener) dial(ctx context.Context, from netip.Addr) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- remote{far, net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 40000))}:
		return near, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errRefused}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// remote gives a pipe the remote address of a TCP connection.
type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }
