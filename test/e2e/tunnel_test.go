//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"icvpn/esp"
	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

// Manual keying: two processes of `icvpn tunnel` in two clouds.

// manualClouds is their network.
var manualClouds = []lab.Cloud{{Name: "east", Hosts: []string{"web-1"}}, {Name: "west", Hosts: []string{"web-2"}}}

// manualEnd is one of them.
type manualEnd struct {
	w              *world
	host           *lab.Host
	file           string
	inner4, inner6 netip.Addr
	process        *lab.Process
	stdout, stderr string // files
}

// manualPair writes the files of two ends with keys for each other. Further
// lines go into the tunnel's section, at its indentation.
func manualPair(w *world, suite esp.Suite, outer6 bool, extra ...string) (a, b *manualEnd) {
	w.t.Helper()
	newEnd := func(i int, host string) *manualEnd {
		h := w.host(host)
		return &manualEnd{w: w, host: h, file: w.path(host + ".yaml"), stdout: w.path(host + ".out"), stderr: w.path(host + ".err"),
			inner4: netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}), inner6: netip.MustParseAddr(fmt.Sprintf("fd09::%d", i))}
	}
	a, b = newEnd(1, "web-1"), newEnd(2, "web-2")
	a.write(b, suite, outer6, "ab", "ba", 0x1001, 0x2001, extra)
	b.write(a, suite, outer6, "ba", "ab", 0x2001, 0x1001, extra)
	return a, b
}

func (e *manualEnd) write(peer *manualEnd, suite esp.Suite, outer6 bool, outKey, inKey string, outSPI, inSPI uint32, extra []string) {
	e.w.t.Helper()
	remote := netip.AddrPortFrom(peer.host.Addr4, 4500)
	if outer6 {
		remote = netip.AddrPortFrom(peer.host.Addr6, 4500)
	}
	var f strings.Builder
	fmt.Fprintf(&f, "addresses: [%v, \"%v\"]\ntunnels:\n  - remote: %q\n    suite: %v\n    fresh: true\n    routes: [%v, \"%v\"]\n",
		e.inner4, e.inner6, remote, suite, peer.inner4, peer.inner6)
	for _, line := range extra {
		fmt.Fprintf(&f, "    %s\n", line)
	}
	fmt.Fprintf(&f, "    out:\n      spi: %d\n%s", outSPI, e.keys(suite, outKey))
	fmt.Fprintf(&f, "    in:\n      spi: %d\n%s", inSPI, e.keys(suite, inKey))
	e.save(filepath.Base(e.file), f.String())
}

// keys writes the key files of one direction and returns the fields for them.
func (e *manualEnd) keys(suite esp.Suite, name string) string {
	sizes := suite.KeySizes()
	e.save(name+".enc", derived(name+" enc", sizes.Enc+sizes.Salt))
	fields := fmt.Sprintf("      encryption_file: %s.enc\n", name)
	if sizes.Int > 0 {
		e.save(name+".int", derived(name+" int", sizes.Int))
		fields += fmt.Sprintf("      integrity_file: %s.int\n", name)
	}
	return fields
}

func (e *manualEnd) save(name, text string) {
	e.w.t.Helper()
	if err := os.WriteFile(e.w.path(name), []byte(text), 0o600); err != nil {
		e.w.t.Fatal(err)
	}
}

// derived returns n bytes in hex, the same for both ends.
func derived(label string, n int) string {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", label, i))
		b = append(b, sum[:]...)
	}
	return hex.EncodeToString(b[:n])
}

// start starts the process and waits until it is ready.
func (e *manualEnd) start() {
	e.w.t.Helper()
	out, err := os.Create(e.stdout)
	if err != nil {
		e.w.t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.Create(e.stderr)
	if err != nil {
		e.w.t.Fatal(err)
	}
	defer errs.Close()
	cmd := e.w.command("tunnel", "--config", e.file)
	cmd.Stdout, cmd.Stderr = out, errs
	if e.process, err = e.host.Start(cmd); err != nil {
		e.w.t.Fatal(err)
	}
	e.w.eventually("the tunnel is ready", startLimit, func() error {
		select {
		case <-e.process.Done():
			return fmt.Errorf("%w: %s", errEnded, e.read(e.stderr))
		default:
		}
		if !strings.Contains(e.read(e.stderr), "tunnel ready") {
			return errors.New("it says nothing")
		}
		return nil
	})
}

func (e *manualEnd) read(file string) string {
	e.w.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		e.w.t.Fatal(err)
	}
	return string(b)
}

