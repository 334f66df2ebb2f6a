package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"icvpn/internal/filter"
	"icvpn/internal/id"
)

// Mesh modes: when tunnels are made.
const (
	MeshOnDemand = "on-demand" // by the first packet
	MeshFull     = "full"      // with every peer the rules allow, at once
)

// Bounds of lifetimes. An hour is the hard limit of an SA in DESIGN.md 8; the
// lower bound keeps a typing error from making a rekey storm.
const (
	maxSALifetime = time.Hour
	minSALifetime = 10 * time.Second
)

// Policy is the owner-signed security policy: YAML, signed as bytes.
type Policy struct {
	Version  int           `yaml:"version"`
	Service  string        `yaml:"service"`  // ServiceID
	Sequence uint64        `yaml:"sequence"` // never goes back
	Issued   time.Time     `yaml:"issued"`
	Expires  time.Time     `yaml:"expires"`
	Mesh     string        `yaml:"mesh"`
	Suites   []string      `yaml:"suites"` // names of esp suites, in order of preference
	Groups   []string      `yaml:"groups"` // names of key exchange groups, in order of preference
	Lifetime time.Duration `yaml:"sa_lifetime"`
	Rules    []filter.Rule `yaml:"rules"`
	Out      Revoked       `yaml:"revoked,omitempty"`
	Helpers  Helpers       `yaml:"helpers,omitempty"`
	Updates  Updates       `yaml:"updates,omitempty"`
}

// Helpers says which members super peers may promote: docs/protocol/helpers.md.
type Helpers struct {
	// CloudLabel is the label that says in which cloud a member is. Default "cloud";
	// members without it are told apart by network.
	CloudLabel string `yaml:"cloud_label,omitempty"`
	// Min and Max helpers are in each cloud, for each super peer. Default 2 and 8;
	// 1 to 16.
	Min int `yaml:"min,omitempty"`
	Max int `yaml:"max,omitempty"`
	// Off has nobody promoted.
	Off bool `yaml:"off,omitempty"`
}

const maxHelpers = 16

func (h Helpers) validate() error {
	if h.Min < 0 || h.Min > maxHelpers || h.Max < 0 || h.Max > maxHelpers || h.Max != 0 && h.Max < h.Min {
		return fmt.Errorf("service: policy has helpers min %d and max %d, want 1 to %d, and min not above max", h.Min, h.Max, maxHelpers)
	}
	return nil
}

// Revoked names who is out.
type Revoked struct {
	Peers   []string        `yaml:"peers,omitempty"` // PIDs
	Secrets []RevokedSecret `yaml:"secrets,omitempty"`
}

// RevokedSecret revokes everyone admitted with a secret since a time.
type RevokedSecret struct {
	ID    string    `yaml:"id"`
	Since time.Time `yaml:"since"`
}

// Defaults of a new policy, in order of preference.
var (
	DefaultSuites = []string{"aes128cbc-sha256", "aes256cbc-sha512"}
	DefaultGroups = []string{"x25519-mlkem768", "x25519", "modp3072"}
)

// NewPolicy signs p. It fills in what is empty with the defaults.
func NewPolicy(p Policy, service id.ID, owners []ed25519.PrivateKey) (Signed, error) {
	p.Version, p.Service = docVersion, service.String()
	if p.Mesh == "" {
		p.Mesh = MeshOnDemand
	}
	if len(p.Suites) == 0 {
		p.Suites = DefaultSuites
	}
	if len(p.Groups) == 0 {
		p.Groups = DefaultGroups
	}
	if p.Lifetime == 0 {
		p.Lifetime = maxSALifetime
	}
	if err := p.validate(); err != nil {
		return Signed{}, err
	}
	b, err := yaml.Marshal(p)
	if err != nil {
		return Signed{}, fmt.Errorf("service: policy: %w", err)
	}
	return sign(typePolicy, b, owners), nil
}

// ParsePolicy reads the YAML of a policy strictly.
func ParsePolicy(b []byte) (*Policy, error) {
	p, err := ReadPolicy(b)
	if err != nil {
		return nil, err
	}
	return p, p.validate()
}

// ReadPolicy reads the YAML of a policy that the owner is still to complete and
// sign: fields that NewPolicy fills in may be missing.
func ReadPolicy(b []byte) (*Policy, error) {
	if len(b) > MaxSigned {
		return nil, fmt.Errorf("service: policy has %d bytes, at most %d are allowed", len(b), MaxSigned)
	}
	p := new(Policy)
	if err := yaml.UnmarshalWithOptions(b, p, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("service: policy: %w", err)
	}
	return p, nil
}

func (p *Policy) validate() error {
	switch {
	case p.Version != docVersion:
		return fmt.Errorf("service: policy has version %d, this binary knows %d", p.Version, docVersion)
	case p.Mesh != MeshOnDemand && p.Mesh != MeshFull:
		return fmt.Errorf("service: policy has mesh %.40q, want %q or %q", p.Mesh, MeshOnDemand, MeshFull)
	case p.Lifetime < minSALifetime || p.Lifetime > maxSALifetime:
		return fmt.Errorf("service: policy has sa_lifetime %v, want %v to %v", p.Lifetime, minSALifetime, maxSALifetime)
	case len(p.Suites) == 0 || len(p.Suites) > 6 || len(p.Groups) == 0 || len(p.Groups) > 4:
		return errors.New("service: policy wants 1 to 6 suites and 1 to 4 groups")
	}
	if err := p.Helpers.validate(); err != nil {
		return err
	}
	if err := p.Updates.validate(); err != nil {
		return err
	}
	return filter.Validate(p.Rules)
}

// Revoked says whether the policy revokes c, by PID or by enrolment secret.
func (p *Policy) Revoked(c *Credential) error {
	if slices.Contains(p.Out.Peers, c.PID().String()) {
		return fmt.Errorf("service: peer %s (%s) is revoked", c.Name, c.PID().Short())
	}
	for _, s := range p.Out.Secrets {
		if s.ID == c.SecretID && c.AdmittedAt >= s.Since.Unix() {
			return fmt.Errorf("service: peer %s was admitted with secret %s, revoked since %s", c.Name, s.ID, s.Since.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func openPolicy(s Signed, r Root, service id.ID, now time.Time) (*Policy, error) {
	if err := s.verify(typePolicy, r); err != nil {
		return nil, err
	}
	p, err := ParsePolicy(s.Body)
	if err != nil {
		return nil, err
	}
	if p.Service != service.String() {
		return nil, fmt.Errorf("service: policy is of service %.40q, not %s", p.Service, service)
	}
	if !now.Before(p.Expires) {
		return nil, fmt.Errorf("service: the policy expired on %s; the owner must sign a new one", p.Expires.UTC().Format(time.RFC3339))
	}
	return p, nil
}
