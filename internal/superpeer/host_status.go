package superpeer

import (
	"context"
	"fmt"

	"icvpn/internal/control"
	"icvpn/internal/metrics"
)

var (
	_ control.Handler = (*Host)(nil)
	_ metrics.Source  = (*Host)(nil)
)

// Status implements control.Handler: the first service's status, with the
// numbers of all and a list of each.
func (h *Host) Status(ctx context.Context) (st control.Status, err error) {
	for i, s := range h.all {
		of, err := s.Status(ctx)
		if err != nil {
			return st, err
		}
		if i == 0 {
			st, st.PeersKnown, st.Warnings = of, 0, nil
		}
		if of.State != control.StateUp {
			st.State = of.State
		}
		st.PeersKnown += of.PeersKnown
		for _, w := range of.Warnings {
			if len(h.all) > 1 {
				w = fmt.Sprintf("service %s: %s", of.ServiceName, w)
			}
			st.Warnings = append(st.Warnings, w)
		}
		st.Services = append(st.Services, control.ServiceStatus{
			Service: of.Service, Name: of.ServiceName, PID: of.PID, State: of.State, Endpoints: of.Endpoints,
			Epoch: of.Epoch, CredentialExpires: of.CredentialExpires, PeersKnown: of.PeersKnown, Release: of.Release,
		})
	}
	return st, nil
}

// Peers implements control.Handler: the members of every service.
func (h *Host) Peers(ctx context.Context) (all []control.Peer, err error) {
	for _, s := range h.all {
		ps, err := s.Peers(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			if len(h.all) > 1 {
				p.Service = s.service.trust().Descriptor.Name
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// JoinSteps implements control.Handler.
func (h *Host) JoinSteps(ctx context.Context) ([]control.JoinStep, error) {
	return h.all[0].JoinSteps(ctx)
}

// Ping implements control.Handler.
func (h *Host) Ping(ctx context.Context, target string, count int, emit func(control.PingReply) error) error {
	return h.all[0].Ping(ctx, target, count, emit)
}

// Down implements control.Handler.
func (h *Host) Down(ctx context.Context) error { return h.all[0].Down(ctx) }

// Metrics implements metrics.Source. What the services share stands once.
func (h *Host) Metrics(ctx context.Context) (out metrics.Snapshot, err error) {
	for i, s := range h.all {
		of, err := s.Metrics(ctx)
		if err != nil {
			return out, err
		}
		if i == 0 {
			out.Underlay, out.Port, out.Control, out.Relay = of.Underlay, of.Port, of.Control[:1], of.Relay
		}
		out.Control = append(out.Control, of.Control[1:]...) // the first is of the shared rings
		of.Super.Running = s.desk.running()
		out.Services = append(out.Services, metrics.Service{Name: s.service.trust().Descriptor.Name, Overlays: of.Overlays, Super: of.Super})
	}
	return out, nil
}
