//go:build linux

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"icvpn/esp"
)

// specials are properties that one outer family shows as well as two, and that
// need SAs of their own.
var specials = []check{
	{"TFC >", padded(toKernel)}, {"TFC <", padded(toIcvpn)},
	{"wrap", wrap}, {"dummy >", dummy},
}

func specialPairings() (all []pairing) {
	for _, s := range esp.Suites() {
		all = append(all, pairing{suite: s, esn: true, outer: 4, window: 1024})
	}
	return all
}

func (r rig) specialRow(t *testing.T, p pairing, row *row) {
	if why, ok := r.without[p.outer]; ok {
		row.all(cellNotOffered, why)
		return
	}
	for i, c := range specials {
		// A test of its own, so that icvpn ends before the next begins.
		t.Run(c.column, func(t *testing.T) {
			row.do(t, i, func() error { return c.run(t, &ends{pairing: p, rig: r}) })
			r.wire.hook(toKernel, nil)
			r.wire.hook(toIcvpn, nil)
		})
	}
}

// withState adds to the commands that make the SA whose packets go in direction d.
func withState(commands string, d direction, options string) string {
	from := kernelOuter
	if d == toKernel {
		from = ourOuter
	}
	var b strings.Builder
	for line := range strings.Lines(commands) {
		if strings.HasPrefix(line, "xfrm state add src "+from[4].String()+" ") {
			line = strings.Replace(line, " encap ", " "+options+" encap ", 1)
		}
		b.WriteString(line)
	}
	return b.String()
}

// padded has one end pad its packets against traffic analysis (RFC 4303, Section
// 2.7): they are of one length, and the other end finds the packet in them.
func padded(d direction) func(*testing.T, *ends) error {
	return func(t *testing.T, e *ends) error {
		p := e.pairing
		if d == toKernel {
			p.pad = "mtu"
		}
		config := p.writeConfig(t, newKeys(p.suite), newKeys(p.suite))
		script := commands(t, e.binary, config)
		if d == toIcvpn {
			script = withState(script, toIcvpn, "tfcpad 1300")
		}
		if err := e.machine.install(script); err != nil {
			return err
		}
		startIcvpn(t, e.binary, config)
		var payloads [][]byte
		for _, n := range []int{1, 2, 3, 15, 16, 17, 100, 500, 1000, 1200} {
			payloads = append(payloads, random(n))
		}
		for _, family := range []int{4, 6} {
			var seen [][]byte
			e.wire.hook(d, record(&seen))
			if err := echoes(ourInner[family], kernelInner[family], payloads); err != nil {
				return err
			}
			e.wire.hook(d, nil)
			for _, packet := range seen {
				if len(packet) != len(seen[0]) || len(packet) < 1300 {
					return fmt.Errorf("IPv%d: packets of %d and %d bytes, which should be equally long", family, len(seen[0]), len(packet))
				}
			}
		}
		return nil
	}
}

// peer is package esp alone, without icvpn tunnel around it: with SAs that begin
// where a test wants them to.
type peer struct {
	conn *net.UDPConn
	out  *esp.Outbound
	in   *esp.Inbound
}

// meetBare makes a peer and the kernel's SAs. Both directions have already used
// all numbers up to last.
func (e *ends) meetBare(t *testing.T, last uint64) (*peer, error) {
	t.Helper()
	outKeys, inKeys := newKeys(e.suite), newKeys(e.suite)
	script := commands(t, e.binary, e.writeConfig(t, outKeys, inKeys))
	for _, d := range []direction{toKernel, toIcvpn} {
		side := "oseq"
		if d == toKernel {
			side = "seq"
		}
		script = withState(script, d, fmt.Sprintf("replay-%s %#x replay-%s-hi %#x", side, uint32(last), side, last>>32))
	}
	if err := e.machine.install(script); err != nil {
		return nil, err
	}
	c := esp.Config{
		SPI: spiOut, Suite: e.suite, Keys: outKeys.esp(e.suite), Window: e.window, LastSeq: last, Born: time.Now(),
		Limits: esp.Limits{Packets: 1 << 40},
	}
	p := &peer{}
	var err error
	if p.out, err = esp.NewOutbound(c); err != nil {
		return nil, err
	}
	c.SPI, c.Keys = spiIn, inKeys.esp(e.suite)
	if p.in, err = esp.NewInbound(c); err != nil {
		return nil, err
	}
	p.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: ourOuter[4].AsSlice(), Port: encapPort})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { p.conn.Close() })
	return p, nil
}

