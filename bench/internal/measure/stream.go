//go:build linux

package measure

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
)

const (
	// streamTimeout is how long a stream may stand still.
	streamTimeout = 5 * time.Second
	// chunk is what one system call is given, as iperf3 does.
	chunk = 128 << 10
)

// ErrStalled says that a TCP stream stood still.
var ErrStalled = fmt.Errorf("the TCP stream has stood still for %v", streamTimeout)

// Stream is one TCP stream between two hosts, as fast as it goes.
type Stream struct {
	in, out  int // sockets; closed by wait
	received atomic.Int64
	stop     atomic.Bool
	ended    chan error // sender and receiver, one each
}

// produce fills the buffer and says how much, 0 at the end.
type produce func([]byte) int

// TCP is where a stream goes.
type TCP struct {
	From, To *lab.Host
	At       netip.AddrPort // of To
	// Congestion is the sender's congestion control, of those that the kernel has; empty
	// for the namespace's. It is set on the socket: a namespace takes only those that
	// everybody may use on this machine.
	Congestion string
}

// StartStream connects and begins to send.
func StartStream(t TCP) (*Stream, error) {
	s := &Stream{ended: make(chan error, 2)}
	err := s.start(t,
		func(b []byte) int {
			if s.stop.Load() {
				return 0
			}
			return len(b)
		},
		func(b []byte) { s.received.Add(int64(len(b))) })
	return s, err
}

// Received is how many bytes have come out so far.
func (s *Stream) Received() int64 { return s.received.Load() }

// Stop ends the stream and waits until everything sent has arrived.
func (s *Stream) Stop() error {
	s.stop.Store(true)
	return s.wait()
}

// Abort ends the stream at once; what is on its way may be lost.
func (s *Stream) Abort() {
	s.stop.Store(true)
	_ = unix.Shutdown(s.out, unix.SHUT_RDWR)
	_ = unix.Shutdown(s.in, unix.SHUT_RDWR)
	_ = s.wait()
}

func (s *Stream) wait() error {
	err := errors.Join(<-s.ended, <-s.ended)
	unix.Close(s.in)
	unix.Close(s.out)
	return err
}

// start connects and starts both ends.
func (s *Stream) start(t TCP, next produce, consume func([]byte)) error {
	var err error
	if s.in, s.out, err = t.connect(); err != nil {
		return fmt.Errorf("TCP from %s to %s: %w", t.From.Name, t.At, err)
	}
	go s.sendLoop(next)
	go s.receiveLoop(consume)
	return nil
}

func (s *Stream) sendLoop(next produce) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer unix.Shutdown(s.out, unix.SHUT_WR) //nolint:errcheck // the receiver's end then is its timeout
	buf := make([]byte, chunk)
	for {
		rest := buf[:next(buf)]
		if len(rest) == 0 {
			s.ended <- nil
			return
		}
		for len(rest) > 0 {
			n, err := again(func() (int, error) { return unix.Write(s.out, rest) })
			if err != nil {
				s.ended <- stalled("send", err)
				return
			}
			rest = rest[n:]
		}
	}
}

func (s *Stream) receiveLoop(consume func([]byte)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, chunk)
	for {
		n, err := again(func() (int, error) { return unix.Read(s.in, buf) })
		if err != nil || n == 0 {
			s.ended <- stalled("receive", err)
			return
		}
		consume(buf[:n])
	}
}

func stalled(what string, err error) error {
	if errors.Is(err, unix.EAGAIN) {
		err = ErrStalled
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// connect returns both ends of a TCP connection.
func (t TCP) connect() (in, out int, err error) {
	addr, family := sockaddr(t.At)
	listener := -1
	err = t.To.Do(func() (err error) {
		if listener, err = socket(family, unix.SOCK_STREAM, 0, streamTimeout); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), // the port of the stream before
			unix.Bind(listener, addr), unix.Listen(listener, 1))
	})
	if listener >= 0 {
		defer unix.Close(listener)
	}
	if err != nil {
		return -1, -1, err
	}
	err = t.From.Do(func() (err error) {
		if out, err = socket(family, unix.SOCK_STREAM, 0, streamTimeout); err != nil {
			return err
		}
		if err = t.choose(out); err != nil {
			unix.Close(out)
			return err
		}
		if _, err = again(func() (int, error) { return 0, unix.Connect(out, addr) }); err != nil {
			unix.Close(out)
		}
		return err
	})
	if err != nil {
		return -1, -1, err
	}
	in, err = again(func() (fd int, err error) { fd, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); return fd, err })
	if err == nil {
		tv := unix.NsecToTimeval(streamTimeout.Nanoseconds())
		err = unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	}
	if err != nil {
		unix.Close(out)
	}
	return in, out, err
}

// choose sets the congestion control.
func (t TCP) choose(fd int) error {
	if t.Congestion == "" {
		return nil
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, t.Congestion); err != nil {
		known, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
		return fmt.Errorf("congestion control %s: this kernel has %s (%w)", t.Congestion, strings.Join(strings.Fields(string(known)), ", "), err)
	}
	return nil
}

// Hashes are of what a transfer sent and what arrived.
type Hashes struct {
	Bytes          int64
	Sent, Received [sha256.Size]byte
}

// Intact says that everything arrived as it was sent.
func (h Hashes) Intact() bool { return h.Bytes > 0 && h.Sent == h.Received }

// Transfer sends size bytes that cannot be guessed over TCP and returns the hash
// at both ends.
func Transfer(t TCP, size int64) (Hashes, error) {
	h := Hashes{Bytes: size}
	sent, received := sha256.New(), sha256.New()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32()) //nolint:gosec // content, no secret
	}
	content, left := rand.NewChaCha8(seed), size
	s := &Stream{ended: make(chan error, 2)}
	err := s.start(t,
		func(b []byte) int {
			b = b[:min(int64(len(b)), left)]
			left -= int64(len(b))
			_, _ = content.Read(b)
			sent.Write(b)
			return len(b)
		},
		func(b []byte) { received.Write(b) })
	if err == nil {
		err = s.wait()
	}
	sent.Sum(h.Sent[:0])
	received.Sum(h.Received[:0])
	return h, err
}
