// Package tuntest is a tun.Device in memory: a test injects the packets that
// the kernel would have sent and collects those that the node delivers.
//
// It has no goroutine and works in testing/synctest bubbles.
package tuntest

import (
	"fmt"
	"sync"

	"icvpn/tun"
)

// queueSize is how many packets wait in each direction. The kernel's queue of
// a TUN device is 500 packets long.
const queueSize = 512

// Device is the in-memory device. Make one with New.
type Device struct {
	// set at start
	name string
	mtu  int

	fromKernel chan []byte // injected, waiting for Read
	toKernel   chan []byte // written, waiting for the test
	done       chan struct{}
	closeOnce  sync.Once
	stats      tun.Stats
}

var _ tun.Device = (*Device)(nil)

// New returns a device.
func New(name string, mtu int) *Device {
	return &Device{
		name:       name,
		mtu:        mtu,
		fromKernel: make(chan []byte, queueSize),
		toKernel:   make(chan []byte, queueSize),
		done:       make(chan struct{}),
	}
}

// Inject queues a copy of packet for Read. It waits for room; the only error
// is tun.ErrClosed.
func (d *Device) Inject(packet []byte) error {
	select {
	case <-d.done:
		return tun.ErrClosed
	default:
	}
	select {
	case d.fromKernel <- append([]byte(nil), packet...):
		return nil
	case <-d.done:
		return tun.ErrClosed
	}
}

// Packets returns the channel of what was written. It is never closed; packets
// that nobody takes are dropped when it is full.
func (d *Device) Packets() <-chan []byte { return d.toKernel }

// Read implements tun.Device.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-d.done:
		return 0, tun.ErrClosed
	default:
	}
	var p []byte
	select {
	case p = <-d.fromKernel:
	case <-d.done:
		return 0, tun.ErrClosed
	}
	n := 0
	for {
		if len(bufs[n]) < offset+len(p) {
			return n, fmt.Errorf("tuntest: packet of %d bytes, buffer of %d at offset %d", len(p), len(bufs[n]), offset)
		}
		sizes[n] = copy(bufs[n][offset:], p)
		d.stats.ReadPackets.Add(1)
		d.stats.ReadBytes.Add(uint64(len(p)))
		if n++; n == min(len(bufs), d.BatchSize()) {
			return n, nil
		}
		select {
		case p = <-d.fromKernel:
		default:
			return n, nil
		}
	}
}

// Write implements tun.Device.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	accepted := 0
	for _, b := range bufs {
		select {
		case <-d.done:
			return accepted, tun.ErrClosed
		default:
		}
		if d.writeOne(b, offset) {
			accepted++
		}
	}
	return accepted, nil
}

// writeOne queues a copy of one packet.
func (d *Device) writeOne(b []byte, offset int) bool {
	if len(b) <= offset || b[offset]>>4 != 4 && b[offset]>>4 != 6 {
		d.stats.WriteDrops.Add(1)
		return false
	}
	p := append([]byte(nil), b[offset:]...)
	select {
	case d.toKernel <- p:
		d.stats.WritePackets.Add(1)
		d.stats.WriteBytes.Add(uint64(len(p)))
		return true
	default:
		d.stats.WriteDrops.Add(1)
		return false
	}
}

// MTU implements tun.Device.
func (d *Device) MTU() (int, error) { return d.mtu, nil }

// Name implements tun.Device.
func (d *Device) Name() string { return d.name }

// BatchSize implements tun.Device.
func (d *Device) BatchSize() int { return tun.MaxBatch }

// Stats returns the live counters.
func (d *Device) Stats() *tun.Stats { return &d.stats }

// Close implements tun.Device.
func (d *Device) Close() error {
	d.closeOnce.Do(func() { close(d.done) })
	return nil
}
