//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/abe"
	"icvpn/bench/internal/measure"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/node"
	"icvpn/internal/port"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// scout is a member that does nothing but look others up: a node of the overlay
// with a member's keys. A full peer looks a contact up only to connect, which
// would make of all pairs as many tunnels.
type scout struct {
	overlay *overlay.Overlay
	keys    *discovery.Keys
	service id.ID
	role    string
}

// newScout admits machine i and runs its part in the overlay until the world
// ends.
func (w *world) newScout(ctx context.Context, i int, role string) (*scout, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	addr := peerAddr(i)
	cfg := node.JoinConfig{Token: w.token(role), Identity: key, Name: fmt.Sprintf("scout-%d", i), VM: "scout", Binary: "scale", Dial: w.dialFrom(addr), Log: w.log}
	var m *node.Membership
	if err := persist(ctx, func() (err error) { m, err = node.Join(ctx, cfg); return err }); err != nil {
		return nil, err
	}
	w.book.enter(m.Credential)
	ring := seal.NewRing(seal.Config{Service: m.Credential.Service, IsAnswer: port.IsAnswer})
	k, err := seal.ParseMemberKey(m.Grant.EpochKey)
	if err != nil {
		return nil, err
	}
	if err := ring.Install(seal.Epoch{Number: m.Grant.Epoch, Key: k, ActivateAt: time.Unix(0, 0), Grace: seal.DefaultGrace}); err != nil {
		return nil, err
	}
	s := &scout{service: m.Credential.Service, role: role}
	s.keys = discovery.NewKeys(s.service, m.Key, func(issuer id.ID) (ed25519.PublicKey, bool) { return m.Trust.AuthorityKey(issuer, time.Now()) },
		func(e uint32) (abe.Secret, bool) { return abe.Secret(m.Grant.EpochKey), e == m.Grant.Epoch })
	for _, e := range m.Grant.Envelopes {
		if _, err := s.keys.AddEnvelope(e, time.Now()); err != nil {
			return nil, err
		}
	}
	return s, w.runScout(ctx, s, m, ring, id.FromKey(key.Public().(ed25519.PublicKey)), addr)
}

// runScout puts the scout on the network.
func (w *world) runScout(ctx context.Context, s *scout, m *node.Membership, ring *seal.Ring, self id.ID, addr netip.Addr) (err error) {
	rings := new(seal.Rings)
	rings.Add(ring)
	pt := port.New(w.net.attach(netip.AddrPortFrom(addr, portNumber), superQueue), rings)
	var endpoints []string
	for _, sp := range m.Trust.Descriptor.SuperPeers {
		endpoints = append(endpoints, sp.Endpoints...)
	}
	supers := port.NewResolver(endpoints)
	dht := port.DHT{Port: pt, Ring: ring}
	s.overlay, err = overlay.New(overlay.Config{Self: self, Transport: dht, Bootstrap: supers.Addrs, Replicas: supers.Addrs, Logger: w.log})
	if err != nil {
		return err
	}
	w.wg.Go(func() {
		_ = pt.Run(w.ctx, port.Handlers{Control: func(o seal.Opened, from netip.AddrPort) {
			if o.Type == seal.TypeDHT {
				dht.Deliver(s.overlay, o, from)
			}
		}})
	})
	w.wg.Go(func() { _ = s.overlay.Run(w.ctx) })
	select {
	case <-s.overlay.Ready():
		return nil
	case <-ctx.Done():
		return errors.New("a scout has found no node of the overlay")
	}
}

// findTimeout is what a peer gives a lookup.
const findTimeout = 8 * time.Second

// find looks a peer's contact up, as a node does, and checks that it says where
// the peer is.
func (s *scout) find(ctx context.Context, p *peer) error {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	key := p.key.Public().(ed25519.PublicKey)
	item, err := s.overlay.Get(ctx, key, discovery.SaltContact)
	if err != nil {
		return err
	}
	plain, err := s.keys.Open(item.Value, "contact", key, service.MaxRecord)
	if err != nil {
		return err
	}
	c, err := service.OpenContact(plain, s.service, item.Seq, time.Now())
	switch {
	case err != nil:
		return err
	case c.Withdrawn || len(c.Endpoints) == 0 || c.Endpoints[0].Addr() != p.addr:
		return errors.New("the contact names another place")
	}
	return nil
}

// findings are the lookups of scouts.
type findings struct {
	asked, found int
	took         []float64 // milliseconds
	queries      float64   // for each lookup
	why          map[string]int
	missed       []pair // of findAll
}

// pair is a scout and whom it looks up.
type pair struct {
	scout *scout
	peer  *peer
}

// lookupsAtOnce are those of all scouts together.
const lookupsAtOnce = 8

// findAll has every scout look up those of the peers that its role may reach. What
// it does not come to in time is not asked.
func (b *bench) findAll(rec *recorder, name string, scouts []*scout, peers []*peer) (findings, error) {
	var all []pair
	for _, p := range peers {
		for _, s := range scouts {
			if mayReach(s.role, p.role) {
				all = append(all, pair{s, p})
			}
		}
	}
	f := findings{why: map[string]int{}}
	asked := func() (n float64) {
		for _, s := range scouts {
			n += float64(s.overlay.Stats().Asked.Load())
		}
		return n
	}
	before := asked()
	var mu sync.Mutex
	_, err := b.stage(rec, name, per(lookupLimit, lookupEach, len(all)), len(all), func(st *stage) {
		var g errgroup.Group
		g.SetLimit(lookupsAtOnce)
		for _, a := range all {
			g.Go(func() error {
				if st.Err() != nil {
					return nil
				}
				began := time.Now()
				err := a.scout.find(st, a.peer)
				mu.Lock()
				defer mu.Unlock()
				if f.add(err, time.Since(began)); err != nil {
					f.missed = append(f.missed, a)
				}
				st.done.Add(1)
				return nil
			})
		}
		_ = g.Wait()
	})
	f.queries = (asked() - before) / float64(max(1, f.asked))
	return f, err
}

// add enters a lookup.
func (f *findings) add(err error, took time.Duration) {
	f.asked++
	if err != nil {
		f.why[err.Error()]++
		return
	}
	f.found++
	f.took = append(f.took, measure.Milliseconds(took))
}

// record prints what was found.
func (f *findings) record(rec *recorder) {
	rec.add(float64(f.asked), "", "contact records looked up")
	rec.add(f.share(), "%", "  found")
	rec.times(f.took, "  a lookup")
	rec.add(f.queries, "", "  queries of a lookup")
	recordReasons(rec, "not found", f.why)
}

func (f *findings) share() float64 { return 100 * float64(f.found) / float64(max(1, f.asked)) }
