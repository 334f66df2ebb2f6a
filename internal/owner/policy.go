package owner

import (
	"fmt"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// Revoke signs a policy that puts machines out, and the next epoch, whose key
// nobody hands out under an older policy.
func Revoke(secret []byte, machines []id.ID, delay time.Duration, now time.Time) (*News, error) {
	f, err := parseOwner(secret)
	if err != nil {
		return nil, err
	}
	_, err = f.revise(now, func(p *service.Policy, trust *service.Trust) error { return revoke(p, trust, machines) })
	if err != nil {
		return nil, err
	}
	e, trust, err := f.nextEpoch(delay, now)
	if err != nil {
		return nil, err
	}
	return f.news(trust, e.Newest(), true), nil
}

func revoke(p *service.Policy, trust *service.Trust, machines []id.ID) error {
	p.Out.Peers = slices.Clone(p.Out.Peers)
	for _, m := range machines {
		if _, is := trust.Descriptor.SuperPeer(m); is {
			return fmt.Errorf("owner: %s is a super peer of %s; remove it with icvpn service super remove", m, trust.Descriptor.Name)
		}
		if !slices.Contains(p.Out.Peers, m.String()) {
			p.Out.Peers = append(p.Out.Peers, m.String())
		}
	}
	return nil
}

// SetUpdates signs a policy that names release keys, or with empty ones none.
func SetUpdates(secret []byte, u service.Updates, now time.Time) (*News, error) {
	f, err := parseOwner(secret)
	if err != nil {
		return nil, err
	}
	trust, err := f.revise(now, func(p *service.Policy, _ *service.Trust) error { p.Updates = u; return nil })
	if err != nil {
		return nil, err
	}
	if _, err := trust.ReleaseKeys(); u.Named() && err != nil {
		return nil, err
	}
	return f.news(trust, service.EpochRecord{}, true), nil
}

// revise signs the next policy, and returns the chain with it.
func (f *ownerFile) revise(now time.Time, change func(*service.Policy, *service.Trust) error) (*service.Trust, error) {
	trust, err := f.trust(now)
	if err != nil {
		return nil, err
	}
	p := *trust.Policy
	if err := change(&p, trust); err != nil {
		return nil, err
	}
	p.Sequence++
	p.Issued = now.UTC().Truncate(time.Second)
	p.Expires = p.Issued.Add(documentLife)
	if f.HandOver.Policy, err = service.NewPolicy(p, trust.Service, f.owners()); err != nil {
		return nil, err
	}
	return f.trust(now)
}
