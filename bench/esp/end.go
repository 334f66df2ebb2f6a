//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/signal"
	"runtime/debug"
	"syscall"

	"context"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// This program as one end of a contestant: `esp end wireguard-go`, its
// configuration on standard input.
const (
	endCommand   = "end"
	endWireguard = "wireguard-go"
	endForwarder = "no-crypto"
	endEdges     = "edges"
	endConfigure = "configure" // addresses for an interface that another program has made

	endReady     = "ready to carry packets"
	endInterface = "bench0"
)

// endConfig is what an end needs to know.
type endConfig struct {
	Addr, Route netip.Prefix
	MTU         int

	UAPI string // wireguard-go: what IpcSet takes

	Port   uint16 // forwarder
	Remote netip.AddrPort
}

// wireguardModule is where the version comes from.
const wireguardModule = "golang.zx2c4.com/wireguard"

func wireguardVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == wireguardModule {
				return m.Version
			}
		}
	}
	return "of unknown version"
}

// runEnd is the process.
func runEnd(name string, stdin io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c endConfig
	if err := json.NewDecoder(stdin).Decode(&c); err != nil {
		return err
	}
	if name == endConfigure {
		return c.apply()
	}
	start := map[string]func(endConfig) (func(), error){
		endWireguard: onDevice(wireguard), endForwarder: onDevice(forwarder), endEdges: edges,
	}[name]
	if start == nil {
		return fmt.Errorf("no contestant %q", name)
	}
	end, err := start(c)
	if err != nil {
		return err
	}
	defer end()
	if err := c.apply(); err != nil {
		return err
	}
	fmt.Fprintln(out, endReady)
	<-ctx.Done()
	return nil
}

// onDevice gives wireguard's device to what stands on it.
func onDevice(start func(endConfig, tun.Device) (func(), error)) func(endConfig) (func(), error) {
	return func(c endConfig) (func(), error) {
		dev, err := tun.CreateTUN(endInterface, c.MTU)
		if err != nil {
			return nil, err
		}
		end, err := start(c, dev)
		if err != nil {
			dev.Close()
		}
		return end, err
	}
}

// wireguard is wireguard-go as its own main package runs it.
func wireguard(c endConfig, dev tun.Device) (end func(), err error) {
	d := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	if err := d.IpcSet(c.UAPI); err != nil {
		d.Close()
		return nil, err
	}
	if err := d.Up(); err != nil {
		d.Close()
		return nil, err
	}
	return d.Close, nil
}

const (
	// forwardOffset is room for the virtio header of the TUN device.
	forwardOffset = 16
	// forwardBuffer holds what the device coalesces in place.
	forwardBuffer = 1 << 16
)

// forwarder carries packets as they are between device and UDP, without checking
// anything: what wireguard-go's edges cost without what stands between them.
func forwarder(c endConfig, dev tun.Device) (end func(), err error) {
	bind := conn.NewDefaultBind()
	receivers, _, err := bind.Open(c.Port)
	if err != nil {
		return nil, err
	}
	to, err := bind.ParseEndpoint(c.Remote.String())
	if err != nil {
		_ = bind.Close()
		return nil, err
	}
	go discardLoop(dev.Events())
	go outboundLoop(dev, bind, to)
	for _, receive := range receivers {
		go inboundLoop(dev, bind.BatchSize(), receive)
	}
	return func() {
		_ = bind.Close()
		dev.Close()
	}, nil
}

func discardLoop(events <-chan tun.Event) {
	for range events { //nolint:revive // nobody asks, but the device waits for a reader
	}
}

func newBatch(n int) (bufs, views [][]byte, sizes []int) {
	bufs, views, sizes = make([][]byte, n), make([][]byte, n), make([]int, n)
	for i := range bufs {
		bufs[i] = make([]byte, forwardOffset+forwardBuffer)
	}
	return bufs, views, sizes
}

// outboundLoop ends when the device is closed. A datagram that does not go out is
// lost, as on any path.
func outboundLoop(dev tun.Device, bind conn.Bind, to conn.Endpoint) {
	bufs, views, sizes := newBatch(dev.BatchSize())
	for {
		n, err := dev.Read(bufs, sizes, forwardOffset)
		if err != nil && n == 0 {
			return
		}
		for i := range n {
			views[i] = bufs[i][forwardOffset : forwardOffset+sizes[i]]
		}
		for rest := views[:n]; len(rest) > 0; {
			k := min(len(rest), bind.BatchSize())
			_ = bind.Send(rest[:k], to)
			rest = rest[k:]
		}
	}
}

// inboundLoop ends when the port is closed.
func inboundLoop(dev tun.Device, batch int, receive conn.ReceiveFunc) {
	bufs, views, sizes := newBatch(batch)
	from := make([]conn.Endpoint, batch)
	packets := make([][]byte, 0, batch)
	for {
		for i := range bufs {
			views[i] = bufs[i][forwardOffset:]
		}
		n, err := receive(views, sizes, from)
		if err != nil {
			return
		}
		packets = packets[:0]
		for i := range n {
			if sizes[i] > 0 {
				packets = append(packets, bufs[i][:forwardOffset+sizes[i]])
			}
		}
		if len(packets) > 0 {
			_, _ = dev.Write(packets, forwardOffset)
		}
	}
}
