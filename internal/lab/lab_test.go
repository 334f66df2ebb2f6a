//go:build linux

package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// helperVariable makes the test binary, started as a child, do something else.
const helperVariable = "LAB_TEST_HELPER"

// TestHelper is not a test: it is what children of the tests run.
func TestHelper(t *testing.T) {
	switch os.Getenv(helperVariable) {
	case "":
		t.Skip("only for children")
	case "addresses":
		addrs, err := net.InterfaceAddrs()
		fmt.Println(addrs, err)
	case "sleep with child":
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelper$")
		cmd.Env = append(os.Environ(), helperVariable+"=sleep")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("child", cmd.Process.Pid)
		fallthrough
	case "sleep":
		fmt.Println("started")
		time.Sleep(time.Hour)
	default:
		os.Exit(reexecHelper(os.Getenv(helperVariable)))
	}
	os.Exit(0)
}

func helper(ctx context.Context, h *lab.Host, what string) *exec.Cmd {
	// With ICVPN_SKIP_NETNS the child runs its tests at once instead of
	// building a lab of its own.
	cmd := h.Command(ctx, "/proc/self/exe", "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), helperVariable+"="+what, "ICVPN_SKIP_NETNS=1")
	return cmd
}

var twoClouds = lab.Config{Clouds: []lab.Cloud{
	{Name: "one", Hosts: []string{"web1", "app1"}},
	{Name: "two", Hosts: []string{"db1"}},
}}

// talk sends a line from one host to another and back.
func talk(t *testing.T, from, to *lab.Host, addr netip.Addr) {
	t.Helper()
	ln, err := to.ListenTCP(netip.AddrPortFrom(addr, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go echo(ln)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := from.DialTCP(ctx, netip.AddrPortFrom(addr, 7))
	if err != nil {
		t.Fatalf("%s to %v: %v", from.Name, addr, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	want := "hello from " + from.Name
	if _, err := io.WriteString(c, want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("%s to %v: got %q, %v", from.Name, addr, got, err)
	}
}

// echo serves one connection.
func echo(ln net.Listener) {
	if c, err := ln.Accept(); err == nil {
		io.Copy(c, c)
		c.Close()
	}
}

func TestHostsReachEachOtherInBothFamilies(t *testing.T) {
	l := labtest.New(t, twoClouds)
	web, app, db := l.Host("web1"), l.Host("app1"), l.Host("db1")
	for _, to := range []*lab.Host{app, db} {
		talk(t, web, to, to.Addr4)
		if l.IPv6() {
			talk(t, web, to, to.Addr6)
		}
	}
	if web.Addr4.String() != "192.0.2.11" || db.Addr4.String() != "198.51.100.11" {
		t.Fatalf("addresses %v and %v, not as the documentation says", web.Addr4, db.Addr4)
	}
	if l.IPv6() && web.Addr6.String() != "fd1c:0:0:1::11" {
		t.Fatalf("address %v, not as the documentation says", web.Addr6)
	}
	if l.Host("nobody") != nil || len(l.Hosts()) != 3 {
		t.Fatal("wrong hosts")
	}
}

func TestLabDoesNotTouchTheCallersNamespace(t *testing.T) {
	labtest.Require(t)
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	l := labtest.New(t, twoClouds)
	after, err := net.Interfaces()
	if err != nil || len(after) != len(before) {
		t.Fatalf("interfaces before %v, after %v, %v", before, after, err)
	}
	l.Host("web1").Do(func() error { return nil })
	for range 100 { // every thread that may run us is still at home
		runtime.Gosched()
		if now, _ := net.Interfaces(); len(now) != len(before) {
			t.Fatalf("a thread stayed in a host: %v", now)
		}
	}
}

func TestDoReportsErrorsAndLostGoroutines(t *testing.T) {
	l := labtest.New(t, twoClouds)
	h, want := l.Host("web1"), errors.New("mine")
	if err := h.Do(func() error { return want }); err != want {
		t.Errorf("got %v", err)
	}
	if err := h.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a function that ended its goroutine looks like success")
	}
}

func TestCommandsRunInTheirHost(t *testing.T) {
	l := labtest.New(t, twoClouds)
	for _, h := range l.Hosts() {
		var out bytes.Buffer
		cmd := helper(t.Context(), h, "addresses")
		cmd.Stdout = &out
		if err := h.Run(cmd); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), h.Addr4.String()+"/32") {
			t.Errorf("%s printed %q, want %v in it", h.Name, out.String(), h.Addr4)
		}
	}
}

func TestStartReportsMissingProgram(t *testing.T) {
	l := labtest.New(t, twoClouds)
	h := l.Host("web1")
	err := h.Run(h.Command(t.Context(), "/no/such/program"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "web1") {
		t.Fatalf("got %v", err)
	}
}

// words gives a child an output whose words can be awaited.
func words() (io.WriteCloser, <-chan string) {
	r, w := io.Pipe()
	ch := make(chan string, 16)
	go sendWords(r, ch)
	return w, ch
}

func sendWords(r io.Reader, ch chan<- string) {
	defer close(ch)
	s := bufio.NewScanner(r)
	s.Split(bufio.ScanWords)
	for s.Scan() {
		ch <- s.Text()
	}
}

// startSleeper starts a process that has a child and returns the child's number.
func startSleeper(t *testing.T, ctx context.Context, h *lab.Host) (p *lab.Process, childPid int) {
	t.Helper()
	w, out := words()
	cmd := helper(ctx, h, "sleep with child")
	cmd.Stdout = w
	p, err := h.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	for started := 0; started < 2; {
		select {
		case word := <-out:
			if word == "started" {
				started++
			}
			if n := 0; childPid == 0 {
				if _, err := fmt.Sscan(word, &n); err == nil {
					childPid = n
				}
			}
		case <-p.Done():
			t.Fatalf("the helper ended early: %v", p.Wait())
		}
	}
	return p, childPid
}

// gone waits until no process has the number, or only a zombie.
func gone(pid int) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return true
		}
	}
	return false
}

