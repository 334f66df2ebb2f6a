package manual

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"icvpn/esp"
	"icvpn/internal/config"
	"icvpn/internal/datapath"
	"icvpn/tun"
)

// Config is what one process runs: one interface, one port, some tunnels. Get
// one from Load.
type Config struct {
	// Listen is the UDP address; the unspecified address is all of them.
	Listen netip.AddrPort
	// Interface is the name of the TUN interface.
	Interface string
	// Backend is how packets cross to the kernel.
	Backend tun.Backend
	// Addresses of the interface.
	Addresses []netip.Prefix
	// Networks behind this machine that peers may reach, besides Addresses.
	Networks []netip.Prefix
	// MTU is the longest inner packet, 0: what fits the path.
	MTU int
	// Fragment lets the kernel fragment outer packets: then MTU holds even where
	// it does not fit the path.
	Fragment bool
	Tunnels  []Tunnel
}

// fixedMTU says that the path plays no part.
func (c *Config) fixedMTU() bool { return c.MTU != 0 && c.Fragment }

// Tunnel is one pair of SAs.
type Tunnel struct {
	Name   string
	Remote netip.AddrPort
	Suite  esp.Suite
	ESN    bool
	Window int
	Routes []netip.Prefix // inner prefixes behind the peer
	Policy datapath.Policy
	// Keepalive is after how long without a packet sent a dummy goes out, 0:
	// never.
	Keepalive time.Duration
	Out, In   SA
}

// SA is one direction.
type SA struct {
	SPI  uint32
	Keys esp.Keys // without IV
}

// Wipe overwrites the keys.
func (c *Config) Wipe() {
	for i := range c.Tunnels {
		c.Tunnels[i].Out.Keys.Wipe()
		c.Tunnels[i].In.Keys.Wipe()
	}
}

const (
	defaultInterface = "icvpn0"
	maxTunnels       = 256
	maxMTU           = config.MaxMTU
	minMTU           = config.MinMTU
	maxKeepalive     = 3600
)

// loader reads one file. Complaints stick to the document.
type loader struct {
	dir  string // of the file
	path string
	c    Config
	// inline says that keys stand in the file itself.
	inline bool
	spis   map[uint32]string // inbound: where it was given
	keys   map[string]string // by hash of the key: whose it is
}

// Load reads and checks a file. The caller wipes the Config when it is done.
func Load(path string) (Config, error) {
	doc, err := config.ReadDocument(path)
	if err != nil {
		return Config{}, err
	}
	l := &loader{dir: filepath.Dir(path), path: path, spis: map[uint32]string{}, keys: map[string]string{}}
	l.top(doc)
	if doc.Err() == nil && l.inline {
		if problem, wayOut := private(path); problem != "" {
			doc.Fail("", "holds keys and "+problem, wayOut)
		}
	}
	if err := doc.Err(); err != nil {
		l.c.Wipe()
		return Config{}, err
	}
	return l.c, nil
}

func (l *loader) top(s *config.Section) {
	s.Only("listen", "interface", "backend", "addresses", "networks", "mtu", "fragment", "tunnels")
	l.c.Listen = l.listen(s)
	l.c.Interface = defaultInterface
	if s.Has("interface") {
		l.c.Interface = s.Text("interface")
		if problem, wayOut := config.CheckInterface(l.c.Interface); problem != "" {
			s.Fail("interface", problem, wayOut)
		}
	}
	if s.Has("backend") {
		var err error
		name := s.Text("backend")
		if l.c.Backend, err = tun.ParseBackend(name); err != nil {
			s.Fail("backend", quoted(name)+" is not a backend", "use auto, offload or plain")
		}
	}
	l.c.Addresses = prefixes(s, "addresses", false)
	if len(l.c.Addresses) == 0 {
		s.Fail("addresses", "missing", "write addresses: [10.9.0.1/32] with the inner addresses of this machine")
	}
	l.c.Networks = prefixes(s, "networks", true)
	l.c.MTU = l.mtu(s)
	l.c.Fragment, _ = s.Bool("fragment")
	list := s.Sections("tunnels")
	switch {
	case len(list) == 0:
		s.Fail("tunnels", "missing", "write tunnels: and one section for each, beginning with \"- \"")
	case len(list) > maxTunnels:
		s.Fail("tunnels", fmt.Sprintf("%d of them, the limit is %d", len(list), maxTunnels), "run a second process with another interface and port")
	}
	for i, t := range list {
		if s.Err() == nil {
			l.c.Tunnels = append(l.c.Tunnels, Tunnel{})
			l.tunnel(t, i)
		}
	}
	if s.Err() == nil {
		l.checkRoutes(list)
	}
}