func (p *peer) send(packets []esp.Packet) error {
	to := netip.AddrPortFrom(kernelOuter[4], encapPort)
	for i := range packets {
		if packets[i].Drop != esp.DropNone {
			return fmt.Errorf("not sealed: %v", packets[i].Drop)
		}
		if _, err := p.conn.WriteToUDPAddrPort(packets[i].Bytes(), to); err != nil {
			return err
		}
	}
	return nil
}

// buffer is a packet's, with room for what goes around it.
func buffer(inner []byte) esp.Packet {
	b := make([]byte, esp.Headroom+len(inner)+esp.Tailroom)
	copy(b[esp.Headroom:], inner)
	return esp.Packet{Buf: b, Off: esp.Headroom, Len: len(inner)}
}

// echo sends one datagram through the SAs and returns the number under which its
// echo came back.
func (p *peer) echo(payload []byte) (seq uint64, err error) {
	from, to := inner()
	for range tries {
		packets := []esp.Packet{buffer(datagram(from, to, payload))}
		p.out.Seal(time.Now(), packets)
		if err := p.send(packets); err != nil {
			return 0, err
		}
		_ = p.conn.SetReadDeadline(time.Now().Add(lost))
		b := make([]byte, 1<<16)
		n, err := p.conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		} else if err != nil {
			return 0, err
		}
		answer := []esp.Packet{{Buf: b, Len: n}}
		p.in.Open(time.Now(), answer)
		if answer[0].Drop != esp.DropNone {
			return 0, fmt.Errorf("the echo does not open: %v", answer[0].Drop)
		}
		if !bytes.HasSuffix(answer[0].Bytes(), payload) {
			return 0, fmt.Errorf("another packet came back: %x", answer[0].Bytes())
		}
		return answer[0].Seq, nil
	}
	return 0, fmt.Errorf("no echo after number %#x", p.out.LastSeq())
}

// datagram is a UDP datagram to the echo port in IPv4, without a checksum of its
// own.
func datagram(from, to netip.Addr, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, 64, protocolUDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b[:20])))
	binary.BigEndian.PutUint16(b[20:], 40000)
	binary.BigEndian.PutUint16(b[22:], echoPort)
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
	return b
}

// wrap lets the low half of the sequence number, all that is on the wire, begin
// again in both directions: each end must infer the high half (RFC 4303, Appendix
// A). Not one packet may be refused.
func wrap(t *testing.T, e *ends) error {
	const before = 8
	for _, last := range []uint64{1<<32 - before, 7<<32 - before} {
		p, err := e.meetBare(t, last)
		if err != nil {
			return err
		}
		refused := e.machine.drops(t)
		var seq uint64
		for range 4 * before {
			if seq, err = p.echo(random(40)); err != nil {
				return fmt.Errorf("from %#x: %w", last, err)
			}
		}
		if refused = e.machine.drops(t).since(refused); refused.total() > 0 {
			return fmt.Errorf("from %#x: the kernel refused %v", last, refused)
		}
		if end := last + before; p.out.LastSeq() <= end || seq <= end {
			return fmt.Errorf("numbers %#x and %#x have not passed %#x", p.out.LastSeq(), seq, end)
		}
		p.conn.Close()
	}
	return nil
}

// dummy sends dummy packets (RFC 4303, Section 2.6): the kernel takes them for
// what they are, answers none, and the SA goes on.
func dummy(t *testing.T, e *ends) error {
	p, err := e.meetBare(t, 0)
	if err != nil {
		return err
	}
	if _, err := p.echo(random(40)); err != nil {
		return err
	}
	var seen [][]byte
	e.wire.hook(toIcvpn, record(&seen))
	for _, size := range []int{0, 1, 100, 1300} {
		packets := []esp.Packet{buffer(make([]byte, size))}
		p.out.SealDummy(time.Now(), packets, size)
		if err := p.send(packets); err != nil {
			return err
		}
	}
	payload := random(40)
	if _, err := p.echo(payload); err != nil {
		return fmt.Errorf("after dummies: %w", err)
	}
	e.wire.hook(toIcvpn, nil)
	if n := len(seen); n != 1 {
		return fmt.Errorf("%d answers to one packet after dummies", n)
	}
	return nil
}
