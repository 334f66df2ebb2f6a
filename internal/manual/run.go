package manual

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/esp"
	"icvpn/internal/datapath"
	"icvpn/internal/netcfg"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

const (
	// readBatch is how many messages one read brings; a message may be a train.
	readBatch = 32

	// maxBytes and maxPackets end an SA. Nobody will agree new keys, so they lie
	// where the cipher's limit does and not where rekeying begins to be wise: at
	// 2^42 blocks under one key the chance of a CBC collision is 2^-45.
	maxBytes   = 1 << 46
	maxPackets = 1 << 40
	// maxAge is for ever.
	maxAge = 100 * 365 * 24 * time.Hour

	// pathEvery is how often the kernel is asked for a path's MTU while there is
	// traffic, pathGap how often if the interface refuses datagrams.
	pathEvery = time.Second
	pathGap   = 200 * time.Millisecond
)

// Options of Run.
type Options struct {
	Log *slog.Logger
	// Counters gets a table at the end, every Every (0: not), and whenever
	// something arrives on Show.
	Counters io.Writer
	Every    time.Duration
	Show     <-chan os.Signal
}

// Run carries the traffic of c until ctx ends. path is the file that c came from,
// for messages.
func Run(ctx context.Context, c *Config, path string, o Options) error {
	if err := c.CheckMachine(path); err != nil {
		return err
	}
	conn, err := underlay.Listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	r := &runner{cfg: c, log: o.Log, conn: conn, began: time.Now(), poke: make(chan struct{}, 1)}
	if err := r.open(ctx); err != nil {
		return errors.Join(err, conn.Close())
	}
	return r.run(ctx, o)
}

// runner is one process.
type runner struct {
	cfg    *Config
	log    *slog.Logger
	conn   *underlay.Conn
	device *tun.Linux
	path   *datapath.Datapath
	sad    esp.SAD
	peers  []*peer
	routes routes
	local  routes // inner destinations that are ours
	began  time.Time
	other  otherStats
	poke   chan struct{} // capacity 1: look at path MTUs
}

// open makes interface and SAs.
func (r *runner) open(ctx context.Context) error {
	mtu := minMTU
	for i := range r.cfg.Tunnels {
		p := &peer{cfg: &r.cfg.Tunnels[i], run: r}
		r.peers = append(r.peers, p)
		p.mtu = p.innerMTU(ctx)
		mtu = max(mtu, p.mtu)
	}
	var err error
	if r.device, err = tun.Open(tun.Config{Name: r.cfg.Interface, MTU: mtu, Backend: r.cfg.Backend}); err != nil {
		return interfaceError(err)
	}
	if err := r.conduct(mtu); err != nil {
		return errors.Join(err, r.device.Close())
	}
	r.setFragmentation()
	if err := r.configure(mtu); err != nil {
		return errors.Join(err, r.device.Close())
	}
	return nil
}

// interfaceError names the field that helps where a name is taken.
func interfaceError(err error) error {
	var failed *tun.CreateError
	if errors.As(err, &failed) && failed.Reason == tun.NameTaken {
		return fmt.Errorf("%w with interface: NAME", err)
	}
	return err
}

