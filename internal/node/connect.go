package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"icvpn/abe"
	"icvpn/esp"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/relay"
	"icvpn/internal/service"
	"icvpn/keyex"
	"icvpn/overlay"
)

// The way to a tunnel:
//
//	wantTunnel ─> connect ─> lookup (contact record, opened) ─> exchange ─> install

// wantTunnel asks for a tunnel; called for packets, so it must be cheap.
func (n *Node) wantTunnel(t *tunnel) {
	if !t.wanted.Swap(true) {
		n.signal(func() {
			t.wanted.Store(false) // before looking, so that no packet is overlooked
			n.want(t, time.Now())
		})
	}
}

func (n *Node) want(t *tunnel, now time.Time) {
	if t.wantedSince.IsZero() {
		t.wantedSince = now
	}
	n.connect(t)
}

// connect begins, unless the way is under construction, there, or known to be
// closed for the moment. Control loop only.
func (n *Node) connect(t *tunnel) {
	if t.path.Way() != nil { // keys landed after the packet was staged
		n.flushStaged(t)
		return
	}
	now := time.Now()
	if n.leaving || t.state != tunnelIdle || now.Before(t.retryAt) {
		return
	}
	if pair := t.pair.Load(); pair == nil || !pair.MayInitiate() {
		t.failure = n.explain(t)
		n.dropStaged(t)
		return
	}
	n.active[t] = true
	t.state = tunnelLookup
	if slices.ContainsFunc(t.endpoints, isDirect) && t.retryWait == 0 { // found before, and not failed since
		n.exchange(t, t.endpoints, t.relays)
		return
	}
	n.lookup(t)
}

func (n *Node) explain(t *tunnel) string {
	m := t.member.Load()
	if m == nil {
		return "nothing is known about " + t.pid.Short()
	}
	return filter.Explain(n.trust().Policy.Rules, n.membership.Load().Credential.Labels, m.Labels, filter.ToPeer)
}

// lookup finds the peer's endpoints, in the background: for a first tunnel, or
// because the peer has fallen silent and may have moved or restarted.
func (n *Node) lookup(t *tunnel) {
	member := *t.member.Load()
	pairs := t.installed
	n.loops.Go(func() {
		ctx, cancel := context.WithTimeout(n.ctx, lookupTimeout)
		defer cancel()
		c, err := n.findContact(ctx, member)
		n.post(func() {
			if t.installed != pairs {
				t.rekeying = false // the peer called us meanwhile
				return
			}
			if err != nil {
				n.failed(t, err.Error())
				return
			}
			n.exchange(t, c.Endpoints, c.Relays)
		})
	})
}

// findContact reads a member's contact record. The envelope of its policy is
// fetched if it was not in the grant.
func (n *Node) findContact(ctx context.Context, m service.Member) (service.Contact, error) {
	select {
	case n.lookups <- struct{}{}:
		defer func() { <-n.lookups }()
	case <-ctx.Done():
		return service.Contact{}, ctx.Err()
	}
	item, err := n.overlay.Get(ctx, m.Key, discovery.SaltContact)
	switch {
	case errors.Is(err, overlay.ErrNotFound):
		return service.Contact{}, fmt.Errorf("%s has published no contact record: it is down, or has left", m.Name)
	case err != nil:
		return service.Contact{}, fmt.Errorf("the contact record of %s could not be read: %w", m.Name, err)
	}
	plain, err := n.openRecord(ctx, item, m)
	if err != nil {
		return service.Contact{}, err
	}
	c, err := service.OpenContact(plain, n.service, item.Seq, n.now())
	if err != nil {
		return c, fmt.Errorf("the contact record of %s is not usable: %w", m.Name, err)
	}
	if c.Withdrawn {
		return c, fmt.Errorf("%s has left", m.Name)
	}
	if c.Endpoints = n.usable(c.Endpoints); len(c.Endpoints) == 0 {
		return c, fmt.Errorf("the contact record of %s has no usable endpoint", m.Name)
	}
	return c, nil
}