// stop ends the process as an operator does and returns its counters.
func (e *manualEnd) stop() string {
	e.w.t.Helper()
	if err := e.process.Signal(syscall.SIGTERM); err != nil {
		e.w.t.Fatal(err)
	}
	select {
	case <-e.process.Done():
	case <-time.After(leaveLimit):
		e.w.t.Fatal("does not end")
	}
	if err := e.process.Wait(); err != nil {
		e.w.t.Fatalf("ended badly: %v: %s", err, e.read(e.stderr))
	}
	err := e.host.Do(func() error {
		_, err := netlink.LinkByName("icvpn0")
		return err
	})
	var gone netlink.LinkNotFoundError
	if !errors.As(err, &gone) {
		e.w.t.Errorf("the interface is still there: %v", err)
	}
	return e.read(e.stdout)
}

// transfer sends size bytes that cannot be guessed over TCP and compares hashes.
func transfer(t *testing.T, from, to *manualEnd, dst netip.Addr, size int64) {
	t.Helper()
	l, err := to.host.ListenTCP(netip.AddrPortFrom(dst, bulkPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveHash(l)
	c, err := from.host.DialTCP(t.Context(), netip.AddrPortFrom(dst, bulkPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.New()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.CopyN(io.MultiWriter(c, sum), rand.NewChaCha8([32]byte{byte(size)}), size); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := sameHash(c, sum); err != nil {
		t.Fatal(err)
	}
}

// echoSizes sends UDP datagrams of sizes and wants them back as they were. The
// kernel fragments what is longer than the interface.
func echoSizes(t *testing.T, from, to *manualEnd, src, dst netip.Addr, sizes []int) {
	t.Helper()
	server, client := listenUDP(t, to, dst), listenUDP(t, from, src)
	go func() {
		buf := make([]byte, 65536)
		for {
			n, peer, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(buf[:n], peer)
		}
	}()
	at := server.LocalAddr().(*net.UDPAddr).AddrPort()
	buf := make([]byte, 65536)
	for _, size := range sizes {
		msg := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)}).Read(msg)
		answered := false
		for range 20 { // UDP may lose one
			if _, err := client.WriteToUDPAddrPort(msg, at); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
				t.Fatal(err)
			}
			_ = client.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			if n, _, err := client.ReadFromUDPAddrPort(buf); err == nil && bytes.Equal(buf[:n], msg) {
				answered = true
				break
			}
		}
		if !answered {
			t.Fatalf("no answer to %d bytes from %v", size, dst)
		}
	}
}

func listenUDP(t *testing.T, e *manualEnd, a netip.Addr) (c *net.UDPConn) {
	t.Helper()
	err := e.host.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Every suite, IPv4 and IPv6 outside, IPv4 and IPv6 inside, from one byte to
// more than the MTU; then 128 MiB each way by hash.
func TestManualTunnelCarriesEverything(t *testing.T) {
	w := newWorld(t, manualClouds)
	for _, suite := range esp.Suites() {
		for _, outer6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/outer6=%v", suite, outer6), func(t *testing.T) {
				size := int64(8 << 20)
				if suite == esp.DefaultSuite {
					size = 128 << 20
				}
				sub := *w
				sub.t = t
				a, b := manualPair(&sub, suite, outer6)
				a.start()
				b.start()
				sizes := []int{1, 2, 100, 1000, 1300, 1371, 1372, 1373, 1400, 1472, 3000, 9000}
				echoSizes(t, a, b, a.inner4, b.inner4, sizes)
				echoSizes(t, a, b, a.inner6, b.inner6, sizes)
				transfer(t, a, b, b.inner4, size)
				transfer(t, b, a, a.inner6, size)
				for _, e := range []*manualEnd{a, b} {
					counters := e.stop()
					if !strings.Contains(counters, "tunnel-1") || strings.Contains(counters, "auth") || strings.Contains(counters, "replay") {
						t.Errorf("counters of %s:\n%s", e.host.Name, counters)
					}
				}
			})
		}
	}
}

// No black hole on paths from 1280 to 9000 bytes.
func TestManualTunnelFitsThePath(t *testing.T) {
	for _, mtu := range []int{1280, 1281, 1400, 1492, 1500, 4000, 9000} {
		for _, outer6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("mtu=%d/outer6=%v", mtu, outer6), func(t *testing.T) {
				w := newWorld(t, manualClouds)
				w.lab = labtest.New(t, lab.Config{Clouds: manualClouds, MTU: mtu})
				a, b := manualPair(w, esp.DefaultSuite, outer6)
				a.start()
				b.start()
				sizes := []int{1, mtu - 200, mtu - 100, mtu - 28, mtu, mtu + 100}
				echoSizes(t, a, b, a.inner4, b.inner4, sizes)
				echoSizes(t, a, b, a.inner6, b.inner6, sizes)
				transfer(t, a, b, b.inner4, 4<<20)
				transfer(t, b, a, a.inner6, 4<<20)
				a.stop()
				b.stop()
			})
		}
	}
}

