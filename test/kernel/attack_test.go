//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// drops returns the counters of the end that a direction leads to.
func (e *ends) drops(t *testing.T, d direction) counters {
	t.Helper()
	if d == toKernel {
		return e.machine.drops(t)
	}
	return e.icvpn.drops(t)
}

// replayed is how the receiver names a number that it has seen.
func replayed(d direction) string {
	if d == toKernel {
		return "XfrmInStateSeqError"
	}
	return "replay"
}

// outrun is how the receiver names a number left of its window. With extended
// numbers that is one of the next 2^32, whose high half is in the ICV: nobody has
// sent it (RFC 4303, Appendix A2.1).
func outrun(d direction, esn bool) string {
	switch {
	case !esn:
		return replayed(d)
	case d == toKernel:
		return forgedKernel[0]
	}
	return forgedIcvpn[0]
}

// awaitDrops waits until the receiver has refused n packets since before, and
// wants them all to be for one of the reasons.
func (e *ends) awaitDrops(t *testing.T, d direction, before counters, n int, reasons ...string) error {
	t.Helper()
	var seen counters
	eventually(func() bool {
		seen = e.drops(t, d).since(before)
		return seen.total() >= n
	})
	right := 0
	for _, r := range reasons {
		right += seen[r]
	}
	if right != n || seen.total() != n {
		return fmt.Errorf("%v: of %d packets the receiver refused %v, which should be %v", d, n, seen, reasons)
	}
	return nil
}

// replays sends recorded packets again, and every packet twice: each is delivered
// once, the copy counted.
func replays(d direction) func(*testing.T, *ends) error {
	return func(t *testing.T, e *ends) error {
		const packets = 16
		from, to := inner()
		var seen [][]byte
		e.wire.hook(d, record(&seen))
		if err := echoes(from, to, probes(packets)); err != nil {
			return err
		}
		e.wire.hook(d, nil)

		before, answers := e.drops(t, d), e.wire.sent(toIcvpn)
		for _, p := range seen {
			e.wire.inject(d, p)
		}
		if err := e.awaitDrops(t, d, before, len(seen), replayed(d)); err != nil {
			return fmt.Errorf("sent again: %w", err)
		}
		if n := e.wire.sent(toIcvpn) - answers; n != 0 {
			return fmt.Errorf("%d packets sent again were answered", n)
		}

		before, answers = e.drops(t, d), e.wire.sent(d)
		e.wire.hook(d, func(esp []byte) [][]byte { return [][]byte{esp, esp} })
		if err := echoes(from, to, probes(packets)); err != nil {
			return fmt.Errorf("sent twice: %w", err)
		}
		e.wire.hook(d, nil)
		if err := e.awaitDrops(t, d, before, e.wire.sent(d)-answers, replayed(d)); err != nil {
			return fmt.Errorf("sent twice: %w", err)
		}
		return nil
	}
}

// reordered turns the order of packets around, within the window: nothing may be
// refused.
func reordered(d direction) func(*testing.T, *ends) error {
	return func(t *testing.T, e *ends) error {
		const group = 8
		from, to := inner()
		before := e.drops(t, d)
		var held [][]byte
		e.wire.hook(d, func(esp []byte) [][]byte {
			if held = append(held, slices.Clone(esp)); len(held) < group {
				return nil
			}
			out := held
			held = nil
			slices.Reverse(out)
			return out
		})
		if err := echoes(from, to, probes(8*group)); err != nil {
			return err
		}
		if refused := e.drops(t, d).since(before); refused.total() > 0 {
			return fmt.Errorf("%v: refused only because of the order: %v", d, refused)
		}
		return nil
	}
}

// stale holds one packet of each direction back until the receiver's window has
// moved past it.
func stale(t *testing.T, e *ends) error {
	from, to := inner()
	var held [2][]byte
	for _, d := range []direction{toKernel, toIcvpn} {
		var err error
		if held[d], err = e.holdBack(d, from, to); err != nil {
			return err
		}
	}
	if err := echoes(from, to, probes(e.window+64)); err != nil {
		return err
	}
	var errs []error
	for _, d := range []direction{toKernel, toIcvpn} {
		before := e.drops(t, d)
		e.wire.inject(d, held[d])
		errs = append(errs, e.awaitDrops(t, d, before, 1, outrun(d, e.esn)))
	}
	return errors.Join(errs...)
}

// holdBack takes one packet off the wire.
func (e *ends) holdBack(d direction, from, to netip.Addr) (esp []byte, err error) {
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: to.AsSlice(), Port: echoPort})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	taken := make(chan []byte, 1)
	e.wire.hook(d, once(func(esp []byte) [][]byte {
		taken <- slices.Clone(esp)
		return nil
	}))
	defer e.wire.hook(d, nil)
	if _, err := conn.Write(probe(0)); err != nil {
		return nil, err
	}
	select {
	case esp = <-taken:
		return esp, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("%v: no packet to hold back", d)
	}
}

