package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"icvpn/esp"
	"icvpn/internal/control"
	"icvpn/internal/directory"
	"icvpn/internal/filter"
	"icvpn/internal/id"
)

// stats counts what the conductor itself drops; each package counts its own.
type stats struct {
	notOurs, unknownPeer, stagedDrops atomic.Uint64
	filteredOut, filteredIn           atomic.Uint64
	controlDrops, badNotices          atomic.Uint64
	notHelping, misrelayed            atomic.Uint64
}

var _ control.Handler = (*Node)(nil)

// Status implements control.Handler.
func (n *Node) Status(ctx context.Context) (control.Status, error) {
	m := n.membership.Load()
	c := m.Credential
	s := control.Status{
		Role: control.RolePeer, State: control.StateJoining, Since: n.started, Started: n.started,
		Name: c.Name, PID: n.self.String(), Service: n.service.String(), ServiceName: m.Trust.Descriptor.Name,
		Labels: c.Labels, Address4: c.Addr4(), Address6: c.Addr6(), Interface: n.device.Name(),
		SuperPeer: m.SuperPeer, Epoch: n.ring.Current(time.Now()), CredentialExpires: c.Expires(),
		Listen: []string{net.JoinHostPort("", strconv.Itoa(int(n.port.Number())))},
	}
	s.Release = n.releases.Status(m.Trust, n.cfg.Join.Binary, n.now())
	s.MTU, _ = n.device.MTU()
	for _, e := range n.endpoints() {
		s.Endpoints = append(s.Endpoints, e.String())
	}
	if roles, since := n.helps(); roles != 0 {
		s.Helper = &control.Helper{Roles: roles.Names(), Since: since}
	}
	n.steps.mu.Lock()
	if n.steps.told[stepContact] {
		s.State = control.StateUp // others find us, or nobody is to
	}
	if n.steps.warning != "" {
		s.Warnings = append(s.Warnings, n.steps.warning)
	}
	n.steps.mu.Unlock()
	names := control.Names{}
	names.Add(s.Name, s.PID)
	err := n.call(ctx, func() {
		s.Relays = n.homeAddrs()
		if n.leaving {
			s.State = control.StateLeaving
		}
		for _, e := range n.table.Members(n.now()) {
			s.PeersKnown++
			names.Add(e.Name(), e.PID().String())
		}
		for _, t := range n.tunnels {
			if !n.table.Has(t.pid) { // it has proved itself, and is not listed yet
				s.PeersKnown++
				names.Add(t.name(), t.pid.String())
			}
			if t.state == tunnelUp {
				s.PeersUp++
			}
			s.RxPackets += t.path.Stats().RxPackets.Load()
			s.RxBytes += t.path.Stats().RxBytes.Load()
			s.TxPackets += t.path.Stats().TxPackets.Load()
			s.TxBytes += t.path.Stats().TxBytes.Load()
		}
	})
	s.Warnings = append(s.Warnings, names.Warnings()...)
	return s, err
}

// Peers implements control.Handler.
func (n *Node) Peers(ctx context.Context) (all []control.Peer, err error) {
	err = n.call(ctx, func() {
		for _, t := range n.tunnels {
			all = append(all, n.describe(t))
		}
		for _, e := range n.table.Members(n.now()) {
			if n.tunnels[e.PID()] == nil {
				all = append(all, n.describeListed(e))
			}
		}
	})
	slices.SortFunc(all, func(a, b control.Peer) int {
		if d := strings.Compare(a.Name, b.Name); d != 0 {
			return d
		}
		return strings.Compare(a.PID, b.PID)
	})
	return all, err
}

// describe is one line of the peer table. Control loop only.
func (n *Node) describe(t *tunnel) control.Peer {
	m := t.member.Load()
	p := control.Peer{
		Name: m.Name, PID: t.pid.String(), Address4: m.Addr4(), Address6: n.address6(t.pid), Labels: m.Labels,
		Allowed: t.pair.Load().MayInitiate(), Reachable: n.explain(t), State: control.TunnelNone,
		RxPackets: t.path.Stats().RxPackets.Load(), RxBytes: t.path.Stats().RxBytes.Load(),
		TxPackets: t.path.Stats().TxPackets.Load(), TxBytes: t.path.Stats().TxBytes.Load(), LastHandshake: t.handshake,
	}
	switch cur := t.current(); {
	case cur != nil:
		p.State = control.TunnelUp
		p.Path, p.Route = n.shown(cur.path)
		p.Suite, p.Group = esp.Suite(cur.result.Suite).String(), cur.result.Group.String()
	case t.state != tunnelIdle:
		p.State = control.TunnelConnecting
	}
	return p
}