func (n *Node) openRecord(ctx context.Context, item overlay.Item, m service.Member) ([]byte, error) {
	keys := n.keys.Load()
	plain, err := keys.Open(item.Value, "contact", m.Key, service.MaxRecord)
	if !errors.Is(err, discovery.ErrNotAllowed) {
		return plain, err
	}
	policy, ok := discovery.PolicyOf(n.trust().Policy.Rules, m.Labels)
	if !ok {
		return nil, err
	}
	d := n.trust().Descriptor
	target := abe.Target{Service: n.service, Generation: d.Generation, Policy: policy}
	for _, sp := range d.SuperPeers {
		if !sp.Has(service.RoleAuthority) {
			continue
		}
		data, _, oerr := n.overlay.GetObject(ctx, sp.Key, discovery.SaltEnvelope(target))
		if oerr != nil {
			continue
		}
		if _, oerr = keys.AddEnvelope(data, n.now()); oerr == nil {
			return keys.Open(item.Value, "contact", m.Key, service.MaxRecord)
		}
	}
	return nil, fmt.Errorf("the contact record of %s is sealed to %s: %w", m.Name, policy, discovery.ErrNotAllowed)
}

// usable leaves out endpoints that nobody may be sent to, and those inside the
// overlay itself.
func (n *Node) usable(all []netip.AddrPort) (out []netip.AddrPort) {
	for _, e := range all {
		if service.UsableEndpoint(e) && !n.inService(e.Addr()) {
			out = append(out, e)
		}
	}
	return out
}

// exchange begins a key exchange with the peer at its endpoints. If those stay silent it
// goes on through relays.
func (n *Node) exchange(t *tunnel, endpoints []netip.AddrPort, relays []service.ContactRelay) {
	t.endpoints, t.relays, t.tryingDirect = endpoints, relays, false
	if t.state != tunnelUp {
		t.state = tunnelExchange
	}
	n.initiate(t, nil)
}

// initiate starts the machine; rekeyID names the pair to replace.
func (n *Node) initiate(t *tunnel, rekeyID *[8]byte) {
	n.initiateUnder(t, rekeyID, n.ring.Current(time.Now()))
}

func (n *Node) initiateUnder(t *tunnel, rekeyID *[8]byte, epoch uint32) {
	if t.relayAt = (time.Time{}); len(t.relays) > 0 {
		t.relayAt = time.Now().Add(relayAfter)
		if t.relayAt.Before(n.upkeepAt) {
			n.upkeepAt = t.relayAt
		}
	}
	n.initiateAt(t, t.endpoints, rekeyID, epoch)
}

// initiateAt starts the machine with other endpoints than the tunnel's.
func (n *Node) initiateAt(t *tunnel, endpoints []netip.AddrPort, rekeyID *[8]byte, epoch uint32) {
	target := keyex.Target{PID: t.pid, Epoch: epoch, RekeyID: rekeyID}
	for _, e := range endpoints {
		if path, ok := n.keyexPath(e); ok {
			target.Paths = append(target.Paths, path)
		}
	}
	n.act(n.machine.Initiate(time.Now(), target))
}

// failed notes why there is no tunnel, and when to try again. Packets that
// waited are dropped: their senders send again.
func (n *Node) failed(t *tunnel, why string) {
	t.failure = why
	t.rekeying, t.tryingDirect, t.relayAt, t.relays = false, false, time.Time{}, nil
	if t.current() != nil { // a rekey failed; the old pair lives on until its end
		t.state = tunnelUp
		t.retryAt = time.Now().Add(rekeyRetry)
		n.log.Warn("rekey failed", "peer", t.name(), "err", why)
		return
	}
	t.state = tunnelIdle
	t.endpoints = nil
	t.retryWait = min(max(connectRetry, 2*t.retryWait), connectRetryMax)
	now := time.Now()
	t.retryAt = now.Add(t.retryWait)
	if now.Sub(t.wantedSince) < stagedPatience && t.hasStaged() {
		n.upkeepAt = now // tries again at retryAt
		n.log.Debug("no tunnel yet", "peer", t.name(), "err", why)
		return
	}
	t.wantedSince = time.Time{}
	n.dropStaged(t)
	n.log.Warn("no tunnel", "peer", t.name(), "err", why)
}

