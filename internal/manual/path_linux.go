package manual

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// pathTo asks the kernel about the way to an address: which of our addresses it
// starts from, and its MTU, which is that of the interface or, where routers
// complained by ICMP lately, a smaller one. No packet is sent.
func pathTo(ctx context.Context, from netip.Addr, to netip.AddrPort) (local netip.Addr, mtu int, err error) {
	var d net.Dialer
	if from.IsValid() && !from.IsUnspecified() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return local, 0, fmt.Errorf("manual: no route to %v: %w", to.Addr(), err)
	}
	defer c.Close()
	udp := c.(*net.UDPConn)
	local = udp.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	raw, err := udp.SyscallConn()
	if err != nil {
		return local, 0, err
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	cerr := raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) })
	if cerr != nil {
		return local, 0, cerr
	}
	if err != nil {
		return local, 0, fmt.Errorf("manual: path MTU to %v: %w", to.Addr(), err)
	}
	return local, mtu, nil
}
