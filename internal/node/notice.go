package node

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/datapath"
	"icvpn/internal/seal"
	"icvpn/keyex"
)

// Notices are the little that two ends of a tunnel say to each other beside
// traffic (docs/protocol/tunnel.md). They travel sealed under the group key and
// inside that under the tunnel's control key, so they prove who speaks:
//
//	SPI 4 ‖ nonce 24 ‖ XChaCha20-Poly1305(ctl, nonce, op 1 ‖ stamp 8 ‖ arg 2 ‖ arg endpoints, of a knock; AD = SPI)
//
// The stamp grows with every notice of a direction; an old one is a replay.
type noticeOp uint8

const (
	noticePing    noticeOp = 1 // answer with a pong
	noticePong    noticeOp = 2
	noticeDelete  noticeOp = 3 // the sender has erased this pair
	noticeArrived noticeOp = 4 // a dummy whose datagram had arg bytes has arrived
	noticeKnock   noticeOp = 5 // the sender is about to come directly from one of these endpoints
)

const (
	noticePlain = 1 + 8 + 2
	noticeSize  = 4 + chacha20poly1305.NonceSizeX + noticePlain + chacha20poly1305.Overhead
	// An endpoint is an IPv6 address, or an IPv4 address written as one, and a port.
	noticeEndpoint = 16 + 2
)

// sealNotice returns a notice for the holder of inbound SA spi. With endpoints arg is
// their number.
func sealNotice(key [32]byte, spi uint32, op noticeOp, stamp uint64, arg uint16, endpoints ...netip.AddrPort) []byte {
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("node: internal error: " + err.Error())
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, noticeSize+len(endpoints)*noticeEndpoint), spi)
	b = b[:4+chacha20poly1305.NonceSizeX]
	rand.Read(b[4:])
	plain := binary.BigEndian.AppendUint64([]byte{byte(op)}, stamp)
	plain = binary.BigEndian.AppendUint16(plain, arg)
	for _, e := range endpoints {
		ip := e.Addr().As16()
		plain = binary.BigEndian.AppendUint16(append(plain, ip[:]...), e.Port())
	}
	return aead.Seal(b, b[4:], plain, b[:4])
}

// isNotice says whether a payload has the length of a notice.
func isNotice(b []byte) bool {
	extra := len(b) - noticeSize
	return extra >= 0 && extra%noticeEndpoint == 0 && extra/noticeEndpoint <= keyex.MaxPaths
}

// openNotice reverses sealNotice.
func openNotice(key [32]byte, b []byte) (op noticeOp, stamp uint64, arg uint16, endpoints []netip.AddrPort, ok bool) {
	if !isNotice(b) {
		return 0, 0, 0, nil, false
	}
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("node: internal error: " + err.Error())
	}
	body := b[4+chacha20poly1305.NonceSizeX:]
	plain, err := aead.Open(nil, b[4:4+chacha20poly1305.NonceSizeX], body, b[:4])
	if err != nil {
		return 0, 0, 0, nil, false
	}
	op, stamp, arg = noticeOp(plain[0]), binary.BigEndian.Uint64(plain[1:]), binary.BigEndian.Uint16(plain[9:])
	for e := plain[noticePlain:]; len(e) > 0; e = e[noticeEndpoint:] {
		endpoints = append(endpoints, netip.AddrPortFrom(netip.AddrFrom16([16]byte(e)).Unmap(), binary.BigEndian.Uint16(e[16:])))
	}
	return op, stamp, arg, endpoints, op == noticeKnock && int(arg) == len(endpoints) || op != noticeKnock && endpoints == nil
}

// sendNotice sends a notice on a pair. Control loop only.
func (n *Node) sendNotice(t *tunnel, p *saPair, op noticeOp, arg uint16, endpoints ...netip.AddrPort) {
	p.stampOut = max(p.stampOut+1, uint64(time.Now().UnixNano()))
	b := sealNotice(p.result.CtlOut, p.out.SPI(), op, p.stampOut, arg, endpoints...)
	if err := n.port.SendControl(n.ring, seal.TypeProbe, seal.Newest, b, 0, p.path); err != nil {
		n.log.Debug("notice not sent", "peer", t.name(), "err", err)
	}
}

// onNotice handles a notice. Where one of a tunnel came from does not matter: only the
// holder of the control key can have made it.
func (n *Node) onNotice(b []byte, from netip.AddrPort) {
	if spi, ok := parseLost(b); ok {
		n.onLost(spi, from)
		return
	}
	if !isNotice(b) {
		n.stats.badNotices.Add(1)
		return
	}
	t, p := n.pairBySPI(binary.BigEndian.Uint32(b))
	if p == nil {
		n.stats.badNotices.Add(1)
		n.onStray(binary.BigEndian.Uint32(b), from, seal.Overhead+len(b))
		return
	}
	op, stamp, arg, endpoints, ok := openNotice(p.result.CtlIn, b)
	if !ok || stamp <= p.stampIn {
		n.stats.badNotices.Add(1)
		return
	}
	p.stampIn = stamp
	t.stats.lastRx.Store(time.Now().UnixNano())
	n.confirm(t, p)
	switch op {
	case noticePing:
		n.sendNotice(t, p, noticePong, 0)
	case noticeArrived:
		n.onArrived(t, int(arg))
	case noticeKnock:
		n.onKnock(t, p, endpoints)
	case noticeDelete:
		n.log.Info("tunnel deleted by the peer", "peer", t.name())
		n.removePair(t, p)
		t.endpoints = nil // it may come back elsewhere
	}
}

func (n *Node) pairBySPI(spi uint32) (*tunnel, *saPair) {
	sa := n.sad.BySPI(spi)
	if sa == nil {
		return nil, nil
	}
	way, _ := sa.Owner().(*datapath.Tunnel)
	if way == nil {
		return nil, nil
	}
	t := way.Owner().(*tunnel)
	for _, p := range t.pairs {
		if p.in == sa {
			return t, p
		}
	}
	return nil, nil
}