// dropStaged tells the senders of waiting packets that there is no way.
func (n *Node) dropStaged(t *tunnel) {
	for _, pkt := range t.unstage() {
		n.reject(pkt)
	}
}

func (n *Node) onFailed(f keyex.Failure) {
	t := n.tunnels[f.PID]
	switch {
	case t == nil:
	case t.tryingDirect && t.current() != nil: // it goes on through its relay
		t.rekeying, t.tryingDirect = false, false
		n.log.Debug("no direct way yet", "peer", t.name(), "err", f.Error())
	case n.before(f) && len(t.endpoints) > 0:
		var rekeyID *[8]byte
		if p := t.current(); p != nil && t.rekeying {
			id := p.result.RekeyID
			rekeyID = &id
		}
		n.initiateUnder(t, rekeyID, f.Epoch-1)
	default:
		n.failed(t, f.Error())
	}
}

// flushStaged sends what waited for the first SA.
func (n *Node) flushStaged(t *tunnel) {
	for _, pkt := range t.unstage() {
		n.path.Inject(pkt)
	}
}

// install takes the result of a key exchange: both SAs exist before anything
// is sent about them.
func (n *Node) install(r *keyex.Result) {
	c := r.Peer.Info.(*service.Credential)
	t := n.learnProved(c)
	t.credential = c
	p, err := n.newPair(t, r)
	if err != nil {
		n.log.Error("security association", "peer", t.name(), "err", err)
		return
	}
	n.active[t] = true
	old := t.current()
	t.pairs = append([]*saPair{p}, t.pairs...)
	t.countUnheard()
	t.installed++
	n.boundUnconfirmed(t)
	if r.Initiator {
		n.activate(t, p, old)
		return
	}
	// The peer's exchange stands in for one of our own, if it gets confirmed: wait
	// for that before beginning another.
	t.retryAt = latest(t.retryAt, time.Now().Add(keyex.ConfirmWait))
	if r.Replaced || t.state == tunnelLookup {
		t.rekeying, t.tryingDirect = false, false
		if t.state != tunnelUp {
			t.state = tunnelIdle
		}
	}
	n.upkeepAt = time.Now()
}

// newPair makes the SAs of a result and installs the inbound one.
func (n *Node) newPair(t *tunnel, r *keyex.Result) (*saPair, error) {
	now := time.Now()
	path, ok := n.pathAddr(r.Path)
	if !ok {
		return nil, relay.ErrNoAllocation
	}
	limits := esp.Limits{Age: n.trust().Policy.Lifetime}
	in, err := esp.NewInbound(esp.Config{SPI: r.SPIIn, Suite: esp.Suite(r.Suite), Keys: esp.Keys(r.In), Born: now, Limits: limits, Stats: n.esp, Owner: t.path})
	if err != nil {
		return nil, err
	}
	out, err := esp.NewOutbound(esp.Config{SPI: r.SPIOut, Suite: esp.Suite(r.Suite), Keys: esp.Keys(r.Out), Born: now, Limits: limits, Stats: n.esp})
	if err != nil {
		return nil, err
	}
	if err := n.sad.Install(in); err != nil {
		return nil, err
	}
	r.In.Wipe()
	r.Out.Wipe()
	p := &saPair{result: *r, in: in, out: out, path: path, confirmed: r.Initiator, born: now}
	if !r.Initiator {
		p.removeAt = now.Add(keyex.UnconfirmedLife)
	}
	if r.Epoch < n.keeping.current {
		n.planEpoch(p, now)
	}
	return p, nil
}

// boundUnconfirmed keeps at most keyex.MaxUnconfirmed pairs that the peer has
// not been heard on.
func (n *Node) boundUnconfirmed(t *tunnel) {
	count := 0
	for _, p := range append([]*saPair(nil), t.pairs...) { // newest first
		if p.confirmed {
			continue
		}
		if count++; count > keyex.MaxUnconfirmed {
			n.removePair(t, p)
		}
	}
}

