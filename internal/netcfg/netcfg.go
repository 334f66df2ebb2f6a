package netcfg

import (
	"errors"
	"fmt"
	"net/netip"

	"icvpn/internal/service"
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
	ErrUnsupported = errors.New("this operating system is not supported: run icvpn on Linux")
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
	// Segments is of how many packets a super-packet of the kernel's TCP may be
	// made up; 0 leaves it. It makes things faster only, so a kernel that refuses is
	// no error.
	Segments int
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

// Usable reports whether a may be the endpoint of a peer: a unicast address,
// not loopback, link-local or unspecified, no cloud's metadata service, and
// not inside the overlay itself, where it would wrap tunnels into tunnels.
func Usable(a netip.Addr, overlay []netip.Prefix) bool {
	for _, p := range overlay {
		if p.Contains(a.Unmap()) {
			return false
		}
	}
	return service.UsableAddr(a.Unmap())
}
