//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// rig is what all rows share: it takes its time to be made.
type rig struct {
	binary  string
	wire    *wire
	machine *machine
	without map[int]string // outer families the kernel cannot do, and why
}

// ends is one row at work.
type ends struct {
	pairing
	rig
	icvpn *icvpn
	mtu   int // of icvpn's interface
}

// check is one cell of a row. Those with a direction are run for both.
type check struct {
	column string
	run    func(t *testing.T, e *ends) error
}

// checks in the order in which they run.
var checks = []check{
	{"sizes 4", sizes(4)}, {"sizes 6", sizes(6)},
	{"frag 4", fragments(4)}, {"frag 6", fragments(6)},
	{"TCP 4", streams(4)}, {"TCP 6", streams(6)},
	{"replay >", replays(toKernel)}, {"replay <", replays(toIcvpn)},
	{"order >", reordered(toKernel)}, {"order <", reordered(toIcvpn)},
	{"stale", stale},
	{"forged >", forged(toKernel)}, {"forged <", forged(toIcvpn)},
	{"iperf3 >", throughput(false)}, {"iperf3 <", throughput(true)},
}

// TestKernel is the matrix, in one virtual machine.
func TestKernel(t *testing.T) {
	image := requireImage(t)
	began := time.Now()
	r := rig{binary: program(t), wire: newWire(t)}
	setUpUnderlay(t)
	r.machine = boot(t, image, r.wire)
	r.without = setUpKernel(t, r.machine)
	booted := time.Since(began).Round(time.Second)

	table := newTable(checks)
	for _, p := range pairings() {
		row := table.row(p)
		t.Run(p.String(), func(t *testing.T) {
			began := time.Now()
			defer func() { row.progress(time.Since(began)) }()
			r.row(t, p, row)
		})
	}
	special := newTable(specials)
	for _, p := range specialPairings() {
		row := special.row(p)
		t.Run("special/"+p.String(), func(t *testing.T) {
			began := time.Now()
			defer func() { row.progress(time.Since(began)) }()
			r.specialRow(t, p, row)
		})
	}

	out := os.Stdout
	fmt.Fprintf(out, "\nicvpn and Linux %s, %s (booted in %v):\n\n", r.machine.release, r.machine.accel, booted)
	table.write(out)
	fmt.Fprintln(out)
	special.write(out)
	fmt.Fprintf(out, "\n%d cells ok, %d failed, %d not offered by this kernel; %v in all\n",
		table.count(cellOK)+special.count(cellOK), table.count(cellFailed)+special.count(cellFailed),
		table.count(cellNotOffered)+special.count(cellNotOffered), time.Since(began).Round(time.Second))
}

// row sets both ends up and fills the row's cells.
func (r rig) row(t *testing.T, p pairing, row *row) {
	if why, ok := r.without[p.outer]; ok {
		row.all(cellNotOffered, why)
		return
	}
	e, err := r.meet(t, p)
	var no *notOffered
	switch {
	case errors.As(err, &no):
		row.all(cellNotOffered, no.why)
		return
	case err != nil:
		row.all(cellFailed, err.Error())
		t.Fatal(err)
	}
	for i, c := range checks {
		row.do(t, i, func() error { return c.run(t, e) })
		r.wire.hook(toKernel, nil)
		r.wire.hook(toIcvpn, nil)
	}
}

// meet sets both ends up.
func (r rig) meet(t *testing.T, p pairing) (*ends, error) {
	config := p.writeConfig(t, newKeys(p.suite), newKeys(p.suite))
	if err := r.machine.install(commands(t, r.binary, config)); err != nil {
		return nil, err
	}
	e := &ends{pairing: p, rig: r, icvpn: startIcvpn(t, r.binary, config)}
	i, err := net.InterfaceByName("icvpn0")
	if err != nil {
		return nil, err
	}
	e.mtu = i.MTU
	return e, nil
}

