package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// firstHost is the last byte of the first host's addresses; the gateway has 1.
	firstHost = 11
	// maxHosts keeps the last byte below 255.
	maxHosts = 200
	// maxClouds is how many default prefixes there are.
	maxClouds = 64

	defaultMTU = 1500
)

// Cloud is one provider's network.
type Cloud struct {
	// Name appears in errors and in Host.Cloud.
	Name string
	// Hosts are the names of its machines: 1 to 12 of a-z, 0-9 and '-',
	// different over all clouds.
	Hosts []string
	// Prefix4, a /24, holds gateway and hosts. Default: 192.0.2.0/24,
	// 198.51.100.0/24, 203.0.113.0/24 (RFC 5737), then 198.18.N.0/24 (RFC 2544):
	// they look public and never are.
	Prefix4 netip.Prefix
	// Prefix6, a /64. Default: fd1c:0:0:N::/64.
	Prefix6 netip.Prefix
}

// Config of a Lab.
type Config struct {
	// Clouds, 1 to 64 of them, stand around one router.
	Clouds []Cloud
	// MTU of every link, 1280 to 65535. Default 1500.
	MTU int
}

// hostName keeps "to-" and the name within an interface name.
var hostName = regexp.MustCompile(`^[a-z0-9-]{1,12}$`)

func (c Config) withDefaults() Config {
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	clouds := make([]Cloud, len(c.Clouds))
	for i, cloud := range c.Clouds {
		if !cloud.Prefix4.IsValid() {
			cloud.Prefix4 = defaultPrefix4(i)
		}
		if !cloud.Prefix6.IsValid() {
			a := netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x1c, 7: byte(i + 1)})
			cloud.Prefix6 = netip.PrefixFrom(a, 64)
		}
		clouds[i] = cloud
	}
	c.Clouds = clouds
	return c
}

func defaultPrefix4(i int) netip.Prefix {
	a := netip.AddrFrom4([4]byte{198, 18, byte(i), 0})
	switch i {
	case 0:
		a = netip.AddrFrom4([4]byte{192, 0, 2, 0})
	case 1:
		a = netip.AddrFrom4([4]byte{198, 51, 100, 0})
	case 2:
		a = netip.AddrFrom4([4]byte{203, 0, 113, 0})
	}
	return netip.PrefixFrom(a, 24)
}

func (c Config) validate() error {
	if len(c.Clouds) == 0 || len(c.Clouds) > maxClouds {
		return fmt.Errorf("lab: Clouds: %d of them, want 1 to %d", len(c.Clouds), maxClouds)
	}
	if c.MTU < 1280 || c.MTU > 65535 {
		return fmt.Errorf("lab: MTU: %d, want 1280 to 65535", c.MTU)
	}
	seen := map[string]bool{}
	for _, cloud := range c.Clouds {
		if !cloud.Prefix4.Addr().Is4() || cloud.Prefix4.Bits() != 24 {
			return fmt.Errorf("lab: cloud %q: Prefix4: %v is not an IPv4 /24", cloud.Name, cloud.Prefix4)
		}
		if !cloud.Prefix6.Addr().Is6() || cloud.Prefix6.Bits() != 64 {
			return fmt.Errorf("lab: cloud %q: Prefix6: %v is not an IPv6 /64", cloud.Name, cloud.Prefix6)
		}
		if len(cloud.Hosts) > maxHosts {
			return fmt.Errorf("lab: cloud %q: Hosts: %d of them, want at most %d", cloud.Name, len(cloud.Hosts), maxHosts)
		}
		for _, name := range cloud.Hosts {
			if !hostName.MatchString(name) || seen[name] {
				return fmt.Errorf("lab: cloud %q: Hosts: %q is taken, or not 1 to 12 of a-z, 0-9 and '-'", cloud.Name, name)
			}
			seen[name] = true
		}
	}
	return nil
}

// Lab is a running network. Make one with New.
type Lab struct {
	// set at start
	router *netns
	hosts  []*Host
	byName map[string]*Host
	ipv6   bool

	mu        sync.Mutex // guards what follows
	processes map[*Process]struct{}
	captures  map[*Capture]struct{}
	inner     []*Host // behind NATs
	closed    bool
}

// New builds the network of cfg. The process must be Inside; a machine that
// allows no forwarding gives an *UnavailableError. If New fails it leaves
// nothing behind.
func New(cfg Config) (*Lab, error) {
	if !Inside() {
		return nil, &UnavailableError{Reason: Outside}
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &Lab{
		byName:    make(map[string]*Host),
		processes: make(map[*Process]struct{}),
		captures:  make(map[*Capture]struct{}),
		ipv6:      hasIPv6(),
	}
	if err := l.build(cfg); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lab) build(cfg Config) error {
	var err error
	if l.router, err = newNetns(); err != nil {
		return err
	}
	if err := l.router.do(l.setUpRouter); err != nil {
		return err
	}
	for _, cloud := range cfg.Clouds {
		for i, name := range cloud.Hosts {
			h := &Host{
				Name: name, Cloud: cloud.Name, lab: l,
				Addr4: withLastByte(cloud.Prefix4.Addr(), byte(firstHost+i)),
			}
			if l.ipv6 {
				h.Addr6 = withDigits(cloud.Prefix6.Addr(), firstHost+i)
			}
			if h.ns, err = newNetns(); err != nil {
				return err
			}
			l.hosts = append(l.hosts, h)
			l.byName[name] = h
			if err := l.connect(h, cloud, cfg.MTU); err != nil {
				return fmt.Errorf("lab: host %s: %w", name, err)
			}
		}
	}
	return nil
}

// hasIPv6 reports whether the kernel has IPv6 at all.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all")
	return err == nil
}

