package node

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"icvpn/admission"
	"icvpn/internal/service"
)

// expectedKey is the key that the token names for an endpoint, nil if it names none.
func expectedKey(t service.Token, endpoint string) ed25519.PublicKey {
	for _, sp := range t.SuperPeers {
		if sp.Endpoint == endpoint {
			return sp.Key
		}
	}
	return nil
}

// named says in the TLS server name which super peer is wanted at an endpoint,
// where those of several services may share a port.
func named(key ed25519.PublicKey, c *tls.Config) *tls.Config {
	if key != nil {
		c.ServerName = service.ServerName(key)
	}
	return c
}

// explainHandshake says what a super peer means that knows no such name.
func explainHandshake(key ed25519.PublicKey, err error) error {
	var op *net.OpError
	// crypto/tls does not export alerts; their text is fixed.
	if key != nil && errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == "tls: unrecognized name" {
		return fmt.Errorf("no super peer with key %s, which the token names, is there: somebody may be in between, or the key was changed and the token is old", admission.Fingerprint(key))
	}
	return err
}
