//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
)

const (
	bulkPort    = 5001
	requestPort = 5002
	// chunkSize every paceEvery is 50 Mbit/s: a flow that is always there and
	// leaves the machine time for everything else.
	chunkSize = 64 << 10
	paceEvery = 10 * time.Millisecond
	// patience is how long TCP may take over a machine under load.
	patience = 20 * time.Second
	// echoPatience is how long an echo may be under way before it counts as
	// lost. A full queue may drop one; maxLost in a row are a break.
	echoPatience = time.Second
	maxLost      = 3
)

// traffic is what flows from one machine to another until finish is called: a
// bulk stream, requests with answers, and the kernel's echo requests.
type traffic struct {
	group *errgroup.Group
	ctx   context.Context // ends with the first failure
	stop  context.CancelFunc
	bytes atomic.Int64 // of the bulk stream, sent
	calls atomic.Int64 // requests answered rightly
	pings atomic.Int64 // echo requests answered
	lost  atomic.Int64 // and not
}

// startTraffic starts all three between overlay addresses.
func startTraffic(t *testing.T, from, to *machine) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	f := &traffic{stop: stop}
	f.group, ctx = errgroup.WithContext(ctx)
	f.ctx = ctx
	src, dst := from.addr4(), to.addr4()
	bulk := listen(t, to, netip.AddrPortFrom(dst, bulkPort))
	requests := listen(t, to, netip.AddrPortFrom(dst, requestPort))
	go serveHash(bulk)
	go serveRequests(requests)
	f.group.Go(func() error { return f.stream(ctx, from, netip.AddrPortFrom(dst, bulkPort)) })
	f.group.Go(func() error { return f.ask(ctx, from, netip.AddrPortFrom(dst, requestPort)) })
	f.group.Go(func() error { return f.ping(ctx, from, src, dst) })
	return f
}

func listen(t *testing.T, m *machine, addr netip.AddrPort) net.Listener {
	t.Helper()
	l, err := m.host.ListenTCP(addr)
	if err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// awaitMore waits until each of the three has got further, so that what comes
// next happens under traffic.
func (f *traffic) awaitMore(w *world) {
	w.t.Helper()
	bytes, calls, pings := f.bytes.Load(), f.calls.Load(), f.pings.Load()
	w.eventually("traffic flows", startLimit, func() error {
		if f.ctx.Err() != nil {
			w.t.Fatal(f.finish())
		}
		b, c, p := f.bytes.Load()-bytes, f.calls.Load()-calls, f.pings.Load()-pings
		if b < 4<<20 || c < 20 || p < 20 {
			return fmt.Errorf("%d bytes, %d answers, %d echoes since", b, c, p)
		}
		return nil
	})
}

// finish ends the traffic and reports what of it went wrong.
func (f *traffic) finish() error {
	f.stop()
	return f.group.Wait()
}

func (f *traffic) String() string {
	return fmt.Sprintf("%d MiB in order, %d requests answered, %d echoes and %d lost ones", f.bytes.Load()>>20, f.calls.Load(), f.pings.Load(), f.lost.Load())
}

// stream sends bytes that cannot be guessed, and compares hashes at the end.
func (f *traffic) stream(ctx context.Context, from *machine, to netip.AddrPort) error {
	c, err := from.host.DialTCP(ctx, to)
	if err != nil {
		return fmt.Errorf("bulk: %w", err)
	}
	defer c.Close()
	sum, source, chunk := sha256.New(), rand.NewChaCha8([32]byte{1}), make([]byte, chunkSize)
	pace := time.NewTicker(paceEvery)
	defer pace.Stop()
	for ctx.Err() == nil {
		source.Read(chunk)
		sum.Write(chunk)
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		if _, err := c.Write(chunk); err != nil {
			return fmt.Errorf("bulk: after %d bytes: %w", f.bytes.Load(), err)
		}
		f.bytes.Add(chunkSize)
		<-pace.C
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return fmt.Errorf("bulk: %w", err)
	}
	return sameHash(c, sum)
}

func sameHash(c net.Conn, sum hash.Hash) error {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("bulk: %w", err)
	}
	if !bytes.Equal(got, sum.Sum(nil)) {
		return errors.New("bulk: what arrived has another hash than what was sent")
	}
	return nil
}

// serveHash answers a stream with its hash.
func serveHash(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, c); err == nil {
				_, _ = c.Write(sum.Sum(nil))
			}
		}()
	}
}

// ask sends one request after the other on one connection.
func (f *traffic) ask(ctx context.Context, from *machine, to netip.AddrPort) error {
	c, err := from.host.DialTCP(ctx, to)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	pace := time.NewTicker(paceEvery)
	defer pace.Stop()
	for seq := 0; ctx.Err() == nil; seq++ {
		_ = c.SetDeadline(time.Now().Add(patience))
		if err := askOnce(c, answers, seq); err != nil {
			return fmt.Errorf("request %d: %w", seq, err)
		}
		f.calls.Add(1)
		<-pace.C
	}
	return nil
}

func askOnce(c net.Conn, answers *bufio.Reader, seq int) error {
	request := fmt.Sprintf("request %d\n", seq)
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	got, err := answers.ReadString('\n')
	if err == nil && got != answerTo(request) {
		err = fmt.Errorf("wrong answer %q", got)
	}
	return err
}

func answerTo(request string) string { return fmt.Sprintf("%x\n", sha256.Sum256([]byte(request))) }

func serveRequests(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewReader(c); ; {
				request, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				if _, err := io.WriteString(c, answerTo(request)); err != nil {
					return
				}
			}
		}()
	}
}

// ping sends echo requests of the kernel's, not of the program's: they take the
// way of every other packet.
func (f *traffic) ping(ctx context.Context, from *machine, src, dst netip.Addr) error {
	p, err := newPinger(from, src)
	if err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	defer p.Close()
	pace := time.NewTicker(4 * paceEvery)
	defer pace.Stop()
	for seq, inARow := 0, 0; ctx.Err() == nil; seq++ {
		switch err := p.ping(dst, seq, echoPatience); {
		case err == nil:
			f.pings.Add(1)
			inARow = 0
		case inARow == maxLost:
			return fmt.Errorf("echo request %d, after %d lost ones: %w", seq, maxLost, err)
		default:
			f.lost.Add(1)
			inARow++
		}
		<-pace.C
	}
	return nil
}

// pinger is a raw ICMP socket in a host, bound to an address of it.
type pinger struct {
	net.PacketConn
	id int
}

func newPinger(m *machine, src netip.Addr) (*pinger, error) {
	p := &pinger{id: rand.IntN(1 << 16)}
	err := m.host.Do(func() (err error) {
		p.PacketConn, err = net.ListenPacket("ip4:icmp", src.String())
		return err
	})
	return p, err
}

// ping sends one echo request and waits for its answer.
func (p *pinger) ping(dst netip.Addr, seq int, limit time.Duration) error {
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: seq & 0xffff, Data: []byte(marker)}}
	b, err := request.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := p.WriteTo(b, &net.IPAddr{IP: dst.AsSlice()}); err != nil {
		return err
	}
	_ = p.SetReadDeadline(time.Now().Add(limit))
	for buf := make([]byte, 1500); ; {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply || from.String() != dst.String() {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == p.id && e.Seq == seq&0xffff {
			return nil
		}
	}
}

// marker stands in clear in what is sent through tunnels.
const marker = "order-4711-in-clear-text"
