//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"icvpn/admission"
	"icvpn/internal/port"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
)

// briefWait is how long a super peer may take for all of a renewal.
const briefWait = 5 * time.Second

// sealing returns the ring of the group key, which all newcomers of a service have.
func (g *gate) sealing(grant provision.Grant) (*seal.Ring, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ring != nil {
		return g.ring, nil
	}
	k, err := seal.ParseMemberKey(grant.EpochKey)
	if err != nil {
		return nil, err
	}
	ring := seal.NewRing(seal.Config{Service: g.token.Service, IsAnswer: port.IsAnswer})
	if err := ring.Install(seal.Epoch{Number: grant.Epoch, Key: k, ActivateAt: time.Unix(0, 0), Grace: seal.DefaultGrace}); err != nil {
		return nil, err
	}
	g.ring = ring
	return ring, nil
}

// renewBriefly renews by datagram from an address, at the super peer that issued the
// credential.
func (n *newcomer) renewBriefly(ctx context.Context, from netip.Addr, endpoint string) error {
	ring, err := n.gate.sealing(n.grant)
	if err != nil {
		return err
	}
	sp, ok := n.gate.trust.Descriptor.SuperPeer(n.credential.Issuer)
	if !ok {
		return errors.New("the credential is of no super peer of this service")
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: from.AsSlice()}}
	c, err := d.DialContext(ctx, "udp", endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(briefWait)); err != nil {
		return err
	}
	a := &attempt{newcomer: n, renew: true, server: n.credential.Issuer}
	trust := n.gate.trust
	r := admission.NewRenewal(admission.RenewalConfig{
		Service: n.gate.token.Service, Identity: n.key.Public().(ed25519.PublicKey), Server: sp.Key, Session: n.session,
		Request: func() ([]byte, error) {
			return provision.Brief{Request: a.request().Encode(), Root: trust.Root.Seq, Descriptor: trust.Descriptor.Seq}.Encode(), nil
		},
	})
	defer r.Wipe()
	buf := make([]byte, seal.MaxDatagram)
	for next, pad := r.Ask(), seal.PadQuery; ; pad = seal.MaxPayload {
		b, err := ring.Seal(nil, time.Now(), seal.TypeRenewal, seal.Newest, next, pad)
		if err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		size, err := c.Read(buf)
		if err != nil {
			return err
		}
		o, drop := ring.Open(time.Now(), buf[:size], netip.Addr{})
		if drop != seal.Passed {
			return fmt.Errorf("a datagram of the super peer was dropped: %v", drop)
		}
		send, granted, err := r.Step(time.Now(), o.Payload)
		if err != nil {
			return err
		}
		if granted != nil {
			return a.granted(granted.Grant, granted.Session)
		}
		if next = send; next == nil {
			return errors.New("a datagram of the super peer was ignored")
		}
	}
}
