//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// udpEncapESPinUDP is UDP_ENCAP_ESPINUDP of linux/udp.h.
const udpEncapESPinUDP = 2

// hold opens a socket for each address family, has the kernel take ESP out of
// what arrives there, says for each whether the kernel does it, and reads away
// what is no ESP, for ever.
func hold(port string) {
	var readers sync.WaitGroup
	for _, family := range []struct{ name, network, host string }{
		{"IPv4", "udp4", "0.0.0.0"}, {"IPv6", "udp6", "::"},
	} {
		c := net.ListenConfig{Control: encapsulate}
		conn, err := c.ListenPacket(context.Background(), family.network, net.JoinHostPort(family.host, port))
		if err != nil {
			fmt.Printf("%s: %v\n", family.name, err)
			continue
		}
		fmt.Printf("%s: ok\n", family.name)
		readers.Go(func() { discard(conn) })
	}
	readers.Wait()
}

func discard(c net.PacketConn) {
	for b := make([]byte, 1); ; {
		// Errors are those of ICMP, about datagrams long gone.
		_, _, _ = c.ReadFrom(b)
	}
}

func encapsulate(_, _ string, c syscall.RawConn) (err error) {
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_ENCAP, udpEncapESPinUDP)
	}); cerr != nil {
		return cerr
	}
	return err
}

// echo sends back what arrives, by UDP and TCP, until it is killed.
func echo(port string) error {
	var lc net.ListenConfig
	for _, network := range []string{"udp4", "udp6"} {
		c, err := lc.ListenPacket(context.Background(), network, ":"+port)
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		go echoDatagrams(c)
	}
	l, err := lc.Listen(context.Background(), "tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	fmt.Println("ok")
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		go echoStream(c)
	}
}

// echoDatagrams goes on when a datagram cannot be sent: the answer to one that
// was too long for the path arrives as an error of the next call.
func echoDatagrams(c net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			continue
		}
		if _, err := c.WriteTo(b[:n], from); err != nil {
			// Once more, now that the kernel has learnt the path's MTU.
			_, _ = c.WriteTo(b[:n], from)
		}
	}
}

func echoStream(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}
