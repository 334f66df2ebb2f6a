package node

import (
	"context"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// leave says goodbye: peers erase their keys, and nobody finds us any more.
func (n *Node) leave(ctx context.Context) {
	l := new(control.Leave)
	defer n.left.Store(l)
	err := n.call(ctx, func() {
		n.leaving = true
		for t := range n.active {
			if t.current() != nil {
				l.PeersTold++
			}
			n.deleteTunnel(t)
		}
	})
	if err == nil {
		n.sayLeave()
		err = n.withdraw(ctx, l)
		n.sayLeave() // datagrams get lost; where both do, the entry ends with the lease
	}
	if err != nil {
		l.Error = err.Error()
		n.log.Warn("left without saying goodbye to everybody", "err", err, "expires", l.ContactEnds)
		return
	}
	n.log.Info("left", "service", n.trust().Descriptor.Name)
}

// sayLeave tells the super peers that we go, so that we are out of the directory
// at once.
func (n *Node) sayLeave() {
	c := n.membership.Load().Credential
	// A process that starts again in the second of another is a member from the next
	// one on, and may leave before that.
	at := time.Unix(max(n.now().Unix(), c.NotBefore), 0)
	b := service.SignLeave(n.key, n.service, c.Instance, at)
	for _, addr := range n.superPeers.Addrs() {
		if err := n.port.SendControl(n.ring, seal.TypeProbe, seal.Newest, b, seal.PadQuery, addr); err != nil {
			n.log.Debug("super peer not told that we leave", "addr", addr, "err", err)
		}
	}
}

// withdraw takes our contact record back, if we ever published one.
func (n *Node) withdraw(ctx context.Context, l *control.Leave) error {
	l.ContactEnds = n.contact.ends()
	m := n.membership.Load()
	if m.Grant.Publish == nil || l.ContactEnds.IsZero() {
		return nil
	}
	l.Published = true
	if _, err := n.putContact(ctx, m, nil); err != nil {
		return err
	}
	l.Withdrawn = true
	return nil
}

// Left says how the leave went; nil while Run has not left, or where it ended
// without: a loop failed.
func (n *Node) Left() *control.Leave { return n.left.Load() }