// falsification is what somebody on the path does to a packet.
type falsification struct {
	name   string
	change func(e *ends, esp []byte) []byte
	kernel []string // reasons, any of them; none: silence
	icvpn  []string
}

// flip changes one bit of a byte.
func flip(at func(e *ends, n int) int) func(*ends, []byte) []byte {
	return func(e *ends, esp []byte) []byte {
		esp[at(e, len(esp))] ^= 0x10
		return esp
	}
}

// ivLen is what the suite's explicit IV takes.
func (e *ends) ivLen() int {
	if e.suite.AEAD() {
		return 8
	}
	return 16
}

// How the ends name what fails the ICV, and what is too short or not whole blocks.
var (
	forgedKernel   = []string{"XfrmInStateProtoError"}
	forgedIcvpn    = []string{"auth"}
	brokenKernel   = []string{"XfrmInStateProtoError", "XfrmInHdrError"}
	brokenIcvpn    = []string{"auth", "misaligned", "too_short"}
	falsifications = []falsification{
		{"another SPI", flip(func(*ends, int) int { return 1 }), []string{"XfrmInNoStates"}, []string{"unknown_spi"}},
		{"a sequence number in front of the window", func(_ *ends, esp []byte) []byte {
			binary.BigEndian.PutUint32(esp[4:], binary.BigEndian.Uint32(esp[4:])+1<<20)
			return esp
		}, forgedKernel, forgedIcvpn},
		{"a bit of the IV", flip(func(*ends, int) int { return 8 }), forgedKernel, forgedIcvpn},
		{"a bit of the first block", flip(func(e *ends, _ int) int { return 8 + e.ivLen() }), forgedKernel, forgedIcvpn},
		{"a bit of the ICV", flip(func(_ *ends, n int) int { return n - 1 }), forgedKernel, forgedIcvpn},
		{"the ICV's first byte", flip(func(e *ends, n int) int { return n - e.icvLen() }), forgedKernel, forgedIcvpn},
		{"one byte less", func(_ *ends, esp []byte) []byte { return esp[:len(esp)-1] }, brokenKernel, brokenIcvpn},
		{"one block less", func(e *ends, esp []byte) []byte { return esp[:len(esp)-16] }, forgedKernel, forgedIcvpn},
		{"one block more", func(_ *ends, esp []byte) []byte { return append(slices.Clone(esp), make([]byte, 16)...) }, forgedKernel, forgedIcvpn},
		{"40 bytes of it", func(_ *ends, esp []byte) []byte { return esp[:40] }, brokenKernel, brokenIcvpn},
		// The kernel does not count what is shorter than an IP header.
		{"12 bytes of it", func(_ *ends, esp []byte) []byte { return esp[:12] }, nil, brokenIcvpn},
	}
)

func (e *ends) icvLen() int {
	if e.suite.KeySizes().Int == 64 {
		return 32
	}
	return 16
}

// forged changes packets on their way: none is delivered, each is counted for
// what is wrong with it, and the next true packet passes.
func forged(d direction) func(*testing.T, *ends) error {
	return func(t *testing.T, e *ends) error {
		var errs []error
		for _, f := range falsifications {
			if err := e.forge(t, d, f); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
			}
		}
		return errors.Join(errs...)
	}
}

func (e *ends) forge(t *testing.T, d direction, f falsification) error {
	t.Helper()
	from, to := inner()
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: to.AsSlice(), Port: echoPort})
	if err != nil {
		return err
	}
	defer conn.Close()
	reasons := f.icvpn
	if d == toKernel {
		reasons = f.kernel
	}
	before := e.drops(t, d)
	e.wire.hook(d, once(func(esp []byte) [][]byte { return [][]byte{f.change(e, slices.Clone(esp))} }))
	if _, err := conn.Write(probe(1)); err != nil {
		return err
	}
	if reasons != nil {
		if err := e.awaitDrops(t, d, before, 1, reasons...); err != nil {
			return err
		}
	}
	// Now one that passes; had the other been delivered, its echo would be first.
	if _, err := conn.Write(probe(2)); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1<<16)
	switch _, err := conn.Read(b); {
	case err != nil:
		return fmt.Errorf("after it nothing passes any more: %w", err)
	case binary.BigEndian.Uint32(b) != 2:
		return errors.New("the falsified packet was delivered")
	}
	return nil
}

// probes are n small datagrams.
func probes(n int) (all [][]byte) {
	for i := range n {
		all = append(all, probe(uint32(i)))
	}
	return all
}