// setUpRouter turns forwarding on. The sysctls under /proc/sys/net are those
// of the reader's network namespace.
func (l *Lab) setUpRouter() error {
	sysctls := []string{"/proc/sys/net/ipv4/ip_forward"}
	if l.ipv6 {
		sysctls = append(sysctls, "/proc/sys/net/ipv6/conf/all/forwarding")
	}
	for _, path := range sysctls {
		if err := os.WriteFile(path, []byte("1"), 0); err != nil {
			return &UnavailableError{Reason: NoForwarding, Err: err}
		}
	}
	l.allowIPv6()
	return linkUp("lo")
}

// allowIPv6 undoes a disable_ipv6 that new namespaces may inherit.
func (l *Lab) allowIPv6() {
	for _, which := range []string{"all", "default"} {
		if l.ipv6 {
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("0"), 0)
		}
	}
}

// The router has the same link-local address on every link, the host another.
var (
	routerLL = netip.MustParsePrefix("fe80::1/64")
	hostLL   = netip.MustParsePrefix("fe80::2/64")
)

// connect joins h to the router with a veth pair and addresses both ends.
func (l *Lab) connect(h *Host, cloud Cloud, mtu int) error {
	gateway := withLastByte(cloud.Prefix4.Addr(), 1)
	port := "to-" + h.Name
	h.port = end{
		addrs:  []netip.Prefix{single(gateway), routerLL},
		routes: []route{{to: single(h.Addr4)}, {to: single(h.Addr6)}},
	}
	err := l.router.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = port, mtu
		veth := &netlink.Veth{
			LinkAttrs: attrs, PeerName: hostInterface, PeerMTU: uint32(mtu),
			PeerNamespace: netlink.NsFd(int(h.ns.file.Fd())),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make link %s: %w", port, err)
		}
		return l.addressEnd(port, h.port)
	})
	if err != nil {
		return err
	}
	return h.ns.do(func() error {
		l.allowIPv6()
		if err := linkUp("lo"); err != nil {
			return err
		}
		return l.addressEnd(hostInterface, end{
			addrs: []netip.Prefix{single(h.Addr4), single(h.Addr6), hostLL},
			routes: []route{
				{to: single(gateway)},
				{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: gateway},
				{to: netip.PrefixFrom(netip.IPv6Unspecified(), 0), via: routerLL.Addr()},
			},
		})
	})
}

// end is the configuration of one end of a link.
type end struct {
	addrs  []netip.Prefix
	routes []route
}

// route leads over the link, through via if that is valid.
type route struct {
	to  netip.Prefix
	via netip.Addr
}

// addressEnd configures an interface of the thread's namespace, or does it
// again after the interface was down. Where there is no IPv6 it leaves that
// out.
func (l *Lab) addressEnd(name string, e end) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if l.ipv6 {
		// No address made by the kernel, and (NODAD) no second of waiting until
		// ours may be used.
		if err := netlink.LinkSetIP6AddrGenMode(link, nl6AddrGenModeNone); err != nil {
			return err
		}
	}
	for _, a := range e.addrs {
		if !a.IsValid() || a.Addr().Is6() && !l.ipv6 {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("address %v on %s: %w", a, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, r := range e.routes {
		if !r.to.IsValid() || r.to.Addr().Is6() && !l.ipv6 {
			continue
		}
		nr := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.to), Scope: netlink.SCOPE_LINK}
		if r.via.IsValid() {
			nr.Gw, nr.Scope = r.via.AsSlice(), netlink.SCOPE_UNIVERSE
		}
		if err := netlink.RouteReplace(nr); err != nil {
			return fmt.Errorf("route to %v on %s: %w", r.to, name, err)
		}
	}
	return nil
}

// nl6AddrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const nl6AddrGenModeNone = 1

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// withLastByte returns a with its last byte replaced; the zero Addr stays.
func withLastByte(a netip.Addr, b byte) netip.Addr {
	raw := a.AsSlice()
	if len(raw) == 0 {
		return a
	}
	raw[len(raw)-1] = b
	a, _ = netip.AddrFromSlice(raw)
	return a
}

// withDigits returns the IPv6 address a ending in n as it is written in
// decimal, so that a host's two addresses end alike.
func withDigits(a netip.Addr, n int) netip.Addr {
	raw := a.As16()
	raw[14], raw[15] = byte(n/100), byte(n/10%10<<4|n%10)
	return netip.AddrFrom16(raw)
}

// single is the prefix of one address; invalid for the zero Addr.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Host returns the host of that name, or nil.
func (l *Lab) Host(name string) *Host { return l.byName[name] }

// Hosts returns all hosts in the order of the configuration.
func (l *Lab) Hosts() []*Host { return append([]*Host(nil), l.hosts...) }

// IPv6 reports whether the hosts have IPv6 addresses.
func (l *Lab) IPv6() bool { return l.ipv6 }

// Close kills every process of the lab with its children, ends the captures
// and removes the namespaces. It may be called more than once. Sockets opened
// in a host keep its namespace until they are closed.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	processes, captures := l.processes, l.captures
	l.processes, l.captures = nil, nil
	l.mu.Unlock()

	for p := range processes {
		p.Kill()
	}
	for p := range processes {
		<-p.Done()
	}
	var errs []error
	for c := range captures {
		errs = append(errs, c.Close())
	}
	for _, h := range append(l.inner, l.hosts...) {
		errs = append(errs, h.ns.close())
	}
	errs = append(errs, l.router.close())
	return errors.Join(errs...)
}

// errClosed is returned by what is asked of a closed lab.
var errClosed = fmt.Errorf("lab: %w", fs.ErrClosed)
