//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
)

const (
	pingTimeout = time.Second
	pingData    = 56 // bytes, as ping(8)
	protoICMP   = 1
)

// ErrNoAnswer says that an echo request was not answered in a second.
var ErrNoAnswer = errors.New("no answer in a second")

// Pinger sends echo requests from a host, one at a time. The peer's kernel
// answers.
type Pinger struct {
	from *lab.Host
	fd   int
	id   int
	seq  int
	buf  []byte
}

// NewPinger opens a socket in the host.
func NewPinger(from *lab.Host) (*Pinger, error) {
	p := &Pinger{from: from, id: os.Getpid() & 0xffff, buf: make([]byte, 2048)}
	err := from.Do(func() (err error) { // the socket stays in the host
		p.fd, err = socket(unix.AF_INET, unix.SOCK_RAW, protoICMP, pingTimeout)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ping from %s: %w", from.Name, err)
	}
	return p, nil
}

// Close closes the socket.
func (p *Pinger) Close() { unix.Close(p.fd) }

// Echo sends one request and waits for its answer.
func (p *Pinger) Echo(to netip.Addr) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.seq = (p.seq + 1) & 0xffff
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: p.seq, Data: make([]byte, pingData)}}
	b, err := request.Marshal(nil)
	if err != nil {
		return 0, err
	}
	dst, _ := sockaddr(netip.AddrPortFrom(to, 0))
	began := time.Now()
	_, err = again(func() (int, error) { return 0, unix.Sendto(p.fd, b, 0, dst) })
	for err == nil && time.Since(began) < pingTimeout {
		var n int
		n, err = again(func() (int, error) { return unix.Read(p.fd, p.buf) })
		took := time.Since(began)
		if err == nil && p.answered(p.buf[:n]) {
			return took, nil
		}
	}
	if err == nil || errors.Is(err, unix.EAGAIN) {
		err = ErrNoAnswer
	}
	return 0, fmt.Errorf("ping %d from %s to %s: %w", p.seq, p.from.Name, to, err)
}

// answered reports whether a packet answers the last request.
func (p *Pinger) answered(b []byte) bool {
	const header = 20
	if len(b) < header || len(b) < int(b[0]&15)*4 {
		return false
	}
	m, err := icmp.ParseMessage(protoICMP, b[int(b[0]&15)*4:])
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
		return false
	}
	e, ok := m.Body.(*icmp.Echo)
	return ok && e.ID == p.id && e.Seq == p.seq
}

// Ping sends n requests, each after the answer to the one before and the gap, and
// returns the round trip times in milliseconds. It wants every answer.
func Ping(ctx context.Context, from *lab.Host, to netip.Addr, n int, gap time.Duration) (rtts []float64, err error) {
	p, err := NewPinger(from)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for range n {
		rtt, err := p.Echo(to)
		if err != nil {
			return nil, err
		}
		rtts = append(rtts, Milliseconds(rtt))
		if gap > 0 {
			err = Sleep(ctx, gap)
		} else {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
	}
	return rtts, nil
}
