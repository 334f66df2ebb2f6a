//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"icvpn/internal/lab"
)

const (
	bulkPort    = 5001
	pingTimeout = time.Second
	protoICMP   = 1
)

// ping sends n echo requests from a host, each after the answer to the one
// before, and returns the round trip times in milliseconds. The peer's kernel
// answers.
func ping(from *lab.Host, to netip.Addr, n int) (rtts []float64, err error) {
	var conn *icmp.PacketConn
	err = from.Do(func() (err error) { // the socket stays in the host
		conn, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for seq := range n {
		rtt, err := echo(conn, to, seq)
		if err != nil {
			return nil, fmt.Errorf("ping %d from %s to %s: %w", seq, from.Name, to, err)
		}
		rtts = append(rtts, milliseconds(rtt))
	}
	return rtts, nil
}

// echo sends one request and waits for its answer.
func echo(conn *icmp.PacketConn, to netip.Addr, seq int) (time.Duration, error) {
	id := os.Getpid() & 0xffff
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq, Data: make([]byte, 56)}}
	b, err := request.Marshal(nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := conn.SetReadDeadline(began.Add(pingTimeout)); err != nil {
		return 0, err
	}
	if _, err := conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		took := time.Since(began)
		if err != nil {
			return 0, err
		}
		m, err := icmp.ParseMessage(protoICMP, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && e.Seq == seq {
			return took, nil
		}
	}
}

// received is what came out of a TCP stream.
type received struct {
	bytes int64
	took  time.Duration
	err   error
}

func (r received) megabits() float64 { return float64(r.bytes) * 8 / 1e6 / r.took.Seconds() }

// bulk sends one TCP stream for d and returns what the receiver got.
func bulk(ctx context.Context, from, to *lab.Host, addr netip.Addr, d time.Duration) (received, error) {
	at := netip.AddrPortFrom(addr, bulkPort)
	l, err := to.ListenTCP(at)
	if err != nil {
		return received{}, err
	}
	defer l.Close()
	done := make(chan received, 1)
	go drain(l, done)
	c, err := from.DialTCP(ctx, at)
	if err != nil {
		return received{}, err
	}
	err = fill(c, d)
	c.Close()
	r := <-done
	return r, errors.Join(err, r.err)
}

// fill writes as fast as it can.
func fill(c net.Conn, d time.Duration) error {
	chunk := make([]byte, 256<<10)
	if err := c.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	for {
		if _, err := c.Write(chunk); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// drain accepts one connection and reads it to its end.
func drain(l net.Listener, done chan<- received) {
	c, err := l.Accept()
	if err != nil {
		done <- received{err: err}
		return
	}
	defer c.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, c)
	done <- received{n, time.Since(began), err}
}
