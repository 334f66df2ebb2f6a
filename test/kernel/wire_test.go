//go:build linux

package kernel

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// direction of a frame.
type direction int

const (
	toKernel direction = iota
	toIcvpn
)

func (d direction) String() string { return [...]string{"icvpn to kernel", "kernel to icvpn"}[d] }

// hook sees each ESP packet of a direction and returns those that go on in its
// place. It borrows the packet.
type hook func(esp []byte) [][]byte

// wire is the link between the tap device, where icvpn's datagrams go, and the
// virtual machine's network card. Every frame passes through this process.
type wire struct {
	dir string
	tap *os.File
	vm  *net.UnixConn

	mu        sync.Mutex
	hooks     [2]hook
	template  [2]frame // of the last ESP frame: how one is addressed
	packets   [2]int   // ESP packets that entered
	fragments [2]int   // fragments that entered, of whatever
	longest   [2]int   // longest ESP frame, without the Ethernet header
}

const (
	tapName = "underlay0"
	tapMTU  = 1500
)

// newWire makes the tap device and the socket. The machine may come later.
func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{dir: scratch(t)}
	// Room for a burst: the default of 10 datagrams is that of chatting programs.
	_ = os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("512"), 0)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(tapName)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	w.tap = os.NewFile(uintptr(fd), tapName)
	if w.vm, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.ourPath(), Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	_ = w.vm.SetWriteBuffer(4 << 20)
	var loops sync.WaitGroup
	loops.Go(w.toKernelLoop)
	loops.Go(w.toIcvpnLoop)
	t.Cleanup(func() {
		w.tap.Close()
		w.vm.Close()
		loops.Wait()
	})
	return w
}

func (w *wire) ourPath() string { return filepath.Join(w.dir, "ours") }
func (w *wire) vmPath() string  { return filepath.Join(w.dir, "vm") }

func (w *wire) toKernelLoop() {
	b := make([]byte, 1<<16)
	for {
		n, err := w.tap.Read(b)
		if err != nil {
			return
		}
		w.pass(toKernel, b[:n])
	}
}

func (w *wire) toIcvpnLoop() {
	b := make([]byte, 1<<16)
	for {
		n, err := w.vm.Read(b)
		if err != nil {
			return
		}
		w.pass(toIcvpn, b[:n])
	}
}

// pass sends a frame on, or what the hook makes of it.
func (w *wire) pass(d direction, f frame) {
	for _, g := range w.judge(d, f) {
		w.send(d, g)
	}
}

func (w *wire) judge(d direction, f frame) []frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.isFragment() {
		w.fragments[d]++
	}
	esp := f.esp()
	if esp == nil {
		return []frame{f}
	}
	w.packets[d]++
	w.longest[d] = max(w.longest[d], len(f)-etherLen)
	w.template[d] = append(w.template[d][:0], f...)
	if w.hooks[d] == nil {
		return []frame{f}
	}
	var out []frame
	for _, p := range w.hooks[d](esp) {
		out = append(out, f.carrying(p))
	}
	return out
}

// send delivers a frame. As long as there is no machine, or too much for it,
// frames are lost, as on any link.
func (w *wire) send(d direction, f frame) {
	if d == toIcvpn {
		_, _ = w.tap.Write(f)
		return
	}
	to := &net.UnixAddr{Name: w.vmPath(), Net: "unixgram"}
	for range 100 {
		_, err := w.vm.WriteToUnix(f, to)
		if !errors.Is(err, unix.ENOBUFS) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// inject sends an ESP packet as if the other end had sent it, addressed as the
// last one of that direction. No hook sees it.
func (w *wire) inject(d direction, esp []byte) {
	w.mu.Lock()
	f := w.template[d].carrying(esp)
	w.mu.Unlock()
	w.send(d, f)
}

// hook sets what happens to ESP packets from now on; nil lets them pass.
func (w *wire) hook(d direction, h hook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hooks[d] = h
}

// sent returns how many ESP packets a direction's sender has sent.
func (w *wire) sent(d direction) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.packets[d]
}

// fragmented returns how many fragments have been on the wire.
func (w *wire) fragmented() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fragments[toKernel] + w.fragments[toIcvpn]
}

// longestESP returns the length of the longest IP packet with ESP of a direction
// since the last call.
func (w *wire) longestESP(d direction) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.longest[d]
	w.longest[d] = 0
	return n
}

// record is a hook that keeps copies and lets everything pass.
func record(into *[][]byte) hook {
	return func(esp []byte) [][]byte {
		*into = append(*into, slices.Clone(esp))
		return [][]byte{esp}
	}
}

// once is a hook that applies h to the first packet and lets the others pass.
func once(h hook) hook {
	used := false
	return func(esp []byte) [][]byte {
		if used {
			return [][]byte{esp}
		}
		used = true
		return h(esp)
	}
}
