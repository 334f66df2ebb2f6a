package process

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"sync"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/node"
	"icvpn/internal/service"
	"icvpn/internal/superpeer"
	"icvpn/tun"
)

// A super peer whose hand-over carries a token for a universal overlay joins that
// like any machine joins a service, with the key of its first service that has
// the token. It carries no traffic there, so its interface is none. While no
// super peer of the universe admits it, it serves its own services all the same.

// We chose:
const (
	universeRetry    = 5 * time.Second
	universeRetryMax = 5 * time.Minute
)

// universe is one universal overlay to be joined.
type universe struct {
	token service.Token
	key   ed25519.PrivateKey
	view  *superpeer.View
	host  *superpeer.Host
	log   *slog.Logger
	dial  func(ctx context.Context, endpoint string) (net.Conn, error)
	bin   string

	minSeq, minPolicy, minRoot uint64
}

// universes returns those that the services' owners name, each once.
func universes(all *services, host *superpeer.Host, binary string, log *slog.Logger) (out []*universe, err error) {
	known := map[id.ID]bool{}
	var d net.Dialer
	for _, v := range all.all {
		if len(v.handOver.Join) == 0 {
			continue
		}
		tok, err := service.ParseToken(v.handOver.Join)
		if err != nil {
			return nil, err
		}
		if known[tok.Service] {
			continue
		}
		known[tok.Service] = true
		out = append(out, &universe{
			token: tok, key: ed25519.NewKeyFromSeed(v.handOver.Seed), host: host, bin: binary,
			view: host.AddView(tok.Service, tok.Name), log: log.With("overlay", tok.Name),
			dial: func(ctx context.Context, endpoint string) (net.Conn, error) {
				return d.DialContext(ctx, "tcp", endpoint)
			},
		})
	}
	return out, nil
}

// run is a member whenever it can be, until ctx ends.
func (u *universe) run(ctx context.Context) error {
	wait := universeRetry
	for {
		began := time.Now()
		if err := u.member(ctx); err != nil && ctx.Err() == nil {
			u.log.Warn("not in the universal overlay; serving without it, trying again", "err", err, "dur", wait)
		}
		if time.Since(began) > universeRetryMax {
			wait = universeRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + mrand.N(wait/2)): //nolint:gosec // so that not all come at once
		}
		wait = min(2*wait, universeRetryMax)
	}
}

// member joins and stays until the membership ends.
func (u *universe) member(ctx context.Context) error {
	var instance service.Instance
	rand.Read(instance[:])
	pid := id.FromKey(u.key.Public().(ed25519.PublicKey))
	join := node.JoinConfig{
		Token: u.token, Identity: u.key, MinSeq: u.minSeq, MinPolicy: u.minPolicy, MinRoot: u.minRoot,
		Name: "super-" + pid.Short(), VM: "super peer", Binary: u.bin, Instance: instance, Dial: u.dial, Log: u.log,
	}
	m, err := node.Join(ctx, join)
	if err != nil {
		return err
	}
	u.minSeq, u.minPolicy, u.minRoot = m.Trust.Descriptor.Seq, m.Trust.Policy.Sequence, m.Trust.Root.Seq
	guest := u.host.Guest()
	n, err := node.New(node.Config{Join: join, Membership: m, Device: newNoDevice(), UDP: guest, Log: u.log})
	if err != nil {
		guest.Close()
		return err
	}
	u.log.Info("joined the universal overlay", "pid", pid.Short(), "expires", m.Credential.Expires())
	vctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { u.view.Run(vctx, n) })
	err = n.Run(ctx)
	stop()
	wg.Wait()
	return err
}

// noDevice is the interface of a member that has no traffic.
type noDevice struct {
	closed chan struct{}
	once   sync.Once
}

var _ tun.Device = (*noDevice)(nil)

func newNoDevice() *noDevice { return &noDevice{closed: make(chan struct{})} }

// Read waits for the end.
func (d *noDevice) Read([][]byte, []int, int) (int, error) {
	<-d.closed
	return 0, tun.ErrClosed
}

// Write takes everything and keeps nothing.
func (d *noDevice) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

// MTU implements tun.Device.
func (d *noDevice) MTU() (int, error) { return defaultMTU, nil }

// Name implements tun.Device.
func (d *noDevice) Name() string { return "none" }

// BatchSize implements tun.Device.
func (d *noDevice) BatchSize() int { return 1 }

// Close implements tun.Device.
func (d *noDevice) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}