func TestCloseKillsProcessesAndTheirChildren(t *testing.T) {
	labtest.Require(t)
	l, err := lab.New(twoClouds)
	if err != nil {
		t.Fatal(err)
	}
	p, child := startSleeper(t, t.Context(), l.Host("db1"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p.Wait() == nil || !gone(p.Pid()) || !gone(child) {
		t.Fatalf("process %d or its child %d outlived the lab", p.Pid(), child)
	}
	if err := l.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	if _, err := l.Host("db1").Start(exec.Command("/proc/self/exe")); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Start after Close: %v", err)
	}
	if _, err := l.Capture(func(lab.Packet) {}); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Capture after Close: %v", err)
	}
}

func TestContextKillsProcessAndItsChildren(t *testing.T) {
	l := labtest.New(t, twoClouds)
	ctx, cancel := context.WithCancel(t.Context())
	p, child := startSleeper(t, ctx, l.Host("web1"))
	cancel()
	if p.Wait() == nil || !gone(child) {
		t.Fatal("the end of the context left processes")
	}
}

func TestSignalReachesProcess(t *testing.T) {
	l := labtest.New(t, twoClouds)
	p, child := startSleeper(t, t.Context(), l.Host("web1"))
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Kill() // the child, which holds the output
	if p.Wait() == nil || !gone(child) {
		t.Fatal("still running")
	}
}

