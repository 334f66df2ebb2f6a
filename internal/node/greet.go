package node

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"

	"icvpn/internal/service"
)

// named says in the TLS server name which super peer is wanted at an endpoint,
// where those of several services may share a port.
func named(t service.Token, endpoint string, c *tls.Config) *tls.Config {
	i := slices.IndexFunc(t.SuperPeers, func(sp service.TokenSuperPeer) bool { return sp.Endpoint == endpoint })
	if i >= 0 {
		c.ServerName = service.ServerName(t.SuperPeers[i].Key)
	}
	return c
}

// explainHandshake says what a super peer means that knows no such name.
func explainHandshake(err error) error {
	var op *net.OpError
	// crypto/tls does not export alerts; their text is fixed.
	if errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == "tls: unrecognized name" {
		return errors.New("no super peer with the key that the token names is there any more; ask the service owner for a newer token")
	}
	return err
}