// describeListed is the line of a machine that there is no tunnel to. Control
// loop only.
func (n *Node) describeListed(e *directory.Entry) control.Peer {
	rules, own := n.trust().Policy.Rules, n.membership.Load().Credential.Labels
	return control.Peer{
		Name: e.Name(), PID: e.PID().String(), Address4: e.Addr4(), Address6: n.address6(e.PID()), Labels: e.Labels(),
		Allowed: filter.Compile(rules, own, e.Labels()).MayInitiate(), Reachable: filter.Explain(rules, own, e.Labels(), filter.ToPeer),
		State: control.TunnelNone,
	}
}

// JoinSteps implements control.Handler.
func (n *Node) JoinSteps(context.Context) ([]control.JoinStep, error) {
	n.steps.mu.Lock()
	defer n.steps.mu.Unlock()
	return slices.Clone(n.steps.all), nil
}

const (
	pingEvery   = time.Second
	pingTimeout = 5 * time.Second
	// pingResend repeats a request that the first connection to a peer may have
	// swallowed.
	pingResend = 1200 * time.Millisecond
)

// Ping implements control.Handler.
func (n *Node) Ping(ctx context.Context, target string, count int, emit func(control.PingReply) error) error {
	t, addr, err := n.find(ctx, target)
	if err != nil {
		return err
	}
	if pair := t.pair.Load(); !pair.MayInitiate() {
		return &control.Error{Code: control.CodeNotAllowed, Message: n.explain(t)}
	}
	for seq := 1; count == 0 || seq <= count; seq++ {
		began := time.Now()
		if err := emit(n.pingOnce(ctx, t, addr, seq)); err != nil {
			return err
		}
		if seq != count && !sleep(ctx, pingEvery-time.Since(began)) {
			return nil
		}
	}
	return nil
}

func (n *Node) pingOnce(ctx context.Context, t *tunnel, addr netip.Addr, seq int) control.PingReply {
	r := control.PingReply{Seq: seq, From: t.name(), Address: addr}
	var rtt time.Duration
	var err error
	for end := time.Now().Add(pingTimeout); time.Now().Before(end) && ctx.Err() == nil; {
		pctx, cancel := context.WithTimeout(ctx, pingResend)
		rtt, err = n.ping(pctx, addr, seq)
		if cancel(); err == nil {
			break
		}
	}
	if err != nil {
		r.Error = fmt.Sprintf("no answer within %v", pingTimeout)
		_ = n.call(ctx, func() {
			if t.failure != "" {
				r.Error = t.failure
			}
		})
		return r
	}
	r.RTTMS = float64(rtt.Microseconds()) / 1000
	if w := t.path.Way(); w != nil {
		r.Path, r.Route = n.shown(w.Path)
	}
	return r
}

// find returns a member by name or overlay address, asking the directory once
// if nobody is known by it.
func (n *Node) find(ctx context.Context, target string) (t *tunnel, addr netip.Addr, err error) {
	for try := range 2 {
		if err = n.call(ctx, func() { t, addr = n.lookUp(target) }); err != nil || t != nil {
			return t, addr, err
		}
		if try == 0 {
			n.readDirectories(ctx)
		}
	}
	return nil, addr, &control.Error{Code: control.CodeUnknownPeer, Message: fmt.Sprintf("no member of %s has the name or address %q; icvpn peers lists them", n.trust().Descriptor.Name, target)}
}

func (n *Node) lookUp(target string) (*tunnel, netip.Addr) {
	if addr, err := netip.ParseAddr(target); err == nil {
		return n.peer(addr), addr
	}
	var found id.ID
	var until int64
	for _, e := range n.table.Members(n.now()) {
		if e.Name() == target && e.NotAfter() > until {
			found, until = e.PID(), e.NotAfter() // of two with one name the one admitted last
		}
	}
	for pid, t := range n.tunnels {
		if m := t.member.Load(); m.Name == target && m.NotAfter > until {
			found, until = pid, m.NotAfter
		}
	}
	if found.IsZero() {
		return nil, netip.Addr{}
	}
	t := n.tunnelOf(found)
	return t, t.member.Load().Addr4()
}
