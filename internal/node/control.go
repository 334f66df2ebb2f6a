package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/esp"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/keyex"
)

// onControl sorts authentic control datagrams. Called by the port's readers:
// overlay and renewal have queues of their own, reflection needs none, everything else
// goes to the control loop; a full queue drops and counts.
func (n *Node) onControl(o seal.Opened, from netip.AddrPort) {
	n.heardAt.Store(time.Now().UnixNano())
	if relay.IsVirtual(from) && !passesRelays(o.Type) {
		n.stats.misrelayed.Add(1)
		return
	}
	if o.Type == seal.TypeDHT {
		port.DHT{Port: n.port, Ring: n.ring}.Deliver(n.overlay, o, from)
		return
	}
	if _, _, answer := port.ParseReflected(o.Payload); o.Type == seal.TypeReflect && !answer {
		n.onReflectQuery(o, from)
		return
	}
	if o.Type == seal.TypeRelay && !relay.IsAnswer(o.Payload) {
		n.onRelayQuery(o, from)
		return
	}
	if o.Type == seal.TypeRenewal {
		n.onRenewal(o.Payload, from)
		return
	}
	d := datagram{typ: o.Type, epoch: o.Epoch, plain: o.Room + innerHeader, payload: append([]byte(nil), o.Payload...), from: from}
	select {
	case n.controlIn <- d:
	default:
		n.stats.controlDrops.Add(1)
	}
}

// innerHeader is what a control datagram's plaintext has besides payload and
// padding (docs/protocol/control.md).
const innerHeader = 8 + 2

// controlLoop owns the key exchange and the state of every tunnel.
func (n *Node) controlLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	n.turnEpoch(time.Now())
	for {
		select {
		case <-ctx.Done():
			n.closeTunnels()
			return nil
		case d := <-n.controlIn:
			n.onDatagram(d)
		case f := <-n.posts:
			f()
		case <-n.awake:
			n.onSignals()
		case clone := <-n.cloned:
			for t := range n.active {
				n.deleteTunnel(t)
			}
			n.closeTunnels()
			return clone
		case <-timer.C:
			n.tick(time.Now())
		}
		timer.Reset(time.Until(n.deadline()))
	}
}

// deadline is when tick is due next.
func (n *Node) deadline() time.Time {
	at := n.upkeepAt
	if d := n.machine.Deadline(); !d.IsZero() && d.Before(at) {
		at = d
	}
	if d := n.keeping.at; !d.IsZero() && d.Before(at) {
		at = d
	}
	if d := n.relaying.holdings.Deadline(); !d.IsZero() && d.Before(at) {
		at = d
	}
	return at
}

func (n *Node) tick(now time.Time) {
	if d := n.machine.Deadline(); !d.IsZero() && !now.Before(d) {
		n.act(n.machine.Tick(now))
	}
	if d := n.keeping.at; !d.IsZero() && !now.Before(d) {
		n.turnEpoch(now)
	}
	if d := n.relaying.holdings.Deadline(); !d.IsZero() && !now.Before(d) {
		n.onRelays(n.relaying.holdings.Tick(now))
	}
	if !now.Before(n.upkeepAt) {
		n.upkeep(now)
	}
}

func (n *Node) onDatagram(d datagram) {
	switch d.typ {
	case seal.TypeKE:
		path, ok := n.keyexPath(d.from)
		if !ok {
			return // of an allocation that was let go meanwhile
		}
		in := keyex.Input{From: path, Epoch: d.epoch, Plain: d.plain, Payload: d.payload}
		n.act(n.machine.Receive(time.Now(), in))
	case seal.TypeProbe:
		n.onNotice(d.payload, d.from)
	case seal.TypeReflect:
		if tx, addr, ok := port.ParseReflected(d.payload); ok {
			n.onReflected(tx, d.from, addr)
		}
	case seal.TypeRelay:
		n.onRelays(n.relaying.holdings.Receive(time.Now(), d.from, d.payload))
	}
}

// act carries out what the key exchange machine wants. SAs are installed before
// anything is sent: a peer must never use an SPI that is not there yet.
func (n *Node) act(out keyex.Output) {
	for i := range out.Done {
		n.install(&out.Done[i])
	}
	for _, s := range out.Send {
		pad := max(0, s.Plain-innerHeader)
		to, ok := n.pathAddr(s.To)
		if !ok {
			continue // sent again, elsewhere if possible
		}
		if err := n.port.SendControl(n.ring, seal.TypeKE, s.Epoch, s.Payload, pad, to); err != nil {
			n.log.Debug("key exchange datagram not sent", "addr", to, "err", err)
		}
	}
	for _, f := range out.Failed {
		n.onFailed(f)
	}
	if out.Err != nil {
		// Any member can provoke this as often as it likes.
		n.refused.Do(func() { n.log.Warn("key exchange refused", "reason", out.Drop, "err", out.Err) })
	}
}

