package superpeer

import (
	"crypto/tls"
	"errors"
	"slices"
	"time"

	"icvpn/admission"
	"icvpn/internal/keypool"
)

// greeting is the beginning of one TLS handshake, in which a peer says which
// super peer it wants: by the name of its key (service.ServerName) in the server
// name extension (RFC 6066, Section 3). Nothing has been computed by then.
type greeting struct {
	host *Host
	from admission.Source
	now  time.Time

	// set by choose
	super *SuperPeer // nil: nobody has that name, or it has no place left
}

// errNoShare ends a handshake: the service has as many admissions under way as
// it may have beside the others.
var errNoShare = errors.New("superpeer: this service's share of the places is taken")

// config is what the handshake starts with.
func (g *greeting) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: g.choose}
}

// choose answers a ClientHello.
func (g *greeting) choose(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	s := g.host.named(hello.ServerName)
	if s == nil {
		// Without a certificate the handshake ends with the alert
		// unrecognized_name.
		return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{admission.ALPN}}, nil
	}
	if !s.desk.enter(g.now, g.from) {
		s.turnAway(overRate)
		return nil, errNoShare
	}
	g.super = s
	if slices.Contains(hello.SupportedProtos, keypool.ALPN) {
		return s.giveConfig(g.now), nil
	}
	return s.cert.config(g.now), nil
}

// leave gives back the place.
func (g *greeting) leave() {
	if g.super != nil {
		g.super.desk.leave()
	}
}
