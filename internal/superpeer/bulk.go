package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"time"

	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/id"
)

// Members that lack many shards of directories, since they have just come or many
// others have, get all of them at once (docs/protocol/directory.md):
//
//	publisher ────────────┐
//	readers of the others ┴─> shelf ─> handShards: a member? its turn? ─> parts
//
// We chose:
const (
	// bulkTogether members are served at a time: each takes a few milliseconds and a
	// megabyte for ten thousand members, and admissions come first.
	bulkTogether = 4
	// bulkWait is what a member has for its request, and how long it waits for its
	// turn; for taking the answer it has until admission.Timeout.
	bulkWait = 5 * time.Second
	// bulkBurst times a member gets what it asks for, then once in bulkEvery.
	bulkBurst = 4
	bulkEvery = time.Minute
)

var (
	errNoMember = errors.New("superpeer: not a member")
	errBulkTurn = errors.New("superpeer: other members are before it, or it has asked too often")
)

// bulkConfig is the TLS configuration for a member that comes for shards. It shows
// the key of its identity, as a super peer that comes for keys does.
func (s *SuperPeer) bulkConfig(now time.Time) *tls.Config {
	return admission.MutualTLS(s.cert.config(now).Certificates[0], directory.BulkALPN, func(key ed25519.PublicKey) error {
		if !s.authority.isMember(id.FromKey(key)) {
			return errNoMember
		}
		return nil
	})
}

// handShards answers the one request of a connection. The shards are sealed to the
// members of the service, as everywhere.
func (s *SuperPeer) handShards(ctx context.Context, tc *tls.Conn) error {
	wait, cancel := context.WithTimeout(ctx, bulkWait)
	defer cancel()
	key, err := admission.PeerKey(tc.ConnectionState())
	if err != nil {
		return err
	}
	if !s.door.bulk.asked.allow(time.Now(), id.FromKey(key)) || !acquire(wait, s.door.bulk.turn) {
		return errBulkTurn
	}
	defer func() { <-s.door.bulk.turn }()
	_ = tc.SetDeadline(time.Now().Add(bulkWait))
	req, err := directory.ReadRequest(tc)
	if err != nil {
		return err
	}
	_ = tc.SetDeadline(time.Time{}) // ctx closes the connection
	return s.authority.shelf.Answer(tc, req)
}

// bulk is who is being served.
type bulk struct {
	turn  chan struct{}
	asked *grants
}

func newBulk() bulk {
	return bulk{turn: make(chan struct{}, bulkTogether), asked: newGrants(bulkEvery, bulkBurst)}
}