// newMachine makes the key exchange machine for the policy of a membership.
func (n *Node) newMachine(m *Membership) (*keyex.Machine, error) {
	groups, suites, err := algorithms(m.Trust.Policy)
	if err != nil {
		return nil, err
	}
	return keyex.New(keyex.Config{
		Service: n.service, Key: n.key, Groups: groups, Suites: suites, Rand: rand.Reader,
		Credential: func() []byte { return n.membership.Load().Grant.Credential },
		VerifyCred: n.verifyCredential, Authorize: n.authorize, RekeyKey: n.rekeyKey, NewSPI: n.newSPI,
		EpochKey: func(e uint32) (k [32]byte, ok bool) {
			s, ok := n.epochSecret(e)
			return [32]byte(s), ok
		},
		SuiteKeys: func(s keyex.Suite) (enc, integ, iv, salt int, ok bool) {
			if !esp.Suite(s).Valid() {
				return 0, 0, 0, 0, false
			}
			k := esp.Suite(s).KeySizes()
			return k.Enc, k.Int, k.IV, k.Salt, true
		},
	})
}

func (n *Node) verifyCredential(_ time.Time, b []byte, epoch uint32) (keyex.Peer, error) {
	c, err := n.trust().VerifyCredential(n.now(), b, epoch)
	if errors.Is(err, service.ErrIssuer) {
		n.wantDocuments()
	}
	if err != nil {
		return keyex.Peer{}, err
	}
	if v, over := n.table.Tombstone(c.Issuer, c.PID(), c.NotBefore); over && v.Void() {
		return keyex.Peer{}, fmt.Errorf("node: the credential of %s is void: %s", c.Name, v.Reason)
	}
	return keyex.Peer{PID: c.PID(), Key: c.Key, Expires: c.Expires(), Info: c}, nil
}

// authorize asks the access rules. A tunnel is for both directions, so one rule
// in either suffices for an exchange; packets are judged one by one.
func (n *Node) authorize(p keyex.Peer, _ bool) error {
	c := p.Info.(*service.Credential)
	own := n.membership.Load().Credential.Labels
	pair := filter.Compile(n.trust().Policy.Rules, own, c.Labels)
	if pair.MayInitiate() || pair.MayBeReached() {
		return nil
	}
	return errors.New(filter.Explain(n.trust().Policy.Rules, own, c.Labels, filter.ToPeer))
}

func (n *Node) newSPI() uint32 {
	spi, err := n.sad.NewSPI(rand.Reader)
	if err != nil {
		panic("node: internal error: " + err.Error())
	}
	return spi
}

// rekeyKey finds the secret of an old pair. Called by the machine, on the
// control loop.
func (n *Node) rekeyKey(pid id.ID, rekeyID [8]byte) (rk [32]byte, ok bool) {
	t := n.tunnels[pid]
	if t == nil {
		return rk, false
	}
	for _, p := range t.pairs {
		if p.confirmed && p.result.RekeyID == rekeyID {
			return p.result.Rekey, true
		}
	}
	return rk, false
}

// algorithms translates the policy's names.
func algorithms(p *service.Policy) (groups []keyex.Group, suites []keyex.Suite, err error) {
	for _, name := range p.Groups {
		g, ok := groupNames[name]
		if !ok {
			return nil, nil, errors.New("node: the policy names key exchange group " + name + ", which this binary does not know; update icvpn")
		}
		groups = append(groups, g)
	}
	for _, name := range p.Suites {
		s, err := esp.ParseSuite(name)
		if err != nil {
			return nil, nil, errors.New("node: the policy names suite " + name + ", which this binary does not know; update icvpn")
		}
		suites = append(suites, keyex.Suite(s))
	}
	return groups, suites, nil
}

var groupNames = map[string]keyex.Group{
	"x25519-mlkem768": keyex.GroupHybrid,
	"x25519":          keyex.GroupX25519,
	"modp3072":        keyex.GroupMODP3072,
	"modp2048":        keyex.GroupMODP2048,
}