func TestCaptureSeesEachPacketOnce(t *testing.T) {
	l := labtest.New(t, twoClouds)
	web, db := l.Host("web1"), l.Host("db1")
	type datagram struct {
		from, to netip.AddrPort
		content  string
	}
	seen := make(chan datagram, 64)
	c, err := l.Capture(func(p lab.Packet) {
		if from, to, payload, ok := p.UDP(); ok {
			seen <- datagram{from, to, string(payload)}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	addrs := []netip.Addr{db.Addr4}
	if l.IPv6() {
		addrs = append(addrs, db.Addr6)
	}
	for _, a := range addrs {
		for _, content := range []string{"first", "second"} {
			err := web.Do(func() error {
				u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 4500)))
				if err != nil {
					return err
				}
				defer u.Close()
				_, err = u.Write([]byte(content))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			d := <-seen
			if d.content != content || d.to != netip.AddrPortFrom(a, 4500) || d.from.Addr() != web.Addr4 && d.from.Addr() != web.Addr6 {
				t.Fatalf("captured %v, want %q to %v", d, content, a)
			}
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 0 {
		t.Fatalf("captured %v beyond what was sent", <-seen)
	}
	if c.Seen() < uint64(2*len(addrs)) || c.Dropped() != 0 {
		t.Fatalf("saw %d, dropped %d", c.Seen(), c.Dropped())
	}
	if err := c.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

func TestPacketUDPRefusesWhatIsNotUDP(t *testing.T) {
	good := make([]byte, 20+8+4)
	good[0], good[9] = 0x45, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(good[24:], 12)
	if _, _, payload, ok := (lab.Packet{Data: good}).UDP(); !ok || len(payload) != 4 {
		t.Fatalf("payload %d bytes, ok %v", len(payload), ok)
	}
	for n := range good {
		if _, _, _, ok := (lab.Packet{Data: good[:n]}).UDP(); ok {
			t.Errorf("cut to %d bytes it still passes", n)
		}
	}
	for name, change := range map[string]func(b []byte){
		"version":         func(b []byte) { b[0] = 0x55 },
		"header length 0": func(b []byte) { b[0] = 0x40 },
		"header too long": func(b []byte) { b[0] = 0x4f },
		"TCP":             func(b []byte) { b[9] = unix.IPPROTO_TCP },
		"fragment":        func(b []byte) { b[6] = 0x20 },
		"later fragment":  func(b []byte) { b[7] = 1 },
		"UDP length 7":    func(b []byte) { b[25] = 7 },
		"UDP length 13":   func(b []byte) { b[25] = 13 },
	} {
		b := bytes.Clone(good)
		change(b)
		if _, _, _, ok := (lab.Packet{Data: b}).UDP(); ok {
			t.Errorf("%s: passes", name)
		}
	}
}

func FuzzPacketUDP(f *testing.F) {
	f.Add([]byte{0x45, 9: 17, 31: 0})
	f.Add([]byte{0x60, 6: 17, 60: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if from, to, payload, ok := (lab.Packet{Data: b}).UDP(); ok && (!from.IsValid() || !to.IsValid() || len(payload) > len(b)) {
			t.Fatalf("% x: %v %v %d", b, from, to, len(payload))
		}
	})
}

func TestSetLinkCutsAHostOffAndBack(t *testing.T) {
	l := labtest.New(t, twoClouds)
	web, db := l.Host("web1"), l.Host("db1")
	talk(t, web, db, db.Addr4)
	if err := db.SetLink(false); err != nil {
		t.Fatal(err)
	}
	if c, err := web.DialTCP(t.Context(), netip.AddrPortFrom(db.Addr4, 7)); err == nil {
		c.Close()
		t.Fatal("reached a host whose link is down")
	}
	if err := db.SetLink(true); err != nil {
		t.Fatal(err)
	}
	talk(t, web, db, db.Addr4)
	if l.IPv6() {
		talk(t, web, db, db.Addr6)
	}
}

func TestLabLeavesNoGoroutineAndNoDescriptor(t *testing.T) {
	labtest.Require(t)
	ignore := goleak.IgnoreCurrent()
	run := func() {
		l, err := lab.New(twoClouds)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Capture(func(lab.Packet) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Host("web1").Start(helper(t.Context(), l.Host("web1"), "sleep")); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	run() // opens what the runtime keeps, such as its poller
	before := descriptors(t)
	run()
	if after := descriptors(t); len(after) != len(before) {
		t.Errorf("descriptors before %v, after %v", before, after)
	}
	goleak.VerifyNone(t, ignore)
}

func descriptors(t *testing.T) []string {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

func TestConfigNamesTheBadField(t *testing.T) {
	labtest.Require(t)
	cloud := func(c lab.Cloud) lab.Config { return lab.Config{Clouds: []lab.Cloud{c}} }
	for want, cfg := range map[string]lab.Config{
		"Clouds":      {},
		"MTU":         {Clouds: twoClouds.Clouds, MTU: 1279},
		"Prefix4":     cloud(lab.Cloud{Prefix4: netip.MustParsePrefix("10.0.0.0/16")}),
		"Prefix6":     cloud(lab.Cloud{Prefix6: netip.MustParsePrefix("10.0.0.0/24")}),
		"Hosts":       cloud(lab.Cloud{Hosts: []string{"a", "a"}}),
		`"Big"`:       cloud(lab.Cloud{Hosts: []string{"Big"}}),
		"at most 200": cloud(lab.Cloud{Hosts: make([]string, 201)}),
	} {
		if _, err := lab.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a word about %s", err, want)
		}
	}
}

func TestScratchIsPrivateAndWritable(t *testing.T) {
	labtest.Require(t)
	if lab.Scratch() == "" {
		t.Skip("nothing can be mounted here")
	}
	st, err := os.Stat(lab.Scratch())
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(lab.Scratch(), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsAreSentences(t *testing.T) {
	for r, want := range map[lab.Reason]string{
		lab.NoNamespaces: "run as root", lab.NoTUN: "/dev/net/tun", lab.NoForwarding: "/proc/sys", lab.Outside: "lab.Main",
	} {
		err := &lab.UnavailableError{Reason: r, Err: unix.EPERM}
		if !strings.Contains(err.Error(), want) || !errors.Is(err, os.ErrPermission) {
			t.Errorf("%v", err)
		}
	}
}
