package node

import (
	"context"
	"crypto/ed25519"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// A member may use the overlay for more than tunnels: super peers of several
// operators are members of a universal overlay and keep adverts there
// (package superpeer, docs/protocol/universe.md).

// PID returns the machine's node identifier.
func (n *Node) PID() id.ID { return n.self }

// Trust returns the service's newest verified chain.
func (n *Node) Trust() *service.Trust { return n.trust() }

// Members returns everybody that some super peer lists, in no order; this machine
// is not among them.
func (n *Node) Members() (all []service.Member) {
	for _, e := range n.table.Members(n.now()) {
		all = append(all, e.Member())
	}
	return all
}

// PutObject stores an object of this machine's key in the service's overlay.
func (n *Node) PutObject(ctx context.Context, salt []byte, seq int64, data []byte) error {
	obj, err := overlay.NewObject(n.key, salt, seq, data)
	if err != nil {
		return err
	}
	_, err = n.overlay.PutObject(ctx, obj)
	return err
}

// GetObjectAfter reads an object from the service's overlay that is newer than a
// sequence number; overlay.ErrUnchanged if there is none.
func (n *Node) GetObjectAfter(ctx context.Context, key ed25519.PublicKey, salt []byte, after int64) ([]byte, overlay.Item, error) {
	return n.overlay.GetObjectAfter(ctx, key, salt, after)
}
