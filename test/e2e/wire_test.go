//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"icvpn/internal/lab"
)

// TestNoClearText listens on the router while two machines join and talk: TCP is
// admission alone, everything else is ESP or sealed control in UDP, and what the
// machines say to each other is in none of it.
func TestNoClearText(t *testing.T) {
	w := newWorld(t, clouds)
	seen := &sniffer{peers: map[netip.Addr]bool{}, supers: map[netip.Addr]bool{}}
	for _, h := range w.lab.Hosts() {
		of := seen.peers
		if h.Name == "super-1" {
			of = seen.supers
		}
		of[h.Addr4], of[h.Addr6] = true, true
	}
	w.create("shop", []string{w.host("super-1").Addr4.String() + ":4500"})
	seen.secrets = [][]byte{[]byte(marker), w.token("shop", "member").Secret, []byte("web-1"), []byte("member"), []byte("icvpn1:")}
	capture, err := w.lab.Capture(seen.see)
	if err != nil {
		t.Fatal(err)
	}
	w.startSuper(0)
	web, app := w.join("web-1", "member"), w.join("app-2", "member")
	web.awaitPing("app-2")
	p, err := newPinger(web, web.addr4())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.ping(app.addr4(), 1, patience); err != nil {
		t.Error(err)
	}
	say(t, web, app, app.addr4())
	say(t, web, app, app.status().Address6)
	// Not beyond the leave: then the kernel sends what is left of open connections
	// wherever its routes lead.
	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}

	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, c := range seen.complaints {
		t.Error(c)
	}
	if seen.esp < 10 || seen.control < 10 || seen.admission < 10 || capture.Dropped() > 0 {
		t.Errorf("%d ESP, %d control, %d admission packets, %d not seen: too few to judge", seen.esp, seen.control, seen.admission, capture.Dropped())
	}
	t.Logf("%d ESP in UDP, %d sealed control, %d of admission's TCP", seen.esp, seen.control, seen.admission)
}

