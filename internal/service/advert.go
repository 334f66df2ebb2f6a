package service

import (
	"crypto/ed25519"
	"fmt"
	"net"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Limits of an advert.
const (
	MaxAdvert       = 24 << 10
	MaxAdvertised   = 32 // services in one advert
	maxAdvertLabels = 8
	maxAdvertLife   = time.Hour
	maxBinary       = 64
	recordAdvert    = "advert"
	domainAdvert    = "icvpn/1 advert"
)

// Advert is what a member of a universal overlay says of itself there: where it
// stands, what it does, and which services it serves. It is an object under the
// member's key.
type Advert struct {
	_         struct{} `cbor:",toarray"`
	Type      string
	Universe  id.ID
	Publisher id.ID
	Seq       int64
	Expires   int64 // Unix seconds
	Record    SuperPeerRecord
	Services  []Advertised
}

// SuperPeerRecord is what a super peer says of itself. Nobody vouches for it.
type SuperPeerRecord struct {
	_      struct{}          `cbor:",toarray"`
	Labels map[string]string // cloud, zone
	Roles  []string
	Binary string // version
	Load   uint8  // hint: 0 idle to 100 full
}

// Advertised is one service of an advert, signed by the key that the service's
// descriptor names. Whoever has that descriptor knows that it is true; to
// everybody else it says where to ask.
type Advertised struct {
	_         struct{} `cbor:",toarray"`
	Service   id.ID
	Name      string
	Key       ed25519.PublicKey // of the super peer in the service
	Endpoints []string
	Seq       uint64 // of the descriptor
	Until     int64  // end of the descriptor, Unix seconds
	Sig       []byte
}

// signed is what Sig covers: the entry, whose advert it stands in, and until when.
// So nobody can advertise with another's entries.
func (s Advertised) signed(a *Advert) []byte {
	s.Sig = nil
	return wire.Marshal([]any{a.Universe, a.Publisher, a.Expires, s})
}

// Add signs an entry and adds it. It is the last thing to be done to an advert.
func (a *Advert) Add(s Advertised, key ed25519.PrivateKey) {
	s.Key = key.Public().(ed25519.PublicKey)
	s.Sig = wire.Sign(key, domainAdvert, s.signed(a))
	a.Services = append(a.Services, s)
}

// NewAdvert returns an advert without services.
func NewAdvert(universe, publisher id.ID, seq int64, expires time.Time, r SuperPeerRecord) Advert {
	return Advert{Type: recordAdvert, Universe: universe, Publisher: publisher, Seq: seq, Expires: expires.Unix(), Record: r}
}

// Encode returns the bytes to publish.
func (a Advert) Encode() ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	b := wire.Marshal(a)
	if len(b) > MaxAdvert {
		return nil, fmt.Errorf("service: advert has %d bytes, at most %d are allowed", len(b), MaxAdvert)
	}
	return b, nil
}

// OpenAdvert reads the advert in an object of sequence number seq under
// publisher's key, whose signature was verified.
func OpenAdvert(b []byte, universe, publisher id.ID, seq int64, now time.Time) (Advert, error) {
	var a Advert
	if err := wire.Unmarshal(b, &a, MaxAdvert); err != nil {
		return a, fmt.Errorf("service: advert: %w", err)
	}
	if err := header(a.Type, recordAdvert, a.Universe, universe, a.Expires, now); err != nil {
		return a, err
	}
	switch {
	case a.Publisher != publisher:
		return a, fmt.Errorf("service: advert of %s stands under the key of %s", a.Publisher.Short(), publisher.Short())
	case a.Seq != seq:
		return a, fmt.Errorf("%w: advert of sequence number %d in an object of %d", ErrStale, a.Seq, seq)
	case a.Expires > now.Add(maxAdvertLife+clockSlack).Unix():
		return a, fmt.Errorf("service: advert is to last until %s, at most %v are allowed", day(a.Expires), maxAdvertLife)
	}
	if err := a.validate(); err != nil {
		return a, err
	}
	for _, s := range a.Services {
		if !wire.Verify(s.Key, s.Sig, domainAdvert, s.signed(&a)) {
			return a, fmt.Errorf("service: advert of %s has a bad signature for service %s", publisher.Short(), s.Service.Short())
		}
	}
	return a, nil
}

func (a *Advert) validate() error {
	r := a.Record
	if len(a.Services) > MaxAdvertised || len(r.Labels) > maxAdvertLabels || len(r.Roles) > maxAdvertLabels || len(r.Binary) > maxBinary || r.Load > 100 {
		return fmt.Errorf("service: advert of %s is out of bounds", a.Publisher.Short())
	}
	for k, v := range r.Labels {
		if !ValidLabel(k) || !ValidLabel(v) {
			return fmt.Errorf("service: advert of %s has a malformed label", a.Publisher.Short())
		}
	}
	if slices.ContainsFunc(r.Roles, func(role string) bool { return !ValidLabel(role) }) {
		return fmt.Errorf("service: advert of %s has a malformed role", a.Publisher.Short())
	}
	for i, s := range a.Services {
		if !ValidName(s.Name) || len(s.Key) != ed25519.PublicKeySize || len(s.Endpoints) == 0 || len(s.Endpoints) > maxEndpoints {
			return fmt.Errorf("service: advert of %s has a malformed entry %d", a.Publisher.Short(), i+1)
		}
		for _, e := range s.Endpoints {
			if _, _, err := net.SplitHostPort(e); err != nil || len(e) > 260 {
				return fmt.Errorf("service: advert of %s has a malformed endpoint in entry %d", a.Publisher.Short(), i+1)
			}
		}
		if slices.ContainsFunc(a.Services[:i], func(other Advertised) bool { return other.Service == s.Service }) {
			return fmt.Errorf("service: advert of %s has service %s twice", a.Publisher.Short(), s.Service.Short())
		}
	}
	return nil
}
