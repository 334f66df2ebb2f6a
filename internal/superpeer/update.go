package superpeer

import (
	"context"
	"fmt"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// Update puts what the owners have signed since in force, of the service that the
// file is of, or a release manifest; the other super peers and the machines hear of
// it from us. All that is good in it is taken, and the first thing that is not is
// the error.
func (h *Host) Update(_ context.Context, file []byte) (control.Update, error) {
	if service.IsReleaseFile(file) {
		return h.updateRelease(file)
	}
	u, err := service.ParseUpdate(file)
	if err != nil {
		return control.Update{}, err
	}
	for _, s := range h.all {
		if s.service.trust().Service == u.Service {
			return s.update(u, time.Now())
		}
	}
	return control.Update{}, fmt.Errorf("superpeer: the update is of service %s, which this super peer does not serve", u.Service.Short())
}

// Update is Host.Update of the host that s is on.
func (s *SuperPeer) Update(ctx context.Context, file []byte) (control.Update, error) {
	return s.host.Update(ctx, file)
}

func (s *SuperPeer) update(u service.Update, now time.Time) (control.Update, error) {
	out := control.Update{Service: u.Service.String(), Name: s.service.trust().Descriptor.Name}
	newer, err := s.learnDocuments(s.service, fileDocuments, u.Documents, now)
	out.Add("descriptor", s.service.trust().Descriptor.Seq, newer)
	if u.UniverseID == s.universe.trust().Service && err == nil {
		_, err = s.learnDocuments(s.universe, fileUniverseDocuments, u.Universe, now)
	}
	for _, d := range s.signedDocuments() {
		given, ok := u.Signed(d.name)
		if !ok || err != nil {
			continue
		}
		newer, err = d.learn(wire.Marshal(given), now)
		_, seq := d.inForce(s.service.standing.Load())
		out.Add(d.name, seq, newer)
	}
	return out, err
}
