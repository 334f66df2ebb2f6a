package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// Apply gives the interface its MTU, addresses and routes and takes it up.
// What it has beyond that stays.
func Apply(i Interface) error {
	if err := i.validate(); err != nil {
		return err
	}
	link, err := findLink(i.Name)
	if err != nil {
		return err
	}
	if i.MTU != 0 && link.Attrs().MTU != i.MTU {
		if err := netlink.LinkSetMTU(link, i.MTU); err != nil {
			return explain(i.Name, fmt.Sprintf("MTU %d", i.MTU), err)
		}
	}
	if i.Segments > 0 {
		_ = netlink.LinkSetGSOMaxSegs(link, i.Segments)
	}
	v6 := enableIPv6(i.Name)
	if v6 {
		// No link-local address made by the kernel: nothing on the overlay
		// answers router solicitations. Old kernels refuse, which is harmless.
		_ = netlink.LinkSetIP6AddrGenMode(link, addrGenModeNone)
	}
	if err := i.applyTo(link, v6); err != nil {
		return err
	}
	if !v6 && i.hasIPv6() {
		return fmt.Errorf("netcfg: interface %s has only its IPv4 addresses: %w", i.Name, ErrNoIPv6)
	}
	return nil
}

// applyTo sets addresses, link state and routes, in the order in which each
// needs the one before. Without v6 it leaves out what is IPv6.
func (i Interface) applyTo(link netlink.Link, v6 bool) error {
	for _, a := range i.Addrs {
		if a.Addr().Is6() && !v6 {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NOPREFIXROUTE}
		if a.Addr().Is6() {
			addr.Flags |= unix.IFA_F_NODAD // usable at once; the overlay knows no duplicates
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return explain(i.Name, "address "+a.String(), err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return explain(i.Name, "link state", err)
	}
	for _, to := range i.Routes {
		if to.Addr().Is6() && !v6 {
			continue
		}
		if err := netlink.RouteReplace(i.route(link, to)); err != nil {
			return explain(i.Name, "route to "+to.String(), err)
		}
		if err := netlink.RouteReplace(fence(to)); err != nil {
			return explain(i.Name, "unreachable route to "+to.String(), err)
		}
	}
	return nil
}

// fenceMetric is behind every route that anybody else makes.
var fenceMetric uint32 = 1<<32 - 2 // no constant: an int of 32 bits would not take it

// fence is what remains of a route when the interface is gone, however it went:
// "unreachable". Without it the kernel sends what open IPv6 connections of the
// overlay retransmit over the default route, in clear text.
func fence(to netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(to.Masked()), Type: unix.RTN_UNREACHABLE, Priority: int(fenceMetric), Protocol: unix.RTPROT_STATIC}
}

func (i Interface) route(link netlink.Link, to netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       ipNet(to.Masked()),
		Src:       i.source(to).AsSlice(),
		Scope:     netlink.SCOPE_LINK,
		Protocol:  unix.RTPROT_STATIC,
	}
}

func (i Interface) hasIPv6() bool {
	for _, p := range append(append([]netip.Prefix(nil), i.Addrs...), i.Routes...) {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

// RemoveAddrs takes addresses off the interface; those that are not there are
// no error.
func RemoveAddrs(name string, addrs []netip.Prefix) error {
	link, err := findLink(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range addrs {
		if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil && !isGone(err) {
			errs = append(errs, explain(name, "address "+a.String(), err))
		}
	}
	return errors.Join(errs...)
}

// isGone reports errors that mean there was nothing to remove. EAFNOSUPPORT
// and EOPNOTSUPP come from kernels without IPv6.
func isGone(err error) bool {
	for _, e := range []error{unix.ESRCH, unix.ENODEV, unix.ENOENT, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// findLink returns the interface of that name.
func findLink(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil, fmt.Errorf("netcfg: interface %s: %w", name, ErrNoInterface)
	}
	if err != nil {
		return nil, explain(name, "look up", err)
	}
	return link, nil
}

// explain makes a sentence of a netlink error.
func explain(name, what string, err error) error {
	if errors.Is(err, unix.EPERM) {
		err = ErrNotPermitted
	}
	return fmt.Errorf("netcfg: interface %s: %s: %w", name, what, err)
}

// enableIPv6 reports whether the interface can have IPv6 addresses. Where only
// the default for new interfaces is off, it turns ours on.
func enableIPv6(name string) bool {
	path := filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
	off, err := os.ReadFile(path)
	if err != nil {
		// The name is no directory there: no IPv6. Unreadable: try, and see.
		return !errors.Is(err, os.ErrNotExist)
	}
	return len(off) == 0 || off[0] == '0' || os.WriteFile(path, []byte("0"), 0) == nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefix is the reverse of ipNet. A nil network is a default route.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}
