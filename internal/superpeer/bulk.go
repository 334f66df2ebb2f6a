package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"sync"
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
	// megabyte for ten thousand members, and admissions come first. bulkQueue more may
	// wait; their places at the door are those of admissions, too.
	bulkTogether = 4
	bulkQueue    = 16
	// bulkWait is what a member has for its request and for taking in each part, and how
	// long it waits for its turn; for all of it it has until admission.Timeout.
	bulkWait = 5 * time.Second
	// bulkMost times a member gets what it asks for in bulkEvery.
	bulkMost  = 4
	bulkEvery = time.Minute
)

var (
	errNoMember = errors.New("superpeer: not a member")
	errBulkTurn = errors.New("superpeer: other members are before it, or it has asked too often")
)

// bulkConfig is the TLS configuration for a member that comes for shards. It shows
// the key of its identity, as a super peer that comes for keys does. Whose key it is,
// is looked at when the handshake has shown that it holds it: before, the answer would
// tell anybody who is a member.
func (s *SuperPeer) bulkConfig(now time.Time) *tls.Config {
	return admission.MutualTLS(s.cert.config(now).Certificates[0], directory.BulkALPN, func(ed25519.PublicKey) error { return nil })
}

// handShards answers the one request of a connection. The shards are sealed to the
// members of the service, as everywhere.
func (s *SuperPeer) handShards(ctx context.Context, tc *tls.Conn) error {
	key, err := admission.PeerKey(tc.ConnectionState())
	if err != nil {
		return err
	}
	pid := id.FromKey(key)
	if !s.authority.isMember(pid) {
		return errNoMember
	}
	if !s.door.bulk.enter(ctx, time.Now(), pid) {
		return errBulkTurn
	}
	defer s.door.bulk.leave(pid)
	_ = tc.SetDeadline(time.Now().Add(bulkWait))
	req, err := directory.ReadRequest(tc)
	if err != nil {
		return err
	}
	return s.authority.shelf.Answer(patient{tc}, req)
}

// patient gives each write a time of its own.
type patient struct{ *tls.Conn }

func (c patient) Write(b []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(bulkWait))
	return c.Conn.Write(b)
}

// bulk is who is being served. Only members get into it.
type bulk struct {
	turn chan struct{} // capacity bulkTogether

	mu      sync.Mutex
	inside  map[id.ID]bool // being served, or waiting
	asked   map[id.ID]int  // since
	since   time.Time
	waiting int
}

func newBulk() *bulk {
	return &bulk{turn: make(chan struct{}, bulkTogether), inside: map[id.ID]bool{}, asked: map[id.ID]int{}}
}

// enter waits for a member's turn, one at a time for each; leave ends it.
func (b *bulk) enter(ctx context.Context, now time.Time, pid id.ID) bool {
	if !b.queue(now, pid) {
		return false
	}
	wait, cancel := context.WithTimeout(ctx, bulkWait)
	defer cancel()
	ok := acquire(wait, b.turn)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting--; !ok {
		delete(b.inside, pid)
	}
	return ok
}

func (b *bulk) queue(now time.Time, pid id.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.since) >= bulkEvery {
		b.since = now
		clear(b.asked)
	}
	if b.inside[pid] || b.waiting >= bulkTogether+bulkQueue || b.asked[pid] >= bulkMost {
		return false
	}
	b.asked[pid]++
	b.waiting++
	b.inside[pid] = true
	return true
}

func (b *bulk) leave(pid id.ID) {
	<-b.turn
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.inside, pid)
}
