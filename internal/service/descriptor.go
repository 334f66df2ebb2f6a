package service

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Roles of a super peer. Store, reflect and relay hold no service secret;
// admit and authority are granted by the owners' signature only.
const (
	RoleStore     = "store"
	RoleReflect   = "reflect"
	RoleRelay     = "relay"
	RoleAdmit     = "admit"
	RoleAuthority = "authority"
)

const (
	maxSuperPeers = 256
	maxEndpoints  = 8
	maxLabels     = 16
)

// AnyValue in a label scope allows every value of that label.
const AnyValue = "*"

// Descriptor says how a service is reached and what its super peers may do.
type Descriptor struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Service    id.ID
	Seq        uint64
	Issued     int64 // Unix seconds
	Expires    int64 // Unix seconds
	Name       string
	Prefix4    string // IPv4 prefix of the overlay; "" for the universal overlay
	SRPGroup   uint16 // admission.Group; never taken from an unsigned message
	KDF        uint8  // admission.KDF of generated secrets
	ABEHash    []byte // SHA-256 of the ABE public parameters; empty for the universal overlay
	Generation uint32 // of the ABE attributes
	SuperPeers []SuperPeer
}

// SuperPeer is one super peer's key and the scope every verifier holds it to.
type SuperPeer struct {
	_         struct{}          `cbor:",toarray"`
	Key       ed25519.PublicKey // identity and TLS key
	Endpoints []string          // host:port, UDP and TCP
	Roles     []string
	Scope     map[string][]string // label -> values it may grant; AnyValue for all
	Block4    string              // IPv4 addresses it may lease
	Expires   int64               // Unix seconds
}

// PID returns the super peer's node identifier.
func (s SuperPeer) PID() id.ID { return id.FromKey(s.Key) }

// Has says whether the owners gave s the role.
func (s SuperPeer) Has(role string) bool { return slices.Contains(s.Roles, role) }

// MayGrant says whether the owners let s grant label=value.
func (s SuperPeer) MayGrant(label, value string) bool {
	return allows(s.Scope, label, value)
}

func allows(scope map[string][]string, label, value string) bool {
	v := scope[label]
	return slices.Contains(v, value) || slices.Contains(v, AnyValue)
}

// NewDescriptor signs d, filling in its version.
func NewDescriptor(d Descriptor, owners []ed25519.PrivateKey) (Signed, error) {
	d.Version = docVersion
	if err := d.validate(); err != nil {
		return Signed{}, err
	}
	return sign(typeDescriptor, wire.Marshal(d), owners), nil
}

func (d Descriptor) validate() error {
	if d.Version != docVersion {
		return fmt.Errorf("service: descriptor has version %d, this binary knows %d", d.Version, docVersion)
	}
	if len(d.SuperPeers) == 0 || len(d.SuperPeers) > maxSuperPeers {
		return fmt.Errorf("service: descriptor lists %d super peers, want 1 to %d", len(d.SuperPeers), maxSuperPeers)
	}
	var prefix netip.Prefix
	if d.Prefix4 != "" {
		var err error
		if prefix, err = netip.ParsePrefix(d.Prefix4); err != nil || !prefix.Addr().Is4() || prefix.Masked() != prefix {
			return fmt.Errorf("service: descriptor prefix %.40q is not an IPv4 network", d.Prefix4)
		}
	}
	blocks := make([]netip.Prefix, 0, len(d.SuperPeers))
	keys := map[string]bool{}
	for i, s := range d.SuperPeers {
		if len(s.Key) != ed25519.PublicKeySize || keys[string(s.Key)] {
			return fmt.Errorf("service: super peer %d has a malformed or repeated key", i+1)
		}
		keys[string(s.Key)] = true
		if len(s.Endpoints) == 0 || len(s.Endpoints) > maxEndpoints {
			return fmt.Errorf("service: super peer %d has %d endpoints, want 1 to %d", i+1, len(s.Endpoints), maxEndpoints)
		}
		if s.Block4 == "" {
			continue
		}
		b, err := netip.ParsePrefix(s.Block4)
		if err != nil || !prefix.IsValid() || !prefix.Contains(b.Addr()) || b.Bits() < prefix.Bits() || b.Masked() != b {
			return fmt.Errorf("service: super peer %d has address block %.40q outside %s", i+1, s.Block4, d.Prefix4)
		}
		for _, other := range blocks {
			if other.Overlaps(b) {
				return fmt.Errorf("service: address blocks %s and %s overlap", other, b)
			}
		}
		blocks = append(blocks, b)
	}
	return nil
}

// SuperPeer returns the super peer with this node identifier.
func (d *Descriptor) SuperPeer(pid id.ID) (SuperPeer, bool) {
	for _, s := range d.SuperPeers {
		if s.PID() == pid {
			return s, true
		}
	}
	return SuperPeer{}, false
}

// Prefix6 returns the service's IPv6 prefix: fd ‖ ServiceID[:7], a /64 of the
// unique local range (RFC 4193) that needs no allocation.
func Prefix6(service id.ID) netip.Prefix {
	a := [16]byte{0: 0xfd}
	copy(a[1:8], service[:7])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Address6 returns the IPv6 address of a member: the service's prefix and the
// first 64 bits of its PID.
func Address6(service, pid id.ID) netip.Addr {
	a := Prefix6(service).Addr().As16()
	copy(a[8:], pid[:8])
	return netip.AddrFrom16(a)
}

// PIDPrefix returns the 64 bits of a PID that an IPv6 address carries.
func PIDPrefix(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

func openDescriptor(s Signed, r Root, service id.ID, now time.Time) (*Descriptor, error) {
	if err := s.verify(typeDescriptor, r); err != nil {
		return nil, err
	}
	d := new(Descriptor)
	if err := wire.Unmarshal(s.Body, d, MaxSigned); err != nil {
		return nil, fmt.Errorf("service: descriptor: %w", err)
	}
	if err := d.validate(); err != nil {
		return nil, err
	}
	if d.Service != service || d.Name != r.Name {
		return nil, fmt.Errorf("service: descriptor is of service %s, not %s", d.Service.Short(), service.Short())
	}
	if now.Unix() >= d.Expires {
		return nil, fmt.Errorf("service: the descriptor of %s expired on %s; the owner must sign a new one", d.Name, day(d.Expires))
	}
	return d, nil
}
