package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/config"
	"icvpn/internal/control"
	"icvpn/internal/ledger"
	"icvpn/internal/metrics"
	"icvpn/internal/state"
	"icvpn/internal/superpeer"
	"icvpn/internal/underlay"
)

// Super runs a super peer until ctx ends or it is told to leave.
func Super(ctx context.Context, c config.Super, binary string, log *slog.Logger) error {
	dir, err := state.Open(c.StateDir, state.Options{KeyFile: c.SealKeyFile})
	if err != nil {
		return err
	}
	defer dir.Close()
	all, err := openServices(dir, c)
	if err != nil {
		return err
	}
	defer all.close()
	udp, tcp, err := sockets(ctx, c.Listen)
	if err != nil {
		return err
	}
	// Run closes them, too, but it may never be reached.
	defer udp.Close()
	defer tcp.Close()
	shared := superpeer.NewHost(udp, tcp, log)
	var parts []part
	for _, v := range all.all {
		sp, err := shared.Add(superpeer.Config{
			HandOver: v.handOver, Ledger: ledger.In(v.dir), Binary: binary, Process: os.Getpid(), Log: log.With("service", nameOnly(v.handOver.Service)),
		})
		if err != nil {
			return err
		}
		parts = append(parts, part{all.prefix(v.dir), v.dir, sp.Backup})
	}
	if err := all.keep(log); err != nil {
		return err
	}
	joins, err := universes(all, shared, binary, log)
	if err != nil {
		return err
	}
	return serve(ctx, c.Process, &host{shared, parts, shared.Members}, func(ctx context.Context) error { return runAll(ctx, shared, joins) }, log)
}

// runAll runs a host and its memberships in universal overlays, which last no
// longer than the host.
func runAll(ctx context.Context, host *superpeer.Host, joins []*universe) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	for _, u := range joins {
		g.Go(func() error { return u.run(ctx) })
	}
	err := host.Run(ctx)
	stop()
	return errors.Join(err, g.Wait())
}

// serve runs the control socket, and the metrics if they have an address, around
// run. Both answer until run has returned, so that `icvpn down` waits for the
// whole leave.
func serve(ctx context.Context, c config.Process, o observed, run func(context.Context) error, log *slog.Logger) error {
	l, err := control.Listen(c.ControlSocket)
	if err != nil {
		return err
	}
	ml, err := metricsListener(ctx, c.Metrics)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	answering, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return control.Serve(answering, l, o, log) })
	if ml != nil {
		g.Go(func() error { return metrics.Serve(answering, ml, o, log) })
	}
	err = run(ctx)
	stop()
	return errors.Join(err, g.Wait())
}

// sockets opens the UDP pair and the TCP listener on one port number.
func sockets(ctx context.Context, listen string) (*underlay.Conn, net.Listener, error) {
	udp, err := openUDP(ctx, listen)
	if err != nil {
		return nil, nil, err
	}
	var lc net.ListenConfig
	addr := net.JoinHostPort(hostOf(listen), fmt.Sprint(udp.Port()))
	tcp, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		udp.Close()
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, fmt.Errorf("TCP port %d is already in use on this machine: stop the other program or choose another port with --listen", udp.Port())
		}
		return nil, nil, fmt.Errorf("listen on TCP %s: %w", addr, err)
	}
	return udp, tcp, nil
}

// openUDP opens the UDP pair and says which flag helps where that fails.
func openUDP(ctx context.Context, listen string) (*underlay.Conn, error) {
	local, err := listenAddr(ctx, listen)
	if err != nil {
		return nil, err
	}
	udp, err := underlay.Listen(ctx, local)
	var inUse *underlay.PortInUseError
	switch {
	case errors.As(err, &inUse):
		return nil, fmt.Errorf("%w with --listen", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen address %s is not one of this machine's: give one of its own, or :%d for all, with --listen", listen, local.Port())
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("UDP port %d needs the capability CAP_NET_BIND_SERVICE: choose one above 1023 with --listen", local.Port())
	}
	return udp, err
}

func hostOf(listen string) string {
	host, _, _ := net.SplitHostPort(listen)
	return host
}

// listenAddr resolves the host of a checked listen address.
func listenAddr(ctx context.Context, listen string) (netip.AddrPort, error) {
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q: %w", listen, err)
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", p)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q: %w", listen, err)
	}
	if host == "" {
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("listen address %q has no IP address: %w", listen, err)
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(n)), nil
}
