package process

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/config"
	"icvpn/internal/control"
	"icvpn/internal/netcfg"
	"icvpn/internal/owner"
	"icvpn/internal/service"
	"icvpn/internal/state"
)

// newService writes a service with n super peers into a new directory. Their
// port is chosen by the system.
func newService(t *testing.T, name string, n int) (dir string) {
	t.Helper()
	o := owner.Options{Name: name, Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"member"}, Now: time.Now()}
	for i := range n {
		o.SuperPeers = append(o.SuperPeers, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(4500+i)).String())
	}
	s, err := owner.Create(o)
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), name)
	if err := s.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// superConfig is that of super peer i of the service in dir.
func superConfig(t *testing.T, dir string, i int) config.Super {
	t.Helper()
	name := filepath.Join(dir, owner.SuperName(i))
	return config.Super{HandOvers: []config.HandOver{{File: name + ".handover", KeyFile: name + ".key"}}, Process: config.Process{
		StateDir: filepath.Join(t.TempDir(), "state"), Listen: "127.0.0.1:0", ControlSocket: filepath.Join(t.TempDir(), "c.sock"),
	}}
}

// parsed is the token of the service in dir.
func parsed(t *testing.T, dir string) service.Token {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "member.token"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := service.ParseToken(b)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func openState(t *testing.T, path string) *state.Dir {
	t.Helper()
	dir, err := state.Open(path, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
}

var quiet = slog.New(slog.DiscardHandler)

func TestHandOverIsKeptAndServesAlone(t *testing.T) {
	c := superConfig(t, newService(t, "shop", 1), 0)
	dir := openState(t, c.StateDir)
	first, fresh, err := handOver(dir, c.HandOvers[0])
	if err != nil || fresh == nil {
		t.Fatalf("first start: fresh %v, %v", fresh != nil, err)
	}
	if err := dir.Put(fileHandOver, fresh); err != nil {
		t.Fatal(err)
	}
	if again, fresh, err := handOver(dir, c.HandOvers[0]); err != nil || fresh != nil || again.Service.ID != first.Service.ID {
		t.Errorf("second start with the same files: fresh %v, %v", fresh != nil, err)
	}
	c.HandOvers[0].File = filepath.Join(t.TempDir(), "gone")
	if alone, fresh, err := handOver(dir, c.HandOvers[0]); err != nil || fresh != nil || pidOf(alone) != pidOf(first) {
		t.Errorf("start without the files: fresh %v, %v", fresh != nil, err)
	}
}

func TestHandOverOfSomebodyElseIsRefused(t *testing.T) {
	shop, other := newService(t, "shop", 2), newService(t, "other", 1)
	c := superConfig(t, shop, 0)
	dir := openState(t, c.StateDir)
	_, fresh, err := handOver(dir, c.HandOvers[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Put(fileHandOver, fresh); err != nil {
		t.Fatal(err)
	}
	second := superConfig(t, shop, 1)
	second.StateDir = c.StateDir
	_, _, err = handOver(dir, second.HandOvers[0])
	wantError(t, err, c.StateDir, "belongs to super peer", second.HandOvers[0].File, "--state-dir")
	foreign := superConfig(t, other, 0)
	foreign.StateDir = c.StateDir
	_, _, err = handOver(dir, foreign.HandOvers[0])
	wantError(t, err, c.StateDir, "belongs to service shop (", foreign.HandOvers[0].File, "is for service other (", "--state-dir")
}

func TestHandOverNamesTheFileThatIsMissing(t *testing.T) {
	c := superConfig(t, newService(t, "shop", 1), 0)
	dir := openState(t, c.StateDir)
	absent := filepath.Join(t.TempDir(), "absent")
	whole := c.HandOvers[0]
	_, _, err := handOver(dir, config.HandOver{File: whole.File})
	wantError(t, err, whole.File, "is sealed", "handover_key_file")
	_, _, err = handOver(dir, config.HandOver{File: whole.File, KeyFile: absent})
	wantError(t, err, absent, "cannot be read")
	_, _, err = handOver(dir, config.HandOver{File: absent, KeyFile: whole.KeyFile})
	wantError(t, err, absent, "does not exist", "service owner")
}

func TestSuperClosesItsSocketsWithoutAControlSocket(t *testing.T) {
	c := superConfig(t, newService(t, "shop", 1), 0)
	c.Listen = freePort(t)
	holder, err := control.Listen(c.ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	var inUse *control.InUseError
	if err := Super(t.Context(), c, "test", quiet); !errors.As(err, &inUse) {
		t.Fatalf("started beside another: %v", err)
	}
	udp, tcp, err := sockets(t.Context(), c.Listen)
	if err != nil {
		t.Fatalf("a socket is still open: %v", err)
	}
	udp.Close()
	tcp.Close()
}

// freePort returns an address that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	udp, tcp, err := sockets(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	defer tcp.Close()
	return tcp.Addr().String()
}

func TestSocketsNameTheWayOut(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, err = sockets(t.Context(), l.Addr().String())
	wantError(t, err, "TCP port", "already in use", "--listen")
	udp, err := openUDP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	_, err = openUDP(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), udp.Port()).String())
	wantError(t, err, "already in use", "--listen")
	_, err = openUDP(t.Context(), "192.0.2.77:4500")
	wantError(t, err, "192.0.2.77:4500", "not one of this machine's", "--listen")
}

func TestListenAddress(t *testing.T) {
	for listen, want := range map[string]netip.AddrPort{
		":4500":              netip.AddrPortFrom(netip.Addr{}, 4500),
		"127.0.0.1:0":        netip.MustParseAddrPort("127.0.0.1:0"),
		"[::1]:4500":         netip.MustParseAddrPort("[::1]:4500"),
		"[::ffff:7f00:1]:45": netip.MustParseAddrPort("127.0.0.1:45"),
	} {
		if got, err := listenAddr(context.Background(), listen); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", listen, got, err, want)
		}
	}
}

func TestStateDirectoryOfAnotherServiceIsRefused(t *testing.T) {
	shop, other := parsed(t, newService(t, "shop", 1)), parsed(t, newService(t, "other", 1))
	dir := openState(t, filepath.Join(t.TempDir(), "state"))
	if err := checkService(dir, shop); err != nil {
		t.Errorf("new directory: %v", err)
	}
	for range 2 {
		if err := keepService(dir, shop); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkService(dir, shop); err != nil {
		t.Errorf("own directory: %v", err)
	}
	wantError(t, checkService(dir, other), dir.Path(), "belongs to service shop (", "is for service other (", "--state-dir")
	if err := dir.Put(fileService, []byte("short")); err != nil {
		t.Fatal(err)
	}
	wantError(t, checkService(dir, shop), dir.Path(), "damaged")
}

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	dir := openState(t, filepath.Join(t.TempDir(), "state"))
	first, err := identity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := identity(dir); err != nil || !again.Equal(first) {
		t.Errorf("second start: another identity, %v", err)
	}
	if err := dir.Put(fileIdentity, []byte("short")); err != nil {
		t.Fatal(err)
	}
	_, err = identity(dir)
	wantError(t, err, dir.Path(), "damaged")
}

func TestCollisionWithAnotherICVPNSaysSo(t *testing.T) {
	c := &netcfg.CollisionError{Prefix: netip.MustParsePrefix("10.42.0.0/16"), With: netip.MustParsePrefix("10.42.5.0/24"), Interface: "eth0"}
	if err := explainCollision(c); err != error(c) {
		t.Errorf("got %v", err)
	}
	c.Interface = "icvpn0"
	wantError(t, explainCollision(c), "another icvpn already runs here", "10.42.0.0/16", "icvpn0", "icvpn down")
}

func TestOnlyAddressesThatAreGoneAreRemoved(t *testing.T) {
	a, b, c := netip.MustParsePrefix("10.42.0.1/32"), netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("10.42.0.2/32")
	if got := gone([]netip.Prefix{a, b}, []netip.Prefix{b, c}); len(got) != 1 || got[0] != a {
		t.Errorf("gone %v, want %v", got, a)
	}
}

func TestAdvertisedNamesAreResolvedOrNamed(t *testing.T) {
	got, err := resolveAll(t.Context(), []string{"192.0.2.1:4500", "[2001:db8::1]:4600"})
	if err != nil || len(got) != 2 || got[0] != netip.MustParseAddrPort("192.0.2.1:4500") || got[1] != netip.MustParseAddrPort("[2001:db8::1]:4600") {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = resolveAll(t.Context(), []string{"192.0.2.1:4500", "nobody.invalid:4500"})
	wantError(t, err, "advertise: nobody.invalid:4500", "check the name")
}

// TestJoiningPeerAnswersItsSocket: status says how far it is, everything that
// needs a member is "not ready", and a leave can be asked for, also twice.
func TestJoiningPeerAnswersItsSocket(t *testing.T) {
	tok := parsed(t, newService(t, "shop", 1))
	h := &handler{peer: &peer{cfg: config.Peer{Name: "web-1"}, token: tok, binary: "test", began: time.Now()}, leave: make(chan struct{})}
	h.step(quiet, "interface", "found", time.Now())
	s, err := h.Status(t.Context())
	if err != nil || s.State != control.StateJoining || s.Name != "web-1" || s.ServiceName != "shop" || s.Process != os.Getpid() {
		t.Errorf("status %+v, %v", s, err)
	}
	steps, err := h.JoinSteps(t.Context())
	if err != nil || len(steps) != 1 || steps[0].Name != "interface" || steps[0].Detail != "found" {
		t.Errorf("steps %+v, %v", steps, err)
	}
	_, perr := h.Peers(t.Context())
	for what, err := range map[string]error{"peers": perr, "ping": h.Ping(t.Context(), "x", 1, nil)} {
		var e *control.Error
		if !errors.As(err, &e) || e.Code != control.CodeNotReady {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := h.Metrics(t.Context()); err != nil {
		t.Errorf("metrics: %v", err)
	}
	for range 2 {
		if err := h.Down(t.Context()); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-h.leave:
	default:
		t.Error("the leave was not begun")
	}
}