func (l *loader) listen(s *config.Section) netip.AddrPort {
	text := s.Text("listen")
	if text == "" {
		return netip.AddrPortFrom(netip.Addr{}, 4500)
	}
	const rule = "write HOST:PORT or :PORT with an IP address as HOST, IPv6 in brackets: \"[2001:db8::1]:4500\""
	if port, ok := strings.CutPrefix(text, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			s.Fail("listen", quoted(text)+" is not a listen address", rule)
		}
		return netip.AddrPortFrom(netip.Addr{}, uint16(n))
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil || ap.Port() == 0 || ap.Addr().IsMulticast() {
		s.Fail("listen", quoted(text)+" is not a listen address", rule)
	}
	return ap
}

func (l *loader) mtu(s *config.Section) int {
	n, _ := s.Number("mtu") // 0 if it is not there
	if problem, wayOut := config.CheckMTU(n); problem != "" {
		s.Fail("mtu", problem, wayOut)
	}
	return n
}

// tunnel fills the last tunnel of the configuration.
func (l *loader) tunnel(s *config.Section, i int) {
	s.Only("name", "remote", "suite", "esn", "window", "fresh", "routes", "dscp", "pad", "clamp_mss", "keepalive", "out", "in")
	t := &l.c.Tunnels[i]
	t.Name = fmt.Sprintf("tunnel-%d", i+1)
	if s.Has("name") {
		t.Name = s.Text("name")
		if problem, wayOut := config.CheckName(t.Name); problem != "" {
			s.Fail("name", problem, wayOut)
		}
	}
	for _, other := range l.c.Tunnels[:i] {
		if other.Name == t.Name {
			s.Fail("name", quoted(t.Name)+" is there twice", "give each tunnel a name of its own")
		}
	}
	t.Remote = l.remote(s)
	t.Suite = suite(s)
	t.ESN = true
	if esn, given := s.Bool("esn"); given {
		t.ESN = esn
	}
	t.Window = window(s)
	fresh, _ := s.Bool("fresh")
	if t.Suite.AEAD() && !fresh && s.Err() == nil {
		s.Fail("suite", t.Suite.String()+" would repeat nonces after a restart with the same keys, which gives the keys away (RFC 8221, Section 4)",
			"make new keys for every start and say so with fresh: true, or use "+esp.AES128CBCSHA256.String())
	}
	if t.Routes = prefixes(s, "routes", true); len(t.Routes) == 0 {
		s.Fail("routes", "missing", "write routes: [10.9.0.2/32] with the inner addresses behind the peer")
	}
	t.Policy = policy(s)
	t.Keepalive = keepalive(s)
	l.sa(s, "out", t, &t.Out)
	l.sa(s, "in", t, &t.In)
	if prev, twice := l.spis[t.In.SPI]; twice && s.Err() == nil {
		s.Fail("in", fmt.Sprintf("SPI %#x is that of %s already", t.In.SPI, prev), "give each inbound SA an SPI of its own")
	}
	l.spis[t.In.SPI] = fmt.Sprintf("%q", t.Name)
	for _, other := range l.c.Tunnels[:i] {
		if other.Out.SPI == t.Out.SPI && other.Remote == t.Remote && s.Err() == nil {
			s.Fail("out", fmt.Sprintf("SPI %#x to %v is that of %q already", t.Out.SPI, t.Remote, other.Name), "give each SA to one peer an SPI of its own")
		}
	}
}