// The interface to the underlay becomes smaller while traffic flows.
func TestManualTunnelFollowsASmallerPath(t *testing.T) {
	w := newWorld(t, manualClouds)
	a, b := manualPair(w, esp.DefaultSuite, false)
	a.start()
	b.start()
	transfer(t, a, b, b.inner4, 4<<20)
	for _, mtu := range []int{1400, 1280, 1500} {
		for _, e := range []*manualEnd{a, b} {
			err := e.host.Do(func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return netlink.LinkSetMTU(link, mtu)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		transfer(t, a, b, b.inner4, 4<<20)
		transfer(t, b, a, a.inner6, 4<<20)
	}
	a.stop()
	b.stop()
}

// An MTU larger than the path has room for is cut down to it, or, if the file
// says so, carried in fragments.
func TestManualTunnelOfALargerMTU(t *testing.T) {
	for _, fragment := range []bool{false, true} {
		t.Run(fmt.Sprintf("fragment=%v", fragment), func(t *testing.T) {
			w := newWorld(t, manualClouds)
			a, b := manualPair(w, esp.DefaultSuite, false)
			for _, e := range []*manualEnd{a, b} {
				e.save(filepath.Base(e.file), fmt.Sprintf("mtu: 1700\nfragment: %v\n%s", fragment, e.read(e.file)))
				e.start()
				want := "mtu=1422"
				if fragment {
					want = "mtu=1700"
				}
				if log := e.read(e.stderr); !strings.Contains(log, want) {
					t.Errorf("%s is not in %s", want, log)
				}
			}
			echoSizes(t, a, b, a.inner4, b.inner4, []int{1300, 1400, 1500, 1672, 1800})
			transfer(t, a, b, b.inner6, 4<<20)
			a.stop()
			b.stop()
		})
	}
}

func TestManualTunnelCountsOnSignal(t *testing.T) {
	w := newWorld(t, manualClouds)
	a, b := manualPair(w, esp.DefaultSuite, false, "pad: mtu", "dscp: copy")
	a.start()
	b.start()
	echoSizes(t, a, b, a.inner4, b.inner4, []int{100})
	if err := a.process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	w.eventually("counters are printed", startLimit, func() error {
		if out := a.read(a.stdout); !strings.Contains(out, "received") {
			return fmt.Errorf("output %q", out)
		}
		return nil
	})
	a.stop()
	b.stop()
	for _, secret := range []string{"ab.enc", "ab.int", "ba.enc", "ba.int"} {
		for _, file := range []string{a.stdout, a.stderr} {
			if key := a.read(w.path(secret)); strings.Contains(a.read(file), key[:16]) {
				t.Errorf("%s shows the key in %s", file, secret)
			}
		}
	}
}

// Nobody sends anything, and still each end hears the other.
func TestManualTunnelKeepsAlive(t *testing.T) {
	w := newWorld(t, manualClouds)
	a, b := manualPair(w, esp.DefaultSuite, true, "keepalive: 1")
	a.start()
	b.start()
	for _, e := range []*manualEnd{a, b} {
		w.eventually("the peer is heard", startLimit, func() error {
			if log := e.read(e.stderr); !strings.Contains(log, "the peer is heard") {
				return errors.New(log)
			}
			return nil
		})
	}
	a.stop()
	b.stop()
}

func TestManualTunnelRefusesATakenPort(t *testing.T) {
	w := newWorld(t, manualClouds)
	a, _ := manualPair(w, esp.DefaultSuite, false)
	a.start()
	r := w.runIn(a.host, w.command("tunnel", "--config", a.file))
	if r.code != 1 || !strings.Contains(r.stderr, "UDP port 4500 is already in use on this machine") || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("%v", r)
	}
	// With another port, the interface's name is taken.
	a.save("second.yaml", "listen: \":4501\"\n"+a.read(a.file))
	r = w.runIn(a.host, w.command("tunnel", "--config", w.path("second.yaml")))
	if r.code != 1 || !strings.Contains(r.stderr, "icvpn0") || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("%v", r)
	}
	a.stop()
}

// A prefix that this machine reaches another way is refused before anything is
// changed.
func TestManualTunnelRefusesTheNetworkItStandsIn(t *testing.T) {
	w := newWorld(t, manualClouds)
	a, b := manualPair(w, esp.DefaultSuite, false)
	gateway := a.host.Addr4.As4()
	gateway[3] = 1
	a.save("collides.yaml", strings.Replace(a.read(a.file), b.inner4.String(), netip.AddrFrom4(gateway).String(), 1))
	r := w.runIn(a.host, w.command("tunnel", "--config", w.path("collides.yaml")))
	if r.code != 2 || !strings.Contains(r.stderr, "overlaps") || !strings.Contains(r.stderr, `field "routes"`) {
		t.Errorf("%v", r)
	}
}
