//go:build linux

package main

import (
	"context"
	"net/netip"

	"icvpn/internal/underlay"
	"icvpn/tun"
)

// edges carries packets as they are between icvpn's own device and port, one
// goroutine each way: the most that any cipher between them could leave.
func edges(c endConfig) (end func(), err error) {
	dev, err := tun.Open(tun.Config{Name: endInterface, MTU: c.MTU, AssumeValid: true})
	if err != nil {
		return nil, err
	}
	port, err := underlay.Listen(context.Background(), netip.AddrPortFrom(netip.IPv4Unspecified(), c.Port))
	if err != nil {
		dev.Close()
		return nil, err
	}
	go edgeOut(dev, port, c.Remote)
	for _, r := range port.Readers() {
		go edgeIn(r, dev)
	}
	return func() {
		_ = port.Close()
		dev.Close()
	}, nil
}

// edgeOut ends when the device is closed.
func edgeOut(dev tun.Device, port *underlay.Conn, to netip.AddrPort) {
	bufs, _, sizes := newBatch(dev.BatchSize())
	out := make([]underlay.Message, len(bufs))
	for {
		n, err := dev.Read(bufs, sizes, forwardOffset)
		if err != nil {
			return
		}
		for i := range n {
			out[i] = underlay.Message{Buf: bufs[i][forwardOffset:], N: sizes[i], Addr: to}
		}
		if _, err := port.WriteBatch(out[:n]); err != nil {
			return
		}
	}
}

// edgeIn ends when the port is closed.
func edgeIn(r underlay.Reader, dev tun.Device) {
	batch := underlay.NewBatch(underlay.BatchSize, underlay.TrainBuffer)
	var packets [][]byte
	for {
		n, err := r.ReadBatch(batch)
		if err != nil {
			return
		}
		packets = packets[:0]
		for i := range batch[:n] {
			for _, p := range batch[i].Datagrams() {
				packets = append(packets, p)
			}
		}
		for rest := packets; len(rest) > 0; {
			k := min(len(rest), dev.BatchSize())
			if _, err := dev.Write(rest[:k], 0); err != nil {
				return
			}
			rest = rest[k:]
		}
	}
}