// conduct joins device, SAs and port.
func (r *runner) conduct(mtu int) (err error) {
	r.path, err = datapath.New(datapath.Config{
		Device: r.device, Send: r.conn.WriteBatch, SAD: &r.sad, MaxMTU: mtu,
		Route: func(dst netip.Addr) *datapath.Tunnel {
			if p := r.routes.find(dst); p != nil {
				return p.tunnel
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	for _, p := range r.peers {
		p.tunnel = r.path.NewTunnel(p, p.cfg.Policy)
		if err := p.install(); err != nil {
			return fmt.Errorf("manual: tunnel %q: %w", p.cfg.Name, err)
		}
		for _, prefix := range p.cfg.Routes {
			r.routes.add(prefix, p)
		}
	}
	for _, a := range r.cfg.Addresses {
		r.local.add(netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), nil)
	}
	for _, n := range r.cfg.Networks {
		r.local.add(n, nil)
	}
	return nil
}

// configure gives the interface its addresses and routes.
func (r *runner) configure(mtu int) error {
	i := netcfg.Interface{Name: r.device.Name(), Addrs: r.cfg.Addresses, MTU: mtu}
	longest := 0
	for _, t := range r.cfg.Tunnels {
		i.Routes = append(i.Routes, t.Routes...)
		longest = max(longest, t.Suite.SealedLen(mtu))
	}
	i.Segments = underlay.TrainLength(longest)
	err := netcfg.Apply(i)
	if errors.Is(err, netcfg.ErrNoIPv6) {
		r.log.Warn("the interface has IPv4 only", "err", err)
		return nil
	}
	return err
}

// run starts everything and waits for the end.
func (r *runner) run(ctx context.Context, o Options) error {
	for _, p := range r.peers {
		r.log.Info("tunnel ready", "peer", p.cfg.Name, "addr", p.cfg.Remote, "suite", p.cfg.Suite, "mtu", p.tunnel.Way().MTU)
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		r.device.Close()
		r.conn.Close()
	})
	defer stop()
	g.Go(func() error { return r.ended(ctx, r.path.ReadLoop()) })
	for _, reader := range r.conn.Readers() {
		g.Go(func() error { return r.ended(ctx, r.readLoop(reader)) })
	}
	g.Go(func() error { return r.upkeepLoop(ctx, o) })
	for _, p := range r.peers {
		if p.cfg.Keepalive > 0 {
			g.Go(func() error { return p.keepaliveLoop(ctx) })
		}
	}
	err := g.Wait()
	r.path.Wait()
	r.writeCounters(o.Counters)
	for _, p := range r.peers {
		p.out.Close()
		p.in.Close()
	}
	return err
}

// errGone is why a process ends that nobody told to.
var errGone = errors.New("manual: the interface or the port is gone: somebody removed it; start icvpn tunnel again")

// ended turns the end of a loop into an error unless it was asked for.
func (r *runner) ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // device and port were closed because we end
	case err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, tun.ErrGone):
		return errGone
	}
	return err
}

// readLoop receives for one address family.
func (r *runner) readLoop(reader underlay.Reader) error {
	batch := underlay.NewBatch(readBatch, underlay.TrainBuffer)
	for {
		n, err := reader.ReadBatch(batch)
		if err != nil {
			return err
		}
		for i := range n {
			// Trains are looked into by the SAD.
			if m := &batch[i]; m.Segment == 0 && underlay.Classify(m.Bytes()) != underlay.ESP {
				r.other.count(m.Bytes())
				m.N = 0
			}
		}
		r.path.Receive(batch[:n])
	}
}

// upkeepLoop does what is not packets. Without traffic it waits for ever.
func (r *runner) upkeepLoop(ctx context.Context, o Options) error {
	var tick <-chan time.Time
	if o.Every > 0 {
		t := time.NewTicker(o.Every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
			r.writeCounters(o.Counters)
		case <-o.Show:
			r.writeCounters(o.Counters)
		case <-r.poke:
			r.lookAtPaths(ctx)
		}
	}
}

// install makes the peer's SAs.
func (p *peer) install() (err error) {
	limits := esp.Limits{Bytes: maxBytes, Packets: maxPackets, Age: maxAge}
	c := esp.Config{
		SPI: p.cfg.Out.SPI, Suite: p.cfg.Suite, Keys: withIV(p.cfg.Out.Keys, p.cfg.Suite), NoESN: !p.cfg.ESN,
		Window: p.cfg.Window, Born: p.run.began, Limits: limits, Stats: &p.sent,
	}
	defer c.Keys.Wipe()
	if p.out, err = esp.NewOutbound(c); err != nil {
		return err
	}
	in := c
	in.SPI, in.Keys, in.Stats, in.Owner = p.cfg.In.SPI, withIV(p.cfg.In.Keys, p.cfg.Suite), &p.received, p.tunnel
	if p.in, err = esp.NewInbound(in); err != nil {
		return err
	}
	p.tunnel.SetWay(&datapath.Way{SA: p.out, Path: p.cfg.Remote, MTU: p.mtu})
	return p.run.sad.Install(p.in)
}

// withIV adds the key from which CBC's IVs are made. It is drawn by each process:
// with one from the file a second start would send the first one's IVs again,
// and so show which packets begin alike (RFC 3602, Section 3).
func withIV(k esp.Keys, s esp.Suite) esp.Keys {
	if n := s.KeySizes().IV; n > 0 {
		k.IV = make([]byte, n)
		rand.Read(k.IV)
	}
	return k
}
