package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"icvpn/internal/ippkt"
)

const (
	protoICMP   = 1
	protoICMPv6 = 58
	ipv4Len     = 20
	ipv6Len     = 40
	cookieSize  = 16
)

// packet4 returns an IPv4 packet (RFC 791) around an ICMP message.
func packet4(src, dst netip.Addr, body []byte) []byte {
	b := make([]byte, ipv4Len, ipv4Len+len(body))
	b[0], b[8], b[9] = 0x45, 64, protoICMP
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Len+len(body)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, body...)
}

// packet6 returns an IPv6 packet (RFC 8200) around an ICMPv6 message.
func packet6(src, dst netip.Addr, body []byte) []byte {
	b := make([]byte, ipv6Len, ipv6Len+len(body))
	b[0], b[6], b[7] = 0x60, protoICMPv6, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, body...)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// echo returns an echo request from src to dst.
func echo(src, dst netip.Addr, id, seq int, data []byte) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq, Data: data}}
	if dst.Is4() {
		body, err := m.Marshal(nil)
		return packet4(src, dst, body), err
	}
	m.Type = ipv6.ICMPTypeEchoRequest
	body, err := m.Marshal(icmp.IPv6PseudoHeader(src.AsSlice(), dst.AsSlice()))
	return packet6(src, dst, body), err
}

// pings are the echo requests of `icvpn ping` that wait for an answer.
type pings struct {
	waiting atomic.Int32
	mu      sync.Mutex
	by      map[[cookieSize]byte]chan<- time.Time
}

// answer takes an echo reply that one of ours waits for. It is called for
// every inbound packet, so it looks at the first bytes only.
func (p *pings) answer(_ *tunnel, pkt []byte, now time.Time) bool {
	if p.waiting.Load() == 0 {
		return false
	}
	body, ok := echoReply(pkt)
	if !ok || len(body) < 8+cookieSize {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ch, ok := p.by[[cookieSize]byte(body[8:])]
	if !ok {
		return false
	}
	select {
	case ch <- now:
	default:
	}
	return true
}

// echoReply returns the ICMP message if pkt is an echo reply.
func echoReply(pkt []byte) ([]byte, bool) {
	switch {
	case len(pkt) > ipv4Len && pkt[0] == 0x45 && pkt[9] == protoICMP && pkt[ipv4Len] == 0:
		return pkt[ipv4Len:], true
	case len(pkt) > ipv6Len && pkt[0]>>4 == 6 && pkt[6] == protoICMPv6 && pkt[ipv6Len] == 129:
		return pkt[ipv6Len:], true
	}
	return nil, false
}

func (p *pings) register(cookie [cookieSize]byte, ch chan<- time.Time) (unregister func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[[cookieSize]byte]chan<- time.Time{}
	}
	p.by[cookie] = ch
	p.waiting.Add(1)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.by, cookie)
		p.waiting.Add(-1)
	}
}

// ping sends one echo request over the tunnel and waits for the answer. It is
// an ordinary inner packet: the peer's kernel answers, not its icvpn.
func (n *Node) ping(ctx context.Context, dst netip.Addr, seq int) (time.Duration, error) {
	var cookie [cookieSize]byte
	rand.Read(cookie[:])
	ch := make(chan time.Time, 1)
	defer n.pings.register(cookie, ch)()
	src := n.membership.Load().Credential.Addr4()
	if dst.Is6() {
		src = n.address6(n.self)
	}
	pkt, err := echo(src, dst, int(binary.BigEndian.Uint16(cookie[:])), seq, cookie[:])
	if err != nil {
		return 0, err
	}
	start := time.Now()
	n.path.Inject(pkt)
	select {
	case at := <-ch:
		return at.Sub(start), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// reject tells the sender on this machine that its packet goes nowhere, so that
// connect(2) fails at once and not after minutes. What this machine only
// forwards is dropped in silence. It borrows pkt.
func (n *Node) reject(pkt []byte) {
	if src, _, ok := ippkt.Endpoints(pkt); ok && n.isOwn(src) {
		n.path.Prohibit(pkt, time.Now())
	}
}
