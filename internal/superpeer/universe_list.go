package superpeer

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"icvpn/admission"
	"icvpn/internal/control"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

var _ control.Services = (*Host)(nil)

// Services implements control.Services: our own, and those that universal
// overlays show.
func (h *Host) Services(context.Context) (all []control.Service, err error) {
	now := time.Now()
	byID := map[id.ID]*control.Service{}
	for _, v := range h.views {
		for sid, s := range v.list(now) {
			byID[sid] = s
		}
	}
	for _, s := range h.all {
		byID[s.service.trust().Service] = s.described(byID[s.service.trust().Service], now)
	}
	for _, s := range byID {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b control.Service) int {
		return strings.Compare(a.Name+" "+a.ID, b.Name+" "+b.ID)
	})
	return all, nil
}

// described is the entry of our own service: what others say of it, and what we
// know.
func (s *SuperPeer) described(advertised *control.Service, now time.Time) *control.Service {
	t := s.service.trust()
	out := describe(t)
	if advertised != nil {
		out.Universe = advertised.Universe
		for i, sp := range out.SuperPeers {
			for _, known := range advertised.SuperPeers {
				if known.PID == sp.PID {
					out.SuperPeers[i] = known
				}
			}
		}
	}
	out.Own = true
	seen(out, s.PID(), now, service.SuperPeerRecord{Binary: s.cfg.Binary, Labels: s.cfg.Labels})
	if t.Policy != nil {
		out.PolicySequence = t.Policy.Sequence
		for _, r := range t.Policy.Rules {
			out.Rules = append(out.Rules, ruleText(r))
		}
	}
	return out
}

// describe is what a service's documents say.
func describe(t *service.Trust) *control.Service {
	d := t.Descriptor
	out := &control.Service{
		Name: d.Name, ID: d.Service.String(), Prefix4: d.Prefix4, Prefix6: service.Prefix6(d.Service).String(),
		Sequence: d.Seq, Expires: time.Unix(d.Expires, 0), ABEParams: hex.EncodeToString(d.ABEHash),
	}
	for _, k := range t.Root.Owners {
		out.Owners = append(out.Owners, admission.Fingerprint(k))
	}
	for _, sp := range d.SuperPeers {
		out.SuperPeers = append(out.SuperPeers, control.ServiceSuperPeer{
			PID: sp.PID().String(), Fingerprint: admission.Fingerprint(sp.Key), Endpoints: sp.Endpoints, Roles: sp.Roles,
			Block4: sp.Block4, Expires: time.Unix(sp.Expires, 0),
		})
	}
	return out
}

// seen notes that a super peer said something of itself.
func seen(s *control.Service, pid id.ID, at time.Time, r service.SuperPeerRecord) {
	for i := range s.SuperPeers {
		if sp := &s.SuperPeers[i]; sp.PID == pid.String() && at.After(sp.Seen) {
			sp.Seen, sp.Labels, sp.Software = at, r.Labels, r.Binary
			if r.Load > 0 {
				sp.Load = fmt.Sprintf("%d %%", r.Load)
			}
		}
	}
}

// ruleText is an access rule as --allow would have it.
func ruleText(r filter.Rule) string {
	text := selectorText(r.From) + " may reach " + selectorText(r.To)
	if r.Proto != "" && r.Proto != filter.ProtoAny {
		text += " by " + string(r.Proto)
	}
	for i, p := range r.Ports {
		text += map[bool]string{true: " port ", false: ", "}[i == 0] + fmt.Sprint(p)
	}
	return text
}

func selectorText(s filter.Selector) string {
	if len(s) == 0 {
		return "every machine"
	}
	return service.LabelText(s)
}