// udpRoom is how many bytes of data a UDP datagram of this family has in a
// packet.
func udpRoom(mtu, family int) int {
	if family == 6 {
		return mtu - ipv6Len - udpLen
	}
	return mtu - 20 - udpLen
}

// sizes sends a datagram of every size from 1 byte to what the tunnel carries
// whole, and wants them back, without any fragment on the way.
func sizes(family int) func(*testing.T, *ends) error {
	return func(_ *testing.T, e *ends) error {
		w := e.wire
		before := w.fragmented()
		w.longestESP(toKernel)
		w.longestESP(toIcvpn)
		if err := echoes(ourInner[family], kernelInner[family], everySize(udpRoom(e.mtu, family))); err != nil {
			return err
		}
		if n := w.fragmented() - before; n > 0 {
			return fmt.Errorf("%d fragments outside, although every packet fits", n)
		}
		// The MTU leaves no room for one more block of the cipher.
		for _, d := range []direction{toKernel, toIcvpn} {
			if n := w.longestESP(d); n > tapMTU || n <= tapMTU-16 {
				return fmt.Errorf("the longest packet from %v has %d bytes outside, on a path of %d", d, n, tapMTU)
			}
		}
		return nil
	}
}

// fragments sends datagrams that must be cut: to the kernel itself, and to a
// network behind it whose MTU is smaller, so that the kernel has fragments to
// seal. IPv6 needs the kernel's "packet too big" to come back through the tunnel.
func fragments(family int) func(*testing.T, *ends) error {
	return func(_ *testing.T, e *ends) error {
		var payloads [][]byte
		for _, n := range []int{e.mtu, 1500, 2 * e.mtu, 3000, 8000, 20000} {
			payloads = append(payloads, random(n))
		}
		if err := echoesWithin(lostOnPurpose, ourInner[family], kernelInner[family], payloads); err != nil {
			return err
		}
		before := e.wire.fragmented()
		if err := echoesWithin(lostOnPurpose, ourInner[family], lanInner[family], payloads); err != nil {
			return err
		}
		if n := e.wire.fragmented() - before; n > 0 {
			return fmt.Errorf("%d fragments outside, although the inner ones fit", n)
		}
		return nil
	}
}

// streams carries a TCP stream each way, to the kernel and to the network behind.
func streams(family int) func(*testing.T, *ends) error {
	return func(_ *testing.T, e *ends) error {
		return errors.Join(
			stream(ourInner[family], kernelInner[family]),
			stream(ourInner[family], lanInner[family]))
	}
}

// throughput has iperf3 load the tunnel. What arrived must have come through
// icvpn's interface, and under load neither end may refuse a packet.
func throughput(reverse bool) func(*testing.T, *ends) error {
	return func(t *testing.T, e *ends) error {
		family := 4
		if !e.esn {
			family = 6
		}
		kernelBefore, icvpnBefore := e.machine.drops(t), e.icvpn.drops(t)
		in, out, err := interfaceBytes("icvpn0")
		if err != nil {
			return err
		}
		received, err := iperf(ourInner[family], kernelInner[family], reverse)
		if err != nil {
			return err
		}
		inAfter, outAfter, err := interfaceBytes("icvpn0")
		if err != nil {
			return err
		}
		carried := outAfter - out
		if reverse {
			carried = inAfter - in
		}
		if carried < received {
			return fmt.Errorf("iperf3 received %d bytes, of which the tunnel carried %d", received, carried)
		}
		if d := e.machine.drops(t).since(kernelBefore); d.total() > 0 {
			return fmt.Errorf("the kernel refused packets under load: %v", d)
		}
		if d := e.icvpn.drops(t).since(icvpnBefore); d.total() > 0 {
			return fmt.Errorf("icvpn refused packets under load: %v", d)
		}
		return nil
	}
}

// inner are the addresses of small probes.
func inner() (from, to netip.Addr) { return ourInner[4], kernelInner[4] }
