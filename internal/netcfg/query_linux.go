package netcfg

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a listing is repeated that changed while it was read.
const dumpTries = 5

// Collides returns a *CollisionError if p overlaps a route or an address of
// this machine, in any routing table, other than those of the interface own
// (which need not exist); of several it names the widest. Default routes do
// not count, nor do routes that only refuse packets: the overlay's own route
// is more specific.
func Collides(p netip.Prefix, own string) error {
	taken, err := takenPrefixes(family(p.Addr()))
	if err != nil {
		return err
	}
	var worst *CollisionError
	for _, t := range taken {
		if own != "" && t.dev == own || !t.prefix.Overlaps(p) {
			continue
		}
		if worst == nil || t.prefix.Bits() < worst.With.Bits() {
			worst = &CollisionError{Prefix: p, With: t.prefix.Masked(), Interface: t.dev}
		}
	}
	if worst == nil {
		return nil // not worst itself: a nil pointer in an error is not nil
	}
	return worst
}

// taken is a prefix that this machine reaches through an interface.
type taken struct {
	prefix netip.Prefix
	dev    string
}

// takenPrefixes lists routes, and addresses too: an interface that is down has
// addresses and no routes, until it comes up.
func takenPrefixes(family int) ([]taken, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	routes, err := allRoutes(family)
	if err != nil {
		return nil, err
	}
	addrs, err := allAddrs()
	if err != nil {
		return nil, err
	}
	var list []taken
	for _, r := range routes {
		if p, ok := prefix(r.Dst); ok && !isDefault(p) && !refuses(r) {
			list = append(list, taken{p, names[outgoing(r)]})
		}
	}
	for _, a := range addrs {
		if p, ok := prefix(a.IPNet); ok {
			list = append(list, taken{p, names[a.LinkIndex]})
		}
	}
	return list, nil
}

// isDefault also takes the two halves of the address space for a default
// route, as VPNs set it.
func isDefault(p netip.Prefix) bool { return p.Bits() <= 1 }

func refuses(r netlink.Route) bool {
	switch r.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return true
	}
	return false
}

// outgoing returns the index of the interface that r uses, or its first one.
func outgoing(r netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

// Candidates returns the addresses under which others may reach this machine,
// best first: those of interfaces with a default route before others, public
// before private. It leaves out what is not Usable, the interface own, bridges
// without a default route (every container host has the same 172.17.0.1) and
// IPv6 addresses that are temporary, deprecated or not yet checked.
func Candidates(own string, overlay []netip.Prefix) ([]netip.Addr, error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("netcfg: list interfaces: %w", err)
	}
	addrs, err := allAddrs()
	if err != nil {
		return nil, err
	}
	uplinks, err := defaultLinks()
	if err != nil {
		return nil, err
	}
	offered := make(map[int]bool)
	for _, l := range links {
		a := l.Attrs()
		offered[a.Index] = a.Name != own && a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0 &&
			(l.Type() != "bridge" || uplinks[a.Index])
	}
	var found []candidate
	for _, a := range addrs {
		p, ok := prefix(a.IPNet)
		if ok && offered[a.LinkIndex] && !isFleeting(a, p.Addr()) && Usable(p.Addr(), overlay) {
			found = append(found, candidate{p.Addr(), uplinks[a.LinkIndex]})
		}
	}
	slices.SortFunc(found, candidate.compare)
	return addresses(found), nil
}

// candidate is an address with what decides its rank.
type candidate struct {
	addr   netip.Addr
	uplink bool // its interface has a default route
}

func (c candidate) compare(d candidate) int {
	return cmp.Or(
		first(c.uplink, d.uplink),
		first(!c.addr.IsPrivate(), !d.addr.IsPrivate()),
		c.addr.Compare(d.addr),
	)
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func addresses(found []candidate) []netip.Addr {
	out := make([]netip.Addr, len(found))
	for i, c := range found {
		out[i] = c.addr
	}
	return slices.Compact(out)
}

// isFleeting reports addresses not worth telling anybody. IFA_F_TEMPORARY
// means another thing for IPv4 (a second address of the same network).
func isFleeting(a netlink.Addr, ip netip.Addr) bool {
	const bad = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
	return ip.Is6() && a.Flags&bad != 0
}

// defaultLinks returns the indices of interfaces with a default route.
func defaultLinks() (map[int]bool, error) {
	uplinks := make(map[int]bool)
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := allRoutes(f)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			p, ok := prefix(r.Dst)
			if (!ok || p.Bits() == 0) && !refuses(r) {
				uplinks[outgoing(r)] = true
			}
		}
	}
	return uplinks, nil
}

func linkNames() (map[int]string, error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("netcfg: list interfaces: %w", err)
	}
	names := make(map[int]string)
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

func allAddrs() ([]netlink.Addr, error) {
	addrs, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("netcfg: list addresses: %w", err)
	}
	return addrs, nil
}

// allRoutes lists every table, policy routing's and the local one included.
func allRoutes(family int) ([]netlink.Route, error) {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := retry(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, every, netlink.RT_FILTER_TABLE)
	})
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("netcfg: list routes: %w", err)
	}
	return routes, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// retry repeats a listing that the kernel marks as inconsistent. After
// dumpTries it takes what it got: the rest is right.
func retry[T any](list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
		if try == dumpTries {
			return got, nil
		}
	}
}
