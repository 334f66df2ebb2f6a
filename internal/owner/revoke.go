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
func Revoke(secret []byte, machines []id.ID, delay time.Duration, now time.Time) (*Epoch, error) {
	f, err := parseOwner(secret)
	if err != nil {
		return nil, err
	}
	if err := f.revoke(machines, now); err != nil {
		return nil, err
	}
	e, trust, err := f.nextEpoch(delay, now)
	if err != nil {
		return nil, err
	}
	return &Epoch{
		ID: trust.Service, Name: trust.Descriptor.Name, Record: e.Newest(), Secret: f.encode(), Update: service.NewUpdate(f.HandOver), Policy: f.HandOver.Policy.Body,
	}, nil
}

func (f *ownerFile) revoke(machines []id.ID, now time.Time) error {
	h := &f.HandOver
	trust, err := service.Open(h.Service.Documents, h.Service.ID, 0, now)
	if err == nil {
		trust, err = trust.WithPolicy(h.Policy, now)
	}
	if err != nil {
		return err
	}
	p := *trust.Policy
	p.Out.Peers = slices.Clone(p.Out.Peers)
	for _, m := range machines {
		if _, is := trust.Descriptor.SuperPeer(m); is {
			return fmt.Errorf("owner: %s is a super peer of %s; remove it with icvpn service super remove", m, trust.Descriptor.Name)
		}
		if !slices.Contains(p.Out.Peers, m.String()) {
			p.Out.Peers = append(p.Out.Peers, m.String())
		}
	}
	p.Sequence++
	p.Issued = now.UTC().Truncate(time.Second)
	p.Expires = p.Issued.Add(documentLife)
	h.Policy, err = service.NewPolicy(p, trust.Service, f.owners())
	return err
}
