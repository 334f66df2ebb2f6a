package superpeer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/promote"
	"icvpn/internal/service"
)

// We chose:
const (
	// sampleFirst is when members are first picked after the start, sampleEvery the
	// time between two picks; each walks over all members.
	sampleFirst = 10 * time.Second
	sampleEvery = 30 * time.Second
	// samplePerCloud members of a cloud are picked at once.
	samplePerCloud = 8
	// lookEvery is the time between two searches for a contact record: some ten
	// datagrams each.
	lookEvery   = 2 * time.Second
	lookTimeout = 5 * time.Second
	// maxTried endpoints of a contact record are tried.
	maxTried = 4
	// defaultCloudLabel is the label that says in which cloud a member is.
	defaultCloudLabel = "cloud"
)

// trial finds out where a member answers.
type trial struct {
	member    service.Member
	endpoints []netip.AddrPort // in the member's own order
	answered  []netip.AddrPort
	began     time.Time
}

// lookLoop keeps the sample of candidates full.
func (p *promotion) lookLoop(ctx context.Context) error {
	for wait := sampleFirst; sleep(ctx, wait); {
		m, ok := p.next()
		switch {
		case ok:
			p.try(ctx, m)
			wait = lookEvery
		case p.pick(time.Now()):
			wait = lookEvery
		default:
			wait = sampleEvery
		}
	}
	return nil
}

// next takes the next member from the queue.
func (p *promotion) next() (m service.Member, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return m, false
	}
	m, p.queue = p.queue[0], p.queue[1:]
	return m, true
}

// pick queues random members of each cloud that has places left, those first whom
// other super peers have as helpers, and those that may have moved. It says
// whether there were any.
func (p *promotion) pick(now time.Time) bool {
	all := p.s.authority.members(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return false
	}
	picked := map[string][]service.Member{}
	seen := map[string]int{} // whom picked was drawn from
	clouds := map[string]int{}
	var first []service.Member
	lost := p.machine.Lost(now)
	for _, m := range all {
		pid, cloud := m.PID(), p.cloudOf(m, netip.AddrPort{})
		clouds[cloud]++
		switch {
		case slices.ContainsFunc(lost, func(l promote.Member) bool { return l.PID == pid }):
			first = append(first, m)
		case !p.machine.Wants(now, pid):
		case p.namedLocked(pid, now):
			first = append(first, m)
		default:
			seen[cloud]++
			if room := min(samplePerCloud, p.machine.Room(cloud)); len(picked[cloud]) < room {
				picked[cloud] = append(picked[cloud], m)
			} else if at := rand.IntN(seen[cloud]); at < len(picked[cloud]) {
				picked[cloud][at] = m
			}
		}
	}
	p.machine.SetMembers(p.spreadLocked(clouds))
	p.queue = first[:min(len(first), promote.MaxHelpers)]
	for i := range samplePerCloud {
		for _, some := range picked {
			if i < len(some) && len(p.queue) < promote.MaxCandidates {
				p.queue = append(p.queue, some[i])
			}
		}
	}
	return len(p.queue) > 0
}

// spreadLocked guesses in which networks the members without a label are: in those
// of the sample, as many.
func (p *promotion) spreadLocked(clouds map[string]int) map[string]int {
	unlabelled, in := 0, map[string]int{}
	for _, who := range p.machine.Asked() {
		if clouds[who.Cloud] == 0 {
			unlabelled++
			in[who.Cloud]++
		}
	}
	for name, n := range in {
		clouds[name] = clouds[""] * n / unlabelled
	}
	delete(clouds, "")
	return clouds
}

// cloudOf returns where a member is: by its label, else by the network of its
// address, "" if that is not known.
func (p *promotion) cloudOf(m service.Member, at netip.AddrPort) string {
	label := p.s.authority.trust().Policy.Helpers.CloudLabel
	if label == "" {
		label = defaultCloudLabel
	}
	if v := m.Labels[label]; v != "" {
		return v
	}
	if !at.IsValid() {
		return ""
	}
	bits := 32
	if at.Addr().Is4() {
		bits = 16
	}
	network, _ := at.Addr().Prefix(bits)
	return network.String()
}

// try looks a member's contact record up, and asks it at each of its endpoints.
// That the record is signed ties the endpoint to the member.
func (p *promotion) try(ctx context.Context, m service.Member) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	c, err := p.contact(ctx, m)
	now := time.Now()
	p.mu.Lock()
	if err != nil || len(c.Endpoints) == 0 {
		p.machine.Rest(now, m.PID())
		p.mu.Unlock()
		return
	}
	t := &trial{member: m, endpoints: c.Endpoints[:min(len(c.Endpoints), maxTried)], began: now}
	p.trials[m.PID()] = t
	p.mu.Unlock()
	for _, at := range t.endpoints {
		p.ask(question{pid: m.PID(), addr: at})
	}
}

// errNoContact is returned for a member that no rule lets anybody reach.
var errNoContact = errors.New("superpeer: no contact record")

// contact reads a contact record. An authority can read every one, others none.
func (p *promotion) contact(ctx context.Context, m service.Member) (c service.Contact, err error) {
	a := p.s.authority
	policy, ok := discovery.PolicyOf(a.rules(), m.Labels)
	if !ok || !a.makes() {
		return c, errNoContact
	}
	if _, err := a.target(policy, time.Now()); err != nil { // has the seed made, once
		return c, err
	}
	item, err := p.s.service.overlay.Get(ctx, m.Key, discovery.SaltContact)
	if err != nil {
		return c, err
	}
	plain, err := a.keys.Open(item.Value, "contact", m.Key, service.MaxRecord)
	if err != nil {
		return c, err
	}
	c, err = service.OpenContact(plain, a.trust().Service, item.Seq, time.Now())
	if err != nil {
		return c, err
	}
	c.Endpoints = slices.DeleteFunc(c.Endpoints, p.inService)
	return c, nil
}

// inService says whether an endpoint lies inside the service's own network.
func (p *promotion) inService(e netip.AddrPort) bool {
	t := p.s.authority.trust()
	prefix4, err := netip.ParsePrefix(t.Descriptor.Prefix4)
	return err != nil || prefix4.Contains(e.Addr()) || service.Prefix6(t.Service).Contains(e.Addr())
}

// judgeLocked ends a trial: the member is a candidate at the first of its
// endpoints that answered.
func (p *promotion) judgeLocked(t *trial, now time.Time) {
	pid := t.member.PID()
	for _, at := range t.endpoints {
		if slices.Contains(t.answered, at) {
			p.machine.Observe(now, promote.Member{
				PID: pid, Cloud: p.cloudOf(t.member, at), Addr: at, Joined: time.Unix(t.member.Issued, 0), Named: p.namedLocked(pid, now),
			})
			return
		}
	}
	p.machine.Rest(now, pid)
}
