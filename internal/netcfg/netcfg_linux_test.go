package netcfg_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
	"icvpn/internal/netcfg"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// inHost runs fn in a fresh host with a dummy-like interface icvpn0 (a veth,
// which every kernel has).
func inHost(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	l := labtest.New(t, lab.Config{Clouds: []lab.Cloud{{Name: "one", Hosts: []string{"a"}}}})
	err := l.Host("a").Do(func() error {
		addLink(t, "icvpn0")
		fn(t)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// addLink makes an interface that is down.
func addLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-far"}); err != nil {
		t.Errorf("make %s: %v", name, err)
		runtime.Goexit()
	}
	for _, n := range []string{name, name + "-far"} {
		link, err := netlink.LinkByName(n)
		if err != nil {
			t.Error(err)
			runtime.Goexit()
		}
		_ = netlink.LinkSetIP6AddrGenMode(link, 1)
	}
	far, _ := netlink.LinkByName(name + "-far")
	_ = netlink.LinkSetUp(far)
	link, _ := netlink.LinkByName(name)
	return link
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var service = netcfg.Interface{
	Name:   "icvpn0",
	Addrs:  prefixes("10.42.0.5/32", "fd42::5/128"),
	Routes: prefixes("10.42.0.0/16", "fd42::/48"),
	MTU:    1380,

	Segments: 45,
}

// state returns addresses and routes of an interface as text.
func state(t *testing.T, name string) (addrs, routes []string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	as, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Error(err)
	}
	for _, a := range as {
		addrs = append(addrs, a.IPNet.String())
	}
	rs, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Error(err)
	}
	for _, r := range rs {
		routes = append(routes, r.Dst.String()+" src "+r.Src.String())
	}
	slices.Sort(addrs)
	slices.Sort(routes)
	return addrs, routes
}

func TestApplyBoundsSuperPackets(t *testing.T) {
	inHost(t, func(t *testing.T) {
		if err := netcfg.Apply(service); err != nil {
			t.Error(err)
		}
		link, err := netlink.LinkByName("icvpn0")
		if err != nil || link.Attrs().GSOMaxSegs != uint32(service.Segments) {
			t.Errorf("%d segments in a super-packet, want %d (%v)", link.Attrs().GSOMaxSegs, service.Segments, err)
		}
	})
}

func TestApplyAndRemoveAddrsMayBeRepeated(t *testing.T) {
	inHost(t, func(t *testing.T) {
		for range 2 {
			if err := netcfg.Apply(service); err != nil {
				t.Error(err)
			}
			addrs, routes := state(t, "icvpn0")
			if want := []string{"10.42.0.5/32", "fd42::5/128"}; !slices.Equal(addrs, want) {
				t.Errorf("addresses %v, want %v", addrs, want)
			}
			// The kernel lists the route of a /128 address too, whatever the flags.
			for _, want := range []string{"10.42.0.0/16 src 10.42.0.5", "fd42::/48 src fd42::5"} {
				if !slices.Contains(routes, want) {
					t.Errorf("routes %v lack %s", routes, want)
				}
			}
			link, err := netlink.LinkByName("icvpn0")
			if err != nil || link.Attrs().MTU != 1380 || link.Attrs().Flags&net.FlagUp == 0 {
				t.Errorf("%v, %v", link.Attrs(), err)
			}
		}
		for range 2 {
			if err := netcfg.RemoveAddrs("icvpn0", prefixes("10.42.0.5/32")); err != nil {
				t.Error(err)
			}
			if addrs, _ := state(t, "icvpn0"); !slices.Equal(addrs, []string{"fd42::5/128"}) {
				t.Errorf("left: addresses %v", addrs)
			}
		}
		if addrs, _ := state(t, "eth0"); len(addrs) == 0 {
			t.Error("another interface lost its addresses")
		}
	})
}

func TestApplyRoutesTheOverlayThroughTheInterface(t *testing.T) {
	inHost(t, func(t *testing.T) {
		if err := netcfg.Apply(service); err != nil {
			t.Error(err)
		}
		for to, from := range map[string]string{"10.42.200.1": "10.42.0.5", "fd42::99": "fd42::5"} {
			routes, err := netlink.RouteGet(net.ParseIP(to))
			if err != nil || len(routes) != 1 || routes[0].Src.String() != from {
				t.Errorf("to %s: %v, %v; want source %s", to, routes, err, from)
			}
		}
	})
}