// activate sends on a confirmed pair from now on and retires the one before
// it, which still receives for a while: no packet under way is lost.
func (n *Node) activate(t *tunnel, p, old *saPair) {
	now := time.Now()
	first := old == nil
	p.confirmed, p.removeAt = true, time.Time{}
	t.ending.Store(false)
	t.state, t.failure, t.rekeying, t.handshake = tunnelUp, "", false, now
	t.retryWait, t.retryAt, t.probes, t.wantedSince = 0, time.Time{}, 0, time.Time{}
	if old != nil && n.simultaneous(p, old) && old.result.Preferred(n.self) {
		p.retire(now.Add(keyex.DuplicateLife)) // both ends keep the old one
		return
	}
	t.endpoints, t.relayAt, t.tryingDirect = []netip.AddrPort{p.path}, time.Time{}, false
	n.watchDirect(t, p, now)
	n.startMTU(t, p, now)
	for _, q := range t.pairs {
		if q != p && q.confirmed && q.retired.IsZero() {
			q.retire(now.Add(keyex.OldInboundLife))
		}
	}
	n.flushStaged(t)
	if p.result.Initiator {
		p.dummyAt = now // until the peer is heard
	}
	n.upkeepAt = now
	path, route := n.shown(p.path)
	n.log.Info("tunnel up", "peer", t.name(), "addr", path, "route", route, "suite", esp.Suite(p.result.Suite), "group", p.result.Group, "rekey", !first, "initiator", p.result.Initiator)
}

// simultaneous says whether two pairs come from exchanges that both ends began
// at the same time, rather than one after the other.
func (n *Node) simultaneous(p, old *saPair) bool {
	return p.result.Initiator != old.result.Initiator && p.born.Sub(old.born) < simultaneousWindow
}

// retire lets a pair receive until at. Its outbound SA stays open as well: a
// send loop may be sealing with it at this moment.
func (p *saPair) retire(at time.Time) {
	p.retired, p.removeAt = time.Now(), at
}

// removePair erases a pair's keys.
func (n *Node) removePair(t *tunnel, p *saPair) {
	n.sad.Remove(p.in.SPI())
	p.in.Close()
	p.out.Close()
	p.result.Wipe()
	for i, q := range t.pairs {
		if q == p {
			t.pairs = append(t.pairs[:i], t.pairs[i+1:]...)
			break
		}
	}
	if w := t.path.Way(); w != nil && w.SA == p.out {
		t.path.SetWay(nil)
	}
	t.countUnheard()
	t.ending.Store(false)
	if len(t.pairs) == 0 {
		t.mtu = pathMTU{}
		t.directAt, t.wasDirect = time.Time{}, false
	}
	if t.state == tunnelUp && t.current() == nil {
		t.state = tunnelIdle // a retired pair may linger, but carries nothing out
	}
}

// confirmHeard confirms the pairs on which the peer has been heard.
func (n *Node) confirmHeard(t *tunnel) {
	for _, p := range slices.Clone(t.pairs) {
		if !p.heard && p.in.LastSeq() > 0 {
			n.confirm(t, p)
		}
	}
}

// confirm is the proof that the peer has the keys of a pair: the responder may
// now send on it.
func (n *Node) confirm(t *tunnel, p *saPair) {
	p.heard, p.dummyAt = true, time.Time{}
	t.countUnheard()
	if !p.confirmed {
		n.activate(t, p, t.current())
	}
}

// countUnheard tells the data path whether it matters what is heard.
func (t *tunnel) countUnheard() {
	count := int32(0)
	for _, p := range t.pairs {
		if !p.heard {
			count++
		}
	}
	t.unheard.Store(count)
}

// closeTunnels erases every key at the end.
func (n *Node) closeTunnels() {
	for _, t := range n.tunnels {
		for len(t.pairs) > 0 {
			n.removePair(t, t.pairs[0])
		}
		t.unstage()
	}
}