// say sends the marker there and back over TCP.
func say(t *testing.T, from, to *machine, addr netip.Addr) {
	t.Helper()
	l := listen(t, to, netip.AddrPortFrom(addr, requestPort+1))
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	c, err := from.host.DialTCP(t.Context(), netip.AddrPortFrom(addr, requestPort+1))
	if err != nil {
		t.Fatalf("%s: %v", from.name, err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, marker); err != nil {
		t.Fatalf("%s: %v", from.name, err)
	}
	echo := make([]byte, len(marker))
	if _, err := io.ReadFull(c, echo); err != nil || string(echo) != marker {
		t.Fatalf("%s: %q came back, %v", from.name, echo, err)
	}
}

// sniffer judges every packet that crosses the router.
type sniffer struct {
	peers, supers map[netip.Addr]bool

	mu                      sync.Mutex
	secrets                 [][]byte
	esp, control, admission int
	complaints              []string
}

const port = 4500

func (s *sniffer) see(p lab.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.secrets {
		if bytes.Contains(p.Data, secret) {
			s.complain("clear text: %q crosses the router", secret)
		}
	}
	from, to, payload, ok := p.UDP()
	switch {
	case ok && (from.Port() == port || to.Port() == port):
		s.datagram(from, to, payload)
	case isTCP(p.Data):
		s.segment(p.Data)
	case ok:
		s.complain("UDP from %v to %v", from, to)
	}
}

// datagram tells ESP from control (RFC 3948): between two peers both may be, to
// and from a super peer only control.
func (s *sniffer) datagram(from, to netip.AddrPort, b []byte) {
	switch {
	case len(b) == 1 && b[0] == 0xff: // keepalive
	case len(b) < 8:
		s.complain("%d bytes of UDP from %v to %v", len(b), from, to)
	case binary.BigEndian.Uint32(b) == 0:
		s.control++
	case !s.peers[from.Addr()] || !s.peers[to.Addr()]:
		s.complain("ESP from %v to %v", from, to)
	default:
		s.esp++
	}
}

// segment allows TCP only between a peer and a super peer's port.
func (s *sniffer) segment(ip []byte) {
	src, dst, sport, dport := tcpEnds(ip)
	if s.supers[dst] && dport == port || s.supers[src] && sport == port {
		s.admission++
		return
	}
	s.complain("TCP from %v:%d to %v:%d", src, sport, dst, dport)
}

func (s *sniffer) complain(format string, args ...any) {
	if len(s.complaints) < 10 {
		s.complaints = append(s.complaints, fmt.Sprintf(format, args...))
	}
}

func isTCP(ip []byte) bool {
	return len(ip) > 20 && (ip[0]>>4 == 4 && ip[9] == 6 || len(ip) > 40 && ip[0]>>4 == 6 && ip[6] == 6)
}

// tcpEnds reads a packet that isTCP.
func tcpEnds(ip []byte) (src, dst netip.Addr, sport, dport uint16) {
	header, at, size := 40, 8, 16
	if ip[0]>>4 == 4 {
		header, at, size = int(ip[0]&15)*4, 12, 4
	}
	src, _ = netip.AddrFromSlice(ip[at : at+size])
	dst, _ = netip.AddrFromSlice(ip[at+size : at+2*size])
	if len(ip) < header+4 {
		return src, dst, 0, 0
	}
	return src, dst, binary.BigEndian.Uint16(ip[header:]), binary.BigEndian.Uint16(ip[header+2:])
}

// TestKernelPing sends echo requests of the kernel's own stack through the tunnel
// interface, from a cold start: packets wait for the tunnel, none is lost.
func TestKernelPing(t *testing.T) {
	w := newService(t, 1)
	web, app := w.join("web-1", "member"), w.join("app-2", "member")
	p, err := newPinger(web, web.addr4())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for seq := range 20 {
		if err := p.ping(app.addr4(), seq, patience); err != nil {
			t.Fatalf("echo request %d: %v", seq, err)
		}
	}
	if p := tunnel(t, web, "app-2"); p.TxPackets < 20 || p.RxPackets < 20 {
		t.Errorf("%d packets out and %d in are counted, want 20 and more", p.TxPackets, p.RxPackets)
	}
}

// TestIPv6Inside reaches a machine under its IPv6 address, which is made from its
// identity, with ping and with TCP.
func TestIPv6Inside(t *testing.T) {
	w := newService(t, 1)
	requireIPv6(t, w)
	web, app := w.join("web-1", "member"), w.join("app-2", "member")
	addr := app.status().Address6
	if r := web.awaitPing(addr.String()); r.Address != addr || r.From != "app-2" {
		t.Errorf("answer of %s (%v), want app-2 (%v)", r.From, r.Address, addr)
	}
	say(t, web, app, addr)
	say(t, app, web, web.status().Address6)
}

// TestIPv6Outside runs everything where there is no IPv4 between the machines;
// inside there are both families all the same.
func TestIPv6Outside(t *testing.T) {
	w := newWorld(t, clouds)
	requireIPv6(t, w)
	for _, h := range w.lab.Hosts() {
		if err := h.Do(removeIPv4); err != nil {
			t.Fatal(err)
		}
	}
	w.create("shop", []string{netip.AddrPortFrom(w.host("super-1").Addr6, port).String(), netip.AddrPortFrom(w.host("super-2").Addr6, port).String()})
	w.startSuper(0)
	w.startSuper(1)
	web, app := w.join("web-1", "member"), w.join("app-2", "member")
	want := netip.AddrPortFrom(app.host.Addr6, port).String()
	if r := web.awaitPing("app-2"); r.Path != want {
		t.Errorf("the answer came over %s, want %s", r.Path, want)
	}
	say(t, web, app, app.addr4())
	say(t, web, app, app.status().Address6)
}

// removeIPv4 takes every IPv4 address but loopback's from a host.
func removeIPv4() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(eth0, netlink.FAMILY_V4)
	for i := range addrs {
		if err := netlink.AddrDel(eth0, &addrs[i]); err != nil {
			return err
		}
	}
	return err
}

func requireIPv6(t *testing.T, w *world) {
	t.Helper()
	if !w.lab.IPv6() {
		t.Skip("this kernel has no IPv6")
	}
}