func TestApplyWithTheServicesPrefixLength(t *testing.T) {
	inHost(t, func(t *testing.T) {
		i := netcfg.Interface{Name: "icvpn0", Addrs: prefixes("10.42.0.5/16"), Routes: prefixes("10.42.0.0/16")}
		if err := netcfg.Apply(i); err != nil {
			t.Error(err)
		}
		if _, routes := state(t, "icvpn0"); !slices.Equal(routes, []string{"10.42.0.0/16 src 10.42.0.5"}) {
			t.Errorf("routes %v", routes)
		}
	})
}

func TestApplyExplains(t *testing.T) {
	inHost(t, func(t *testing.T) {
		missing := service
		missing.Name = "nothere"
		if err := netcfg.Apply(missing); !errors.Is(err, netcfg.ErrNoInterface) || !strings.Contains(err.Error(), "nothere") {
			t.Errorf("missing interface: %v", err)
		}
		if err := netcfg.RemoveAddrs("nothere", prefixes("10.42.0.5/32")); !errors.Is(err, netcfg.ErrNoInterface) {
			t.Errorf("removing from a missing interface: %v", err)
		}
		bad := service
		bad.MTU = 60 // less than IPv4 needs
		if err := netcfg.Apply(bad); err == nil || !strings.Contains(err.Error(), "icvpn0: MTU 60") {
			t.Errorf("MTU the kernel refuses: %v", err)
		}
	})
}

func TestApplyWithoutIPv6DoesTheRest(t *testing.T) {
	inHost(t, func(t *testing.T) {
		// The kernel takes IPv6 away from an interface with an MTU below 1280:
		// as if it had none at all.
		link, err := netlink.LinkByName("icvpn0")
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.LinkSetMTU(link, 1000); err != nil {
			t.Error(err)
		}
		i := service
		i.MTU = 0
		if err := netcfg.Apply(i); !errors.Is(err, netcfg.ErrNoIPv6) {
			t.Errorf("got %v, want ErrNoIPv6", err)
		}
		addrs, routes := state(t, "icvpn0")
		if !slices.Equal(addrs, []string{"10.42.0.5/32"}) || !slices.Equal(routes, []string{"10.42.0.0/16 src 10.42.0.5"}) {
			t.Errorf("addresses %v, routes %v", addrs, routes)
		}
	})
}

