//go:build linux

package kernel

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"icvpn/esp"
)

// Addresses; doc.go has the picture.
var (
	ourOuter    = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.1"), 6: netip.MustParseAddr("2001:db8::1")}
	kernelOuter = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.2"), 6: netip.MustParseAddr("2001:db8::2")}
	ourInner    = map[int]netip.Addr{4: netip.MustParseAddr("10.77.0.1"), 6: netip.MustParseAddr("fd77::1")}
	kernelInner = map[int]netip.Addr{4: netip.MustParseAddr("10.77.0.2"), 6: netip.MustParseAddr("fd77::2")}
	lanInner    = map[int]netip.Addr{4: netip.MustParseAddr("10.77.2.2"), 6: netip.MustParseAddr("fd77:2::2")}
)

const (
	echoPort  = 7
	iperfPort = 5201

	// SPIs: what we send on, what we receive on.
	spiOut, spiIn = 0x1001, 0x2001
)

// setUpUnderlay gives the tap device its addresses.
func setUpUnderlay(t *testing.T) {
	t.Helper()
	run(t, "ip", "link", "set", tapName, "mtu", fmt.Sprint(tapMTU), "up")
	run(t, "ip", "address", "add", ourOuter[4].String()+"/24", "dev", tapName)
	run(t, "ip", "address", "add", ourOuter[6].String()+"/64", "dev", tapName, "nodad")
}

// kernelSetup is the network inside the machine: the underlay, and a network
// behind the kernel as behind a gateway. Its MTU is small, so that what is longer
// arrives at the kernel in fragments.
const kernelSetup = `set -e
ip link set lo up
ip link set eth0 up
ip address add 192.0.2.2/24 dev eth0
ip address add 2001:db8::2/64 dev eth0 nodad
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip netns add lan
ip link add gw type veth peer name eth0 netns lan
ip link set gw mtu 1280 up
ip address add 10.77.2.1/24 dev gw
ip address add fd77:2::1/64 dev gw nodad
ip -n lan link set lo up
ip -n lan link set eth0 mtu 1280 up
ip -n lan address add 10.77.2.2/24 dev eth0
ip -n lan address add fd77:2::2/64 dev eth0 nodad
ip -n lan route add default via 10.77.2.1
ip -n lan route add default via fd77:2::1
/init echo 7 >/run/echo 2>&1 &
ip netns exec lan /init echo 7 >/run/echo-lan 2>&1 &
/init hold 4500 >/run/hold 2>&1 &
iperf3 -s -D -p 5201 >/run/iperf3 2>&1
for i in 1 2 3 4 5 6 7 8 9 10; do
	grep -q IPv6: /run/hold && grep -q ok /run/echo && grep -q ok /run/echo-lan && break
	sleep 1
done
cat /run/hold /run/echo /run/echo-lan
`

// setUpKernel prepares the machine and returns, for the outer families that its
// kernel does not encapsulate ESP in UDP for, why.
func setUpKernel(t *testing.T, m *machine) (without map[int]string) {
	t.Helper()
	without = map[int]string{}
	for line := range strings.Lines(m.must(t, kernelSetup)) {
		var family int
		if n, _ := fmt.Sscanf(line, "IPv%d:", &family); n == 1 && !strings.HasSuffix(strings.TrimSpace(line), ": ok") {
			without[family] = "no ESP in UDP over " + strings.TrimSpace(line)
		}
	}
	return without
}

// pairing is one row of the matrix: how the two ends are set up.
type pairing struct {
	suite esp.Suite
	esn   bool
	outer int // 4 or 6
	// window is icvpn's; the kernel gets the same, as far as it can.
	window int
	pad    string // TFC padding policy of icvpn, "" for none
}

func (p pairing) String() string {
	return fmt.Sprintf("%v,esn=%v,outer=IPv%d", p.suite, p.esn, p.outer)
}

// pairings is every combination. Windows differ; icvpn's default, twice what the
// kernel has, is met once: filling it takes a while.
func pairings() (all []pairing) {
	for _, s := range esp.Suites() {
		large := 512
		if s == esp.DefaultSuite {
			large = esp.DefaultWindow
		}
		all = append(all,
			pairing{suite: s, esn: true, outer: 4, window: large},
			pairing{suite: s, esn: true, outer: 6, window: 64},
			pairing{suite: s, esn: false, outer: 4, window: 64},
			pairing{suite: s, esn: false, outer: 6, window: 1024})
	}
	return all
}

// key draws bytes in hex.
func key(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// keys are those of one direction, as the configuration has them.
type keys struct{ encryption, integrity string }

func newKeys(s esp.Suite) keys {
	size := s.KeySizes()
	k := keys{encryption: key(size.Enc + size.Salt)}
	if size.Int > 0 {
		k.integrity = key(size.Int)
	}
	return k
}

// esp returns the keys as package esp wants them.
func (k keys) esp(s esp.Suite) (out esp.Keys) {
	size := s.KeySizes()
	enc, _ := hex.DecodeString(k.encryption)
	out.Enc, out.Salt = enc[:size.Enc], enc[size.Enc:]
	out.Int, _ = hex.DecodeString(k.integrity)
	out.IV, _ = hex.DecodeString(key(size.IV))
	return out
}

// writeConfig writes the file for icvpn tunnel.
func (p pairing) writeConfig(t *testing.T, out, in keys) (path string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %q\n", netip.AddrPortFrom(ourOuter[p.outer], encapPort))
	fmt.Fprintf(&b, "interface: icvpn0\naddresses: [%v/32, \"%v/128\"]\n", ourInner[4], ourInner[6])
	fmt.Fprintf(&b, "tunnels:\n- name: kernel\n  remote: %q\n", netip.AddrPortFrom(kernelOuter[p.outer], encapPort))
	fmt.Fprintf(&b, "  suite: %v\n  esn: %v\n  window: %d\n", p.suite, p.esn, p.window)
	if p.suite.AEAD() {
		b.WriteString("  fresh: true\n")
	}
	if p.pad != "" {
		fmt.Fprintf(&b, "  pad: %s\n", p.pad)
	}
	fmt.Fprintf(&b, "  routes: [%v/32, \"%v/128\", 10.77.2.0/24, \"fd77:2::/64\"]\n", kernelInner[4], kernelInner[6])
	for _, sa := range []struct {
		name string
		spi  int
		keys keys
	}{{"out", spiOut, out}, {"in", spiIn, in}} {
		fmt.Fprintf(&b, "  %s:\n    spi: %#x\n    encryption: \"%s\"\n", sa.name, sa.spi, sa.keys.encryption)
		if sa.keys.integrity != "" {
			fmt.Fprintf(&b, "    integrity: \"%s\"\n", sa.keys.integrity)
		}
	}
	path = filepath.Join(scratch(t), "sa.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
