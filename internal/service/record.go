package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Record limits. A contact is one BEP 44 value of at most MaxRecord bytes.
const (
	MaxRecord     = 600
	recordContact = "contact"
	// MaxRelays stand in a contact.
	MaxRelays       = 2
	allocationBytes = 8
)

// Contact says where a member can be reached. The member writes it under its
// identity key, sealed to the policy of those who may discover it. Its header
// stands in the signed content because BEP 44's signature covers neither type
// nor service nor expiry.
type Contact struct {
	_         struct{} `cbor:",toarray"`
	Type      string
	Service   id.ID
	Epoch     uint32
	Seq       int64
	Expires   int64 // Unix seconds
	Endpoints []netip.AddrPort
	Withdrawn bool // the member left
	Relays    []ContactRelay
}

// contactAlone is a Contact without relays, as all were before there were any: so who
// knows of none reads what most members write.
type contactAlone struct {
	_         struct{} `cbor:",toarray"`
	Type      string
	Service   id.ID
	Epoch     uint32
	Seq       int64
	Expires   int64
	Endpoints []netip.AddrPort
	Withdrawn bool
}

// ContactRelay names a relay through which a member can be reached. It has no address: a
// reader sends to those that it knows as relays.
type ContactRelay struct {
	_          struct{} `cbor:",toarray"`
	PID        id.ID
	Allocation []byte // 8 bytes (docs/protocol/relay.md)
}

// Sealed is a record as stored: what a reader needs to choose the key, and the
// HPKE ciphertext.
type Sealed struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Epoch      uint32
	Generation uint32
	Policy     []byte // first 8 bytes of SHA-256 of the policy's canonical text
	Ciphertext []byte
}

// Member is a directory entry: who is in the service, under which key.
type Member struct {
	_        struct{} `cbor:",toarray"`
	Key      []byte   // Ed25519 identity key
	Name     string
	VM       string
	Labels   map[string]string
	Address4 []byte
	NotAfter int64    // Unix seconds
	Issued   int64    // Unix seconds, when it was admitted last
	Instance Instance // the process that was
	Claim    Claim    // the machine's word for it; only where it matters
}

// PID returns the member's node identifier.
func (m Member) PID() id.ID { return id.FromKey(m.Key) }

// Addr4 returns the leased IPv4 address.
func (m Member) Addr4() netip.Addr { a, _ := netip.AddrFromSlice(m.Address4); return a }

// Member returns the directory entry of a credential.
func (c *Credential) Member() Member {
	return Member{Key: c.Key, Name: c.Name, VM: c.VM, Labels: c.Labels, Address4: c.Address4, NotAfter: c.NotAfter, Issued: c.NotBefore, Instance: c.Instance}
}

// ErrStale is returned for a record that is older than one seen, expired, or
// of another epoch or service.
var ErrStale = errors.New("service: stale record")

// header checks what every record carries in its signed content.
func header(gotType, wantType string, gotService, service id.ID, expires int64, now time.Time) error {
	switch {
	case gotType != wantType || gotService != service:
		return fmt.Errorf("service: record is %.16q of %s, want %q of %s", gotType, gotService.Short(), wantType, service.Short())
	case now.Unix() >= expires:
		return fmt.Errorf("%w: expired on %s", ErrStale, day(expires))
	}
	return nil
}

// NewContact returns the content of a contact record.
func NewContact(service id.ID, epoch uint32, seq int64, expires time.Time, endpoints []netip.AddrPort) Contact {
	if len(endpoints) > maxEndpoints {
		endpoints = endpoints[:maxEndpoints]
	}
	return Contact{Type: recordContact, Service: service, Epoch: epoch, Seq: seq, Expires: expires.Unix(), Endpoints: endpoints}
}

// Encode returns the bytes to seal.
func (c Contact) Encode() []byte {
	if len(c.Relays) > 0 {
		return wire.Marshal(c)
	}
	return wire.Marshal(contactAlone{
		Type: c.Type, Service: c.Service, Epoch: c.Epoch, Seq: c.Seq, Expires: c.Expires, Endpoints: c.Endpoints, Withdrawn: c.Withdrawn,
	})
}

// parseContact reads either form of a contact.
func parseContact(b []byte) (c Contact, err error) {
	var a contactAlone
	if wire.Unmarshal(b, &a, MaxRecord) == nil {
		return Contact{
			Type: a.Type, Service: a.Service, Epoch: a.Epoch, Seq: a.Seq, Expires: a.Expires, Endpoints: a.Endpoints, Withdrawn: a.Withdrawn,
		}, nil
	}
	if err := wire.Unmarshal(b, &c, MaxRecord); err != nil {
		return c, fmt.Errorf("service: contact: %w", err)
	}
	if len(c.Relays) == 0 || len(c.Relays) > MaxRelays {
		return c, fmt.Errorf("service: contact names %d relays, want 1 to %d", len(c.Relays), MaxRelays)
	}
	for _, r := range c.Relays {
		if len(r.Allocation) != allocationBytes {
			return c, fmt.Errorf("service: contact has an allocation of %d bytes, want %d", len(r.Allocation), allocationBytes)
		}
	}
	return c, nil
}

// OpenContact reads a contact that was opened and whose item signature was
// verified. seq is the item's sequence number, which must be the content's.
func OpenContact(b []byte, service id.ID, seq int64, now time.Time) (Contact, error) {
	c, err := parseContact(b)
	if err != nil {
		return c, err
	}
	if err := header(c.Type, recordContact, c.Service, service, c.Expires, now); err != nil {
		return c, err
	}
	if c.Seq != seq {
		return c, fmt.Errorf("%w: contact of sequence number %d in an item of %d", ErrStale, c.Seq, seq)
	}
	if len(c.Endpoints) > maxEndpoints {
		return c, fmt.Errorf("service: contact has %d endpoints, at most %d are allowed", len(c.Endpoints), maxEndpoints)
	}
	good := c.Endpoints[:0]
	for _, e := range c.Endpoints {
		if UsableEndpoint(e) {
			good = append(good, e)
		}
	}
	c.Endpoints = good
	return c, nil
}

// maxLease is longer than any membership that is granted, by a clock's slack.
const maxLease = 48 * time.Hour

// Vouched returns the members that a super peer may speak for: with an address
// in its block and labels within its scope, admitted already, before its own and
// their end.
// Whatever it says of others is not believed.
func Vouched(issuer SuperPeer, all []Member, now time.Time) []Member {
	block, err := netip.ParsePrefix(issuer.Block4)
	if err != nil || !issuer.Has(RoleAdmit) || now.Unix() >= issuer.Expires {
		return nil
	}
	var good []Member
	last := min(issuer.Expires, now.Add(maxLease).Unix())
	for _, m := range all {
		if m.NotAfter > last {
			continue // nobody is listed for ever
		}
		if m.Issued > now.Unix()+claimSlack {
			continue // else the listing would be later than any true one, for as long as it likes
		}
		if len(m.Key) == ed25519.PublicKeySize && ValidName(m.Name) && block.Contains(m.Addr4()) && now.Unix() < m.NotAfter && inScope(issuer, m.Labels) {
			good = append(good, m)
		}
	}
	return good
}

func inScope(issuer SuperPeer, labels map[string]string) bool {
	for k, v := range labels {
		if !issuer.MayGrant(k, v) {
			return false
		}
	}
	return len(labels) <= maxLabels
}
