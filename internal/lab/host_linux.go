package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostInterface is the name of a host's only interface besides lo.
const hostInterface = "eth0"

// outputGrace is how long Wait waits for descendants that keep a dead
// process's output open.
const outputGrace = 2 * time.Second

// Host is one machine: a network namespace with an address in its cloud.
type Host struct {
	Name  string
	Cloud string
	Addr4 netip.Addr
	Addr6 netip.Addr // the zero Addr where the kernel has no IPv6

	lab  *Lab
	ns   *netns
	port end // the router's end of its link
}

// Do runs fn on a thread in the host's namespace and returns its error.
// Sockets that fn opens belong to the host for their whole life; goroutines
// that it starts run outside. It waits for fn.
func (h *Host) Do(fn func() error) error { return h.ns.do(fn) }

// Command returns a command to be given to Start or Run. When ctx ends, the
// process and its children are killed.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	return cmd
}

// Start starts cmd in the host, in a process group of its own, and takes it:
// wait for it through the Process. Its output goes to cmd.Stdout and
// cmd.Stderr; StdoutPipe and StderrPipe may lose the end of it.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = outputGrace
	}
	p := &Process{lab: h.lab, cmd: cmd, done: make(chan struct{})}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, errClosed
	}
	// A child belongs to the namespace of the thread that forks it. Pdeathsig
	// would follow that thread too, which does not live long; what kills the
	// child with the lab is the process namespace.
	if err := h.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("lab: host %s: start %s: %w", h.Name, cmd.Path, err)
	}
	h.lab.processes[p] = struct{}{}
	go p.waitLoop()
	return p, nil
}

// Run starts cmd in the host and waits for it.
func (h *Host) Run(cmd *exec.Cmd) error {
	p, err := h.Start(cmd)
	if err != nil {
		return err
	}
	return p.Wait()
}

// DialTCP connects from the host to addr.
func (h *Host) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		// A literal address is dialled on the calling goroutine, so the socket
		// is made on this thread.
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", addr.String())
		return err
	})
	return c, err
}

// ListenTCP listens in the host. Accepted connections belong to it as well.
func (h *Host) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
		return err
	})
	return ln, err
}

// SetLink takes the host's link up or down at the router; down, the host is
// cut off.
func (h *Host) SetLink(up bool) error {
	return h.lab.router.do(func() error {
		name := "to-" + h.Name
		if up {
			// The kernel removed routes and IPv6 addresses when it went down.
			return h.lab.addressEnd(name, h.port)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("lab: host %s: %w", h.Name, err)
		}
		return netlink.LinkSetDown(link)
	})
}

// killGroup kills a process with its children. The number stays that group's
// until the last of them is gone.
func killGroup(pid int) error { return unix.Kill(-pid, unix.SIGKILL) }
