package superpeer

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"time"

	"icvpn/admission"
	"icvpn/internal/directory"
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
	if slices.Contains(hello.SupportedProtos, keypool.ALPN) && s.authority.gives() {
		return s.giveConfig(g.now), nil
	}
	if slices.Contains(hello.SupportedProtos, directory.BulkALPN) {
		return s.bulkConfig(g.now), nil
	}
	return s.cert.config(g.now), nil
}

// leave gives back the place.
func (g *greeting) leave() {
	if g.super != nil {
		g.super.desk.leave()
	}
}

// maxHandshake is how many bytes of a TLS handshake are read (we chose). One of a
// machine has some 1.5 kB, of a super peer that comes for keys some 1.9 kB. TLS
// alone would keep 64 KiB of a ClientHello and parse 256 KiB of certificates, for
// anybody.
const maxHandshake = 16 << 10

var errLongHandshake = errors.New("superpeer: the TLS handshake is too long")

// shortHandshake is a connection that fails when the handshake wants to read more
// than maxHandshake. What has come already of the data after it is not lost.
type shortHandshake struct {
	net.Conn
	left int
	over bool // the handshake is complete
}

func (c *shortHandshake) Read(b []byte) (int, error) {
	if c.over {
		return c.Conn.Read(b)
	}
	if c.left == 0 {
		return 0, errLongHandshake
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