func TestApplyTurnsIPv6OnForItsInterface(t *testing.T) {
	inHost(t, func(t *testing.T) {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/icvpn0/disable_ipv6", []byte("1"), 0); err != nil {
			t.Error(err)
		}
		if err := netcfg.Apply(service); err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutCapabilityTheErrorNamesTheWaysOut(t *testing.T) {
	inHost(t, func(t *testing.T) {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var had, none [2]unix.CapUserData
		if err := unix.Capget(&hdr, &had[0]); err != nil {
			t.Error(err)
		}
		none[0].Permitted, none[1].Permitted = had[0].Permitted, had[1].Permitted
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			t.Error(err)
		}
		err := netcfg.Apply(service)
		if capErr := unix.Capset(&hdr, &had[0]); capErr != nil {
			t.Error(capErr)
		}
		if !errors.Is(err, netcfg.ErrNotPermitted) || !strings.Contains(err.Error(), "setcap") {
			t.Errorf("got %v", err)
		}
	})
}

// collides asserts what Collides finds.
func collides(t *testing.T, p, own, with, on string) {
	t.Helper()
	err := netcfg.Collides(netip.MustParsePrefix(p), own)
	var ce *netcfg.CollisionError
	switch {
	case with == "" && err != nil:
		t.Errorf("%s: %v, want none", p, err)
	case with != "" && !errors.As(err, &ce):
		t.Errorf("%s: %v, want a collision with %s", p, err, with)
	case with != "" && (ce.With.String() != with || ce.Interface != on):
		t.Errorf("%s: collides with %v on %q, want %s on %s", p, ce.With, ce.Interface, with, on)
	}
}

func TestCollidesFindsRoutesAndAddresses(t *testing.T) {
	inHost(t, func(t *testing.T) {
		collides(t, "10.42.0.0/16", "icvpn0", "", "")
		collides(t, "fd42::/48", "icvpn0", "", "")
		collides(t, "192.0.2.8/29", "icvpn0", "192.0.2.11/32", "eth0")
		collides(t, "fd1c::/16", "icvpn0", "fd1c:0:0:1::11/128", "eth0")
		collides(t, "127.5.0.0/16", "icvpn0", "127.0.0.0/8", "lo")

		// Its own are none, another's are.
		if err := netcfg.Apply(service); err != nil {
			t.Error(err)
		}
		collides(t, "10.42.0.0/16", "icvpn0", "", "")
		collides(t, "fd42::/48", "icvpn0", "", "")
		collides(t, "10.42.7.0/24", "icvpn1", "10.42.0.0/16", "icvpn0")
		collides(t, "10.0.0.0/8", "icvpn1", "10.42.0.0/16", "icvpn0")
		collides(t, "fd42::/16", "", "fd42::/48", "icvpn0")
	})
}

func TestCollidesFindsOtherTablesAndDownInterfaces(t *testing.T) {
	inHost(t, func(t *testing.T) {
		dev := addLink(t, "vpn0")
		_, net43, _ := net.ParseCIDR("10.43.0.0/24")
		if err := netlink.AddrAdd(dev, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 44, 0, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
			t.Error(err)
		}
		collides(t, "10.44.0.0/16", "icvpn0", "10.44.0.0/24", "vpn0") // down: an address alone
		if err := netlink.LinkSetUp(dev); err != nil {
			t.Error(err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: net43, Table: 52}); err != nil {
			t.Error(err)
		}
		collides(t, "10.43.0.0/16", "icvpn0", "10.43.0.0/24", "vpn0")
	})
}

func TestCollidesIgnoresDefaultAndRefusingRoutes(t *testing.T) {
	inHost(t, func(t *testing.T) {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		for _, s := range []string{"0.0.0.0/1", "128.0.0.0/1"} { // as VPNs do
			_, dst, _ := net.ParseCIDR(s)
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
				t.Error(err)
			}
		}
		for _, s := range []string{"10.0.0.0/8", "fc00::/7"} {
			_, dst, _ := net.ParseCIDR(s)
			if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE}); err != nil {
				t.Error(err)
			}
		}
		collides(t, "10.42.0.0/16", "icvpn0", "", "")
		collides(t, "fd42::/48", "icvpn0", "", "")
	})
}

func TestCandidatesAreReachableAddressesBestFirst(t *testing.T) {
	inHost(t, func(t *testing.T) {
		if err := netcfg.Apply(service); err != nil {
			t.Error(err)
		}
		for name, addrs := range map[string][]string{
			"eth0": {"169.254.7.7/32", "10.7.0.1/32"},
			"lan0": {"10.1.0.1/24", "203.0.113.9/24", "10.42.9.9/32"},
			"off0": {"10.2.0.1/24"},
		} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				link = addLink(t, name)
			}
			for _, a := range addrs {
				p := netip.MustParsePrefix(a)
				ip := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
				if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
					t.Errorf("%s on %s: %v", a, name, err)
				}
			}
			if name != "off0" {
				if err := netlink.LinkSetUp(link); err != nil {
					t.Error(err)
				}
			}
		}
		got, err := netcfg.Candidates("icvpn0", service.Routes)
		if err != nil {
			t.Error(err)
		}
		var text []string
		for _, a := range got {
			text = append(text, a.String())
		}
		want := []string{"192.0.2.11", "10.7.0.1", "fd1c:0:0:1::11", "203.0.113.9", "10.1.0.1"}
		if !slices.Equal(text, want) {
			t.Errorf("got %v, want %v", text, want)
		}
	})
}

func TestCandidatesLeaveOutContainerBridges(t *testing.T) {
	inHost(t, func(t *testing.T) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "docker0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Logf("not tested, this kernel has no bridges: %v", err)
			return
		}
		link, err := netlink.LinkByName("docker0")
		if err != nil {
			t.Error(err)
			return
		}
		ip := &net.IPNet{IP: net.IPv4(172, 17, 0, 1), Mask: net.CIDRMask(16, 32)}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
			t.Error(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Error(err)
		}
		bridge := netip.MustParseAddr("172.17.0.1")
		if got, err := netcfg.Candidates("icvpn0", nil); err != nil || slices.Contains(got, bridge) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}
