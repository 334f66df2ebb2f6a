package node

import (
	"context"
	mrand "math/rand/v2"
	"net"
	"slices"
	"time"

	"icvpn/internal/service"
)

// dialled is one finished attempt to connect.
type dialled struct {
	endpoint string
	conn     net.Conn
	err      error
	took     time.Duration
	at       time.Time // when it was there
}

const (
	dialTimeout = 5 * time.Second
	// staleConn is how long a connection may wait for its turn: super peers close
	// those that say nothing for five seconds.
	staleConn = 3 * time.Second
	// dialTogether super peers are dialled at once; the others start one by one.
	dialTogether = 4
	dialStagger  = 500 * time.Millisecond
	// preferWait is the start that the preferred super peer gets.
	preferWait = 2 * time.Second
	// maxHops is how often a busy super peer is taken at its word that another has
	// time, in one attempt; hopJitter bounds the wait before.
	maxHops   = 2
	hopJitter = 300 * time.Millisecond
	// secondOpinion is how long another super peer may take to be reached once
	// one has refused.
	secondOpinion = 3 * time.Second
)

// dialAll connects to every super peer and returns the connections as they
// come. Those still open when ctx ends are closed.
func dialAll(ctx context.Context, cfg JoinConfig) <-chan dialled {
	out := make(chan dialled, len(cfg.Token.SuperPeers))
	order := mrand.Perm(len(cfg.Token.SuperPeers))
	prefer := slices.ContainsFunc(cfg.Token.SuperPeers, func(sp service.TokenSuperPeer) bool { return sp.Endpoint == cfg.Prefer })
	for n, i := range order {
		sp := cfg.Token.SuperPeers[i]
		wait := time.Duration(max(0, n-dialTogether+1)) * dialStagger
		switch {
		case sp.Endpoint == cfg.Prefer:
			wait = 0
		case prefer:
			wait += preferWait
		}
		go dialOne(ctx, cfg, sp.Endpoint, wait, out)
	}
	return out
}

func dialOne(ctx context.Context, cfg JoinConfig, endpoint string, wait time.Duration, out chan<- dialled) {
	if wait > 0 && !sleep(ctx, wait) {
		out <- dialled{endpoint: endpoint, err: ctx.Err()}
		return
	}
	out <- dial(ctx, cfg, endpoint)
}

// dial makes one connection, which is closed when ctx ends.
func dial(ctx context.Context, cfg JoinConfig, endpoint string) dialled {
	start := time.Now()
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := cfg.Dial(dctx, endpoint)
	if err == nil {
		context.AfterFunc(ctx, func() { c.Close() })
	}
	now := time.Now()
	return dialled{endpoint, c, err, now.Sub(start), now}
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
