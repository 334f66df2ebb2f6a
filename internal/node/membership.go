package node

import (
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"icvpn/abe"
	"icvpn/internal/control"
	"icvpn/internal/discovery"
	"icvpn/internal/service"
	"icvpn/keyex"
	"icvpn/overlay"
)

// membershipLoop keeps us a member that others find: contact record,
// public address, renewal; beside it the directories are read.
func (n *Node) membershipLoop(ctx context.Context) error {
	n.enterOverlay(ctx)
	var reading sync.WaitGroup
	reading.Go(func() { n.directoryLoop(ctx) })
	reading.Go(func() { n.documentsLoop(ctx) })
	reading.Go(func() { n.knownLoop(ctx) })
	defer reading.Wait()
	contact := time.NewTimer(0)
	reflect, renew := time.NewTimer(0), time.NewTimer(n.untilRenewal())
	for _, t := range []*time.Timer{contact, reflect, renew} {
		defer t.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-contact.C:
			contact.Reset(n.publishContact(ctx))
		case <-n.contactNow:
			contact.Reset(n.publishContact(ctx))
		case <-reflect.C:
			n.askReflection()
			n.watchClock()
			n.watchSilence()
			n.post(func() { n.tendHomes(time.Now()) })
			reflect.Reset(reflectEvery)
		case <-n.epochNews:
			contact.Reset(n.untilContact())
			renew.Reset(n.untilRenewal())
		case <-n.renewNow:
			renew.Reset(mrand.N(renewSpread))
		case <-renew.C:
			renew.Reset(n.renew(ctx))
		}
	}
}

// enterOverlay waits for a first node to answer, and reports the step.
func (n *Node) enterOverlay(ctx context.Context) {
	began := time.Now()
	select {
	case <-n.overlay.Ready():
		n.step(stepOverlay, fmt.Sprintf("%d nodes answered", len(n.overlay.Nodes())), began)
	case <-time.After(lookupTimeout):
		n.log.Warn("no overlay node has answered yet; going on", "dur", lookupTimeout)
	case <-ctx.Done():
	}
}

// publishContact writes where we can be reached, sealed to those who may know.
// It returns when to write it again.
func (n *Node) publishContact(ctx context.Context) time.Duration {
	began := time.Now()
	m := n.membership.Load()
	endpoints := n.endpoints()
	if m.Grant.Publish == nil || len(endpoints) == 0 {
		n.steps.once(stepContact, func() { n.step(stepContact, "none: "+n.unreachable(m), began) })
		return contactLife / 2
	}
	acks, err := n.putContact(ctx, m, endpoints)
	if err != nil {
		if ctx.Err() == nil {
			n.log.Warn("contact record not published", "err", err)
		}
		return 2 * time.Second
	}
	n.steps.once(stepContact, func() { n.step(stepContact, fmt.Sprintf("stored by %d nodes", acks), began) })
	return contactLife / 2
}

// unreachable says why we publish no contact.
func (n *Node) unreachable(m *Membership) string {
	if m.Grant.Publish == nil {
		return "no access rule lets anybody reach this machine"
	}
	return "this machine has no address that others could use"
}

// putContact stores the record; no endpoints means that we leave, and is the
// last thing said.
func (n *Node) putContact(ctx context.Context, m *Membership, endpoints []netip.AddrPort) (int, error) {
	now := n.now()
	seq, ok := n.contact.next(now, len(endpoints) == 0)
	if !ok {
		return 0, errLeft
	}
	st, err := abe.VerifyStatement(m.Grant.Publish, n.service, n.authorityKey, now)
	if err != nil {
		return 0, err
	}
	// The super peer chose the statement; whom it lets read us is the owner's say.
	if want, ok := discovery.PolicyOf(m.Trust.Policy.Rules, m.Credential.Labels); !ok || !st.Target.Policy.Equal(want) || st.Epoch != m.Grant.Epoch {
		return 0, fmt.Errorf("node: the super peer's key for our contact is of policy %.80q, which is not the owner's", st.Target.Policy)
	}
	c := service.NewContact(n.service, st.Epoch, seq, now.Add(contactLife), endpoints)
	if c.Withdrawn = len(endpoints) == 0; !c.Withdrawn {
		c.Relays = n.contactRelays()
	}
	sealed, err := discovery.Seal(st, "contact", m.Credential.Key, c.Encode())
	if err != nil {
		return 0, err
	}
	return n.overlay.Put(ctx, overlay.SignItem(n.key, discovery.SaltContact, seq, sealed))
}

// contactRecord is what was said in our contact record. It is not locked while a
// record is on its way: of two, nodes keep the one with the higher number.
type contactRecord struct {
	mu        sync.Mutex
	seq       int64
	withdrawn bool
	until     time.Time // what nodes may have stored ends by then
}

// next returns the number of the next record, false if the last one was said.
func (c *contactRecord) next(now time.Time, last bool) (seq int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.withdrawn {
		return 0, false
	}
	if c.withdrawn = last; !last {
		c.until = now.Add(contactLife)
	}
	// It grows also over restarts, whose last number nobody kept.
	c.seq = max(c.seq+1, now.UnixMilli())
	return c.seq, true
}

// ends returns when what nodes may have stored has ended.
func (c *contactRecord) ends() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.until
}

var errLeft = errors.New("node: the contact record is withdrawn")

// endpoints are the addresses others may try: what the operator named, what
// super peers saw, what the machine has; in this order, 8 at most.
func (n *Node) endpoints() []netip.AddrPort {
	all := append(slices.Clone(n.cfg.Advertise), n.observed.all()...)
	if n.cfg.Endpoints != nil {
		all = append(all, n.cfg.Endpoints()...)
	}
	var out []netip.AddrPort
	for _, e := range n.usable(all) {
		if !slices.Contains(out, e) && len(out) < keyex.MaxPaths {
			out = append(out, e)
		}
	}
	return out
}

// step reports a finished step of the join.
func (n *Node) step(name, detail string, began time.Time) {
	report(n.log, n.steps.add, name, detail, began, time.Now())
}

// steps is the join log and standing warnings.
type steps struct {
	mu      sync.Mutex
	all     []control.JoinStep
	told    map[string]bool
	warning string
}

func (s *steps) add(st control.JoinStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, st)
}

// once runs f the first time it is called with name.
func (s *steps) once(name string, f func()) {
	s.mu.Lock()
	first := !s.told[name]
	if s.told == nil {
		s.told = map[string]bool{}
	}
	s.told[name] = true
	s.mu.Unlock()
	if first {
		f()
	}
}

func (s *steps) warn(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warning = text
}
