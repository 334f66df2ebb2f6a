package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The flow of this file: Main -> reexec (outside) -> start -> wait, and in
// the process so started: Main -> setUp -> inside.

// marker tells the second run what it is. Its value is the inode of the first
// run's network namespace, so that a marker in a stray environment cannot make
// a process take the host's network for the lab.
const marker = "ICVPN_LAB_OUTSIDE_NETNS"

// These describe the process, of which there is one; Main sets them once.
var (
	isInside   atomic.Bool
	scratchDir atomic.Pointer[string]
)

// Inside reports whether this process is the one that Main started.
func Inside() bool { return isInside.Load() }

// Scratch returns a directory that exists only inside the lab and vanishes
// with it, or "" where none could be made.
func Scratch() string {
	if p := scratchDir.Load(); p != nil {
		return *p
	}
	return ""
}

// Main calls inside in fresh namespaces and returns its exit code: it runs the
// calling program again with the same arguments and environment (standard
// input excepted), and that run, on reaching Main, calls inside. So Main
// belongs near the start of a program, before it opens anything.
//
// Both runs return to the caller, who exits with the code, or reports the
// error, an *UnavailableError where the machine allows no namespaces. SIGINT,
// SIGTERM, SIGHUP and SIGQUIT are passed on to the inner run, once each.
func Main(inside func() int) (int, error) {
	outer := os.Getenv(marker)
	if outer == "" || outer == netnsInode() || os.Getpid() != 1 {
		return reexec()
	}
	os.Unsetenv(marker) // it is not our children's
	if err := setUp(); err != nil {
		return 1, err
	}
	isInside.Store(true)
	return inside(), nil
}

// netnsInode identifies the network namespace of the calling thread.
func netnsInode() string {
	var st unix.Stat_t
	if err := unix.Stat(threadNetns, &st); err != nil {
		return ""
	}
	return strconv.FormatUint(st.Ino, 10)
}

// reexec runs the program again. Root needs no user namespace, but root in a
// container may lack the right and then tries what an ordinary user does.
func reexec() (int, error) {
	// Pdeathsig is sent when the thread that forked ends, so keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)

	cmd, err := start(os.Geteuid() != 0)
	if err != nil && os.Geteuid() == 0 {
		cmd, err = start(true)
	}
	if err != nil {
		return 1, &UnavailableError{Reason: NoNamespaces, Err: err}
	}
	return wait(cmd, signals)
}

// start starts the program in fresh namespaces.
func start(userNS bool) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), marker+"="+netnsInode())
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		// A group of its own: the terminal's Ctrl-C reaches only the outer run,
		// which passes it on; otherwise it would arrive twice.
		Setpgid: true,
	}
	if userNS {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd, cmd.Start()
}

// wait passes signals on until the program ends and returns its exit code.
func wait(cmd *exec.Cmd, signals <-chan os.Signal) (int, error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig)
		case err := <-ended:
			return exitCode(cmd.ProcessState, err)
		}
	}
}

// exitCode is the shell's: that of the program, or 128 and the signal.
func exitCode(st *os.ProcessState, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, fmt.Errorf("lab: wait for the inner run: %w", err)
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return st.ExitCode(), nil
}

// setUp makes the fresh namespaces usable.
func setUp() error {
	switch err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); {
	case errors.Is(err, unix.EINVAL):
		// A chroot: not a mount point, so nothing can be mounted without the
		// host seeing it. The lab does without.
	case err != nil:
		// AppArmor lets an ordinary user make a user namespace and then denies
		// everything in it.
		return &UnavailableError{Reason: NoNamespaces, Err: err}
	default:
		mountPrivate()
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return &UnavailableError{Reason: NoNamespaces, Err: err}
	}
	return nil
}

// mountPrivate mounts what only the lab sees, as far as it may: a /proc with
// the lab's process numbers (the old one would do: all we read there is
// relative to the reader), and the scratch directory, over one that exists
// everywhere and that nobody's files lie in.
func mountPrivate() {
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	const dir = "/dev/shm"
	if unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700") == nil {
		scratch := dir
		scratchDir.Store(&scratch)
	}
}

// CheckTUN reports whether TUN devices can be made inside, by making one. Its
// error is an *UnavailableError.
func CheckTUN() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &UnavailableError{Reason: NoTUN, Err: err}
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("labcheck%d")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return &UnavailableError{Reason: NoTUN, Err: err}
	}
	return nil
}
