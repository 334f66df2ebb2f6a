package superpeer

import (
	"context"
	"strings"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/service"
)

var _ control.Handler = (*SuperPeer)(nil)

// Status implements control.Handler.
func (s *SuperPeer) Status(context.Context) (control.Status, error) {
	a := s.authority
	st := control.Status{
		Role: control.RoleSuper, State: control.StateJoining, Since: s.started, Started: s.started,
		Name: "super-" + s.PID().Short(), PID: s.PID().String(), Service: a.trust().Service.String(), ServiceName: a.trust().Descriptor.Name,
		Software: s.cfg.Binary, Process: s.cfg.Process,
		Listen: []string{s.cfg.TCP.Addr().String()}, Endpoints: a.self().Endpoints, Epoch: a.epoch(time.Now()),
		CredentialExpires: time.Unix(a.self().Expires, 0),
	}
	if s.Ready() {
		st.State = control.StateUp
	}
	st.Release = s.releases.Status(a.trust(), s.cfg.Binary, time.Now())
	st.PeersKnown = a.roster.len()
	st.Warnings = append(st.Warnings, a.roster.warnings(time.Now())...)
	return st, nil
}

// Peers implements control.Handler: the members in the directory. A super peer
// has no tunnels, so none of them is reachable from it.
func (s *SuperPeer) Peers(context.Context) (all []control.Peer, err error) {
	a := s.authority
	for _, m := range a.members(time.Now()) {
		all = append(all, control.Peer{
			Name: m.Name, PID: m.PID().String(), Address4: m.Addr4(), Address6: service.Address6(a.trust().Service, m.PID()),
			Labels: m.Labels, Reachable: "a super peer carries no traffic of the service", State: control.TunnelNone,
		})
	}
	return all, nil
}

// JoinSteps implements control.Handler.
func (s *SuperPeer) JoinSteps(context.Context) ([]control.JoinStep, error) { return nil, nil }

// Ping implements control.Handler.
func (s *SuperPeer) Ping(context.Context, string, int, func(control.PingReply) error) error {
	return &control.Error{Code: control.CodeNotAllowed, Message: "a super peer is in no tunnel; ping from a peer (" + strings.Join(s.authority.self().Endpoints, ", ") + " is this one)"}
}

// Down implements control.Handler.
func (s *SuperPeer) Down(context.Context) error {
	if !s.host.down() {
		return &control.Error{Code: control.CodeNotReady, Message: "the super peer has not started yet; try again"}
	}
	return nil
}