func (l *loader) remote(s *config.Section) netip.AddrPort {
	const rule = "write ADDRESS:PORT of the peer, for example 198.51.100.7:4500 or \"[2001:db8::1]:4500\""
	text := s.Text("remote")
	if text == "" {
		s.Fail("remote", "missing", rule)
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil || ap.Port() == 0 {
		s.Fail("remote", quoted(text)+" is not an address", rule)
		return netip.AddrPort{}
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	a := ap.Addr()
	switch local := l.c.Listen.Addr(); {
	case a.IsUnspecified() || a.IsMulticast():
		s.Fail("remote", quoted(text)+" is not the address of one machine", rule)
	case ap == l.c.Listen:
		s.Fail("remote", "is this machine's own address and port", rule)
	case local.IsValid() && !local.IsUnspecified() && local.Is4() != a.Is4():
		s.Fail("remote", quoted(text)+" is of another family than listen", "let both be IPv4 or both IPv6, or listen on all addresses with \":4500\"")
	}
	return ap
}

func suite(s *config.Section) esp.Suite {
	if !s.Has("suite") {
		return esp.DefaultSuite
	}
	name := s.Text("suite")
	v, err := esp.ParseSuite(name)
	if err != nil {
		var known []string
		for _, k := range esp.Suites() {
			known = append(known, k.String())
		}
		s.Fail("suite", quoted(name)+" is not a suite", "use "+strings.Join(known, ", "))
	}
	return v
}

func window(s *config.Section) int {
	n, given := s.Number("window")
	if !given {
		return esp.DefaultWindow
	}
	if n < 64 || n > 1<<20 || n&(n-1) != 0 {
		s.Fail("window", fmt.Sprintf("%d is not a replay window", n), "use a power of two from 64 to 1048576")
	}
	return n
}

func keepalive(s *config.Section) time.Duration {
	n, given := s.Number("keepalive")
	if given && (n < 0 || n > maxKeepalive) {
		s.Fail("keepalive", fmt.Sprintf("%d is out of range", n), fmt.Sprintf("use 1 to %d seconds, or 0 for none", maxKeepalive))
	}
	return time.Duration(n) * time.Second
}

func policy(s *config.Section) (p datapath.Policy) {
	const dscpRule = "use 0 to 63, or copy"
	switch text := s.Word("dscp"); text {
	case "":
	case "copy":
		p.CopyDSCP = true
	default:
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > 63 {
			s.Fail("dscp", quoted(text)+" is not a DSCP", dscpRule)
		}
		p.DSCP = uint8(n)
	}
	switch text := s.Word("pad"); text {
	case "":
	case "mtu":
		p.Pad = datapath.PadToMTU
	default:
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxMTU {
			s.Fail("pad", quoted(text)+" is not a multiple for padding", "use 0 to 9000, or mtu to make all packets equally long")
		}
		p.Pad = n
	}
	if keep, given := s.Bool("clamp_mss"); given {
		p.KeepMSS = !keep
	}
	return p
}

// prefixes reads a list of prefixes; an address alone stands for itself. Those
// that are masked are networks, the others addresses with their network.
func prefixes(s *config.Section, key string, masked bool) (out []netip.Prefix) {
	for _, text := range s.List(key) {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "":
			s.Fail(key, quoted(text)+" is not a prefix", "write ADDRESS/LENGTH, for example 10.9.0.0/24 or fd09::/64")
		case masked && p != p.Masked():
			s.Fail(key, quoted(text)+" has bits behind its length", "write "+p.Masked().String())
		case p.Addr().IsMulticast(), !masked && p.Addr().IsUnspecified():
			s.Fail(key, quoted(text)+" is not the address of a machine", "use an unicast address")
		case slices.Contains(out, p):
			s.Fail(key, quoted(text)+" is there twice", "remove one of the two")
		}
		out = append(out, p)
	}
	return out
}

// quoted returns s for an error message, never longer than a line.
func quoted(s string) string {
	const most = 60
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
