package superpeer

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/discovery"
	"icvpn/internal/ledger"
	"icvpn/internal/release"
	"icvpn/internal/service"
)

// fileRelease is where the newest release manifest is kept.
const fileRelease = "release"

func openReleases(home ledger.Home) (*release.Shelf, error) {
	kept, err := home.Get(fileRelease)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return release.NewShelf(kept, func(b []byte) error { return home.Put(fileRelease, b) }), nil
}

// signedRelease is the way the manifest takes. One that has expired is not handed
// on: nobody would take it.
func (s *SuperPeer) signedRelease() signedDocument {
	return signedDocument{
		name: "release", patient: true,
		// Of one standing, as inForce: what former keys signed is never put where machines
		// look for what others sign.
		salt: func(st *standing) []byte {
			return discovery.SaltRelease(st.trust.Service, st.trust.Policy.Updates.ID())
		},
		inForce: func(st *standing) (service.Signed, uint64) {
			r, signed := s.releases.Current(st.trust)
			switch {
			case r == nil:
				return service.Signed{}, 0
			case time.Now().Unix() >= r.Expires:
				return service.Signed{}, r.Seq
			}
			return st.trust.EnoughSignatures(signed), r.Seq
		},
		learn: func(b []byte, now time.Time) (newer bool, err error) {
			signed, err := service.ParseSignedRelease(b)
			if err == nil {
				newer, err = s.learnRelease(signed, now)
			}
			if errors.Is(err, service.ErrRollback) {
				return false, nil // older ones are everywhere
			}
			return newer, err
		},
	}
}

// learnRelease takes a newer manifest, hands it on, and says whether it was newer.
func (s *SuperPeer) learnRelease(signed service.Signed, now time.Time) (newer bool, err error) {
	r, err := s.releases.Take(s.service.trust, signed, now)
	if errors.Is(err, service.ErrStale) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.log.Info("newer release manifest known", "seq", r.Seq, "detail", r.Version+" of channel "+r.Channel)
	s.tellNews()
	return true, nil
}

// updateRelease takes a manifest that a person gave, who is told of a rollback.
func (h *Host) updateRelease(file []byte) (out control.Update, err error) {
	signed, err := service.ParseReleaseFile(file)
	if err != nil {
		return out, err
	}
	r, err := signed.ReadRelease()
	if err != nil {
		return out, err
	}
	for _, s := range h.all {
		if trust := s.service.trust(); trust.Service == r.Service {
			out = control.Update{Service: trust.Service.String(), Name: trust.Descriptor.Name}
			newer, err := s.learnRelease(signed, time.Now())
			out.Add("release", r.Seq, newer)
			return out, err
		}
	}
	return out, fmt.Errorf("superpeer: the release manifest is of service %s, which this super peer does not serve", r.Service.Short())
}
