package node

import (
	"context"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/service"
)

// We chose:
const (
	// releasePoll is how often one super peer is asked for a newer release manifest,
	// with one query: it is for people, who can wait for an hour.
	releasePoll = time.Hour
	// releaseFirst spreads the first question of machines that start together.
	releaseFirst = time.Minute
)

// releaseManifest is what release keys signed, which the policy names.
func (n *Node) releaseManifest() document {
	return document{"release", discovery.SaltRelease(n.service, n.trust().Policy.Updates.ID()), func() uint64 {
		if r, _ := n.releases.Current(n.trust()); r != nil {
			return r.Seq
		}
		return 0
	}, n.learnRelease}
}

func (n *Node) learnRelease(_ context.Context, b []byte) error {
	s, err := service.ParseSignedRelease(b)
	if err != nil {
		return err
	}
	r, err := n.releases.Take(n.trust, s, n.now())
	if err != nil {
		return err
	}
	n.log.Info("newer release manifest known", "seq", r.Seq, "detail", r.Version+" of channel "+r.Channel)
	return nil
}
