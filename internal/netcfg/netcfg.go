package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrNoInterface: the named interface does not exist.
	ErrNoInterface = errors.New("no such interface")
	// ErrNotPermitted: the process lacks CAP_NET_ADMIN.
	ErrNotPermitted = errors.New("changing it needs the capability CAP_NET_ADMIN: run as root or once setcap cap_net_admin+ep on the binary")
	// ErrNoIPv6: this machine has IPv6 switched off. Apply returns it when all
	// the rest is done, so that a caller may carry on with IPv4.
	ErrNoIPv6 = errors.New("IPv6 is switched off on this machine (sysctl net.ipv6.conf.all.disable_ipv6, or the kernel lacks it)")
	// ErrUnsupported: this operating system is not supported.
	ErrUnsupported = errors.New("this operating system is not supported, use userspace mode")
)

// Interface is what Apply configures.
type Interface struct {
	// Name of an interface that exists.
	Name string
	// Addrs are its addresses with the length of the network they stand for:
	// /32 and /128, or the length of the service's prefix.
	Addrs []netip.Prefix
	// Routes are the prefixes reached through it. The first address of the
	// same family becomes the source of what this machine sends there.
	Routes []netip.Prefix
	// MTU of the interface; 0 leaves it.
	MTU int
}

// validate reports the field that is wrong.
func (i Interface) validate() error {
	if i.Name == "" {
		return errors.New("netcfg: Name: empty")
	}
	for field, list := range map[string][]netip.Prefix{"Addrs": i.Addrs, "Routes": i.Routes} {
		for _, p := range list {
			if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
				return fmt.Errorf("netcfg: %s: %v is not a prefix", field, p)
			}
		}
	}
	if i.MTU < 0 || i.MTU > 65535 {
		return fmt.Errorf("netcfg: MTU: %d, want 0 to 65535", i.MTU)
	}
	return nil
}

// source returns the first address of the family of to, or the zero Addr.
func (i Interface) source(to netip.Prefix) netip.Addr {
	for _, a := range i.Addrs {
		if a.Addr().Is4() == to.Addr().Is4() {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// CollisionError says that a prefix of the overlay overlaps a network that
// this machine already reaches another way.
type CollisionError struct {
	Prefix    netip.Prefix // of the overlay
	With      netip.Prefix // of this machine
	Interface string       // that leads to With; may be empty
}

func (e *CollisionError) Error() string {
	via := ""
	if e.Interface != "" {
		via = " on interface " + e.Interface
	}
	return fmt.Sprintf("netcfg: the address range %v collides with the local route to %v%s: choose another range for the service, or remove that route", e.Prefix, e.With, via)
}

// metadata are addresses at which clouds serve secrets to their machines; an
// endpoint there is an attempt to make us talk to them. 169.254.169.254, the
// usual one, is link-local and out for that.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

// Usable reports whether a may be the endpoint of a peer: a unicast address,
// not loopback, link-local or unspecified, no cloud's metadata service, and
// not inside the overlay itself, where it would wrap tunnels into tunnels.
func Usable(a netip.Addr, overlay []netip.Prefix) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.Zone() != "" { // excludes the rest of the list
		return false
	}
	for _, m := range metadata {
		if a == m {
			return false
		}
	}
	for _, p := range overlay {
		if p.Contains(a) {
			return false
		}
	}
	return !reserved4.Contains(a) && !thisNetwork.Contains(a)
}

var (
	reserved4   = netip.MustParsePrefix("240.0.0.0/4") // RFC 1112; holds the broadcast address
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")   // RFC 1122, Section 3.2.1.3
)
