package service

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const domainCredential = "icvpn/1 credential"

// Credential is what a super peer grants to a member: a key, its address and
// labels, until a date. Every verifier checks it against its issuer's scope.
type Credential struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Service    id.ID
	Key        ed25519.PublicKey // identity key; its hash is the PID
	Name       string            // DNS label, for people; need not be unique
	VM         string            // the provider's or the machine's own identifier
	Labels     map[string]string
	Slot       []byte // random attribute of the ABE key, 16 bytes
	Address4   []byte // 4 bytes from the issuer's block
	SecretID   string // enrolment secret it was admitted with ...
	AdmittedAt int64  // ... and when, so that "secret X since T" can be revoked
	NotBefore  int64  // Unix seconds
	NotAfter   int64  // Unix seconds
	Epoch      uint32
	Generation uint32
	Issuer     id.ID
	Instance   Instance // process of the member that was admitted
}

// Instance is drawn once by each process that joins. Two processes with one key
// are a machine before and after a restart, or a machine and its clone: the later
// admission tells which of them is the member.
type Instance [8]byte

// IsZero says whether i names no process.
func (i Instance) IsZero() bool { return i == Instance{} }

// String returns 16 hexadecimal digits.
func (i Instance) String() string { return hex.EncodeToString(i[:]) }

// signedCredential is the form that travels.
type signedCredential struct {
	_    struct{} `cbor:",toarray"`
	Body []byte
	Sig  []byte
}

// PID returns the member's node identifier.
func (c *Credential) PID() id.ID { return id.FromKey(c.Key) }

// Addr4 returns the leased IPv4 address.
func (c *Credential) Addr4() netip.Addr { a, _ := netip.AddrFromSlice(c.Address4); return a }

// Addr6 returns the address derived from the PID.
func (c *Credential) Addr6() netip.Addr { return Address6(c.Service, c.PID()) }

// Expires returns the end of validity.
func (c *Credential) Expires() time.Time { return time.Unix(c.NotAfter, 0) }

// LabelText renders labels in the form role=web,zone=eu.
func LabelText(labels map[string]string) string {
	if len(labels) == 0 {
		return "no labels"
	}
	s := make([]string, 0, len(labels))
	for k, v := range labels {
		s = append(s, k+"="+v)
	}
	sort.Strings(s)
	return strings.Join(s, ",")
}

// SignCredential returns c as it travels, signed by its issuer. It fails when
// the result would be longer than MaxCredential bytes.
func SignCredential(c Credential, issuer ed25519.PrivateKey) ([]byte, error) {
	c.Version = docVersion
	c.Issuer = id.FromKey(issuer.Public().(ed25519.PublicKey))
	if err := c.validate(); err != nil {
		return nil, err
	}
	body := wire.Marshal(c)
	out := wire.Marshal(signedCredential{Body: body, Sig: wire.Sign(issuer, domainCredential, body)})
	if len(out) > MaxCredential {
		return nil, fmt.Errorf("service: credential of %s takes %d bytes, at most %d fit: use fewer or shorter labels", c.Name, len(out), MaxCredential)
	}
	return out, nil
}

func (c *Credential) validate() error {
	switch {
	case c.Version != docVersion:
		return fmt.Errorf("service: credential has version %d", c.Version)
	case len(c.Key) != ed25519.PublicKeySize:
		return errors.New("service: credential has a malformed key")
	case !ValidName(c.Name):
		return errors.New("service: credential has a malformed name")
	case len(c.VM) > 64 || len(c.SecretID) > 64 || len(c.Slot) != 16 || len(c.Address4) != 4:
		return errors.New("service: credential has a field of wrong length")
	case len(c.Labels) > maxLabels:
		return fmt.Errorf("service: credential has %d labels, at most %d are allowed", len(c.Labels), maxLabels)
	}
	return nil
}

func parseCredential(b []byte) (c Credential, sc signedCredential, err error) {
	if err := wire.Unmarshal(b, &sc, MaxCredential); err != nil {
		return c, sc, fmt.Errorf("service: credential: %w", err)
	}
	if err := wire.Unmarshal(sc.Body, &c, MaxCredential); err != nil {
		return c, sc, fmt.Errorf("service: credential: %w", err)
	}
	return c, sc, c.validate()
}

// VerifyCredential checks the whole chain for a credential shown at time now
// under epoch: issuer listed with the role admit and not expired, its
// signature, service, epoch and generation (one either way), dates, labels and address within the issuer's
// scope, and neither the peer nor its enrolment secret revoked. The error says
// which, for the log; a peer is told nothing.
func (t *Trust) VerifyCredential(now time.Time, b []byte, epoch uint32) (*Credential, error) {
	c, sc, err := parseCredential(b)
	if err != nil {
		return nil, err
	}
	if c.Service != t.Service {
		return nil, fmt.Errorf("service: credential is of another service (%s)", c.Service.Short())
	}
	issuer, ok := t.Descriptor.SuperPeer(c.Issuer)
	if !ok || !issuer.Has(RoleAdmit) {
		return nil, fmt.Errorf("%w: that of %s was issued by %s, which may not admit", ErrIssuer, c.Name, c.Issuer.Short())
	}
	if !wire.Verify(issuer.Key, sc.Sig, domainCredential, sc.Body) {
		return nil, fmt.Errorf("service: credential of %s has a bad signature", c.Name)
	}
	unix := now.Unix()
	switch {
	case unix >= issuer.Expires:
		return nil, fmt.Errorf("service: issuer %s of the credential of %s expired on %s", c.Issuer.Short(), c.Name, day(issuer.Expires))
	case unix >= c.NotAfter:
		return nil, fmt.Errorf("service: credential of %s expired on %s", c.Name, day(c.NotAfter))
	case unix < c.NotBefore-int64(clockSlack/time.Second):
		return nil, fmt.Errorf("service: credential of %s is not valid before %s", c.Name, day(c.NotBefore))
	case c.Epoch > epoch+1 || c.Epoch+1 < epoch:
		return nil, fmt.Errorf("service: credential of %s is of epoch %d, now is %d", c.Name, c.Epoch, epoch)
	case c.Generation > t.Descriptor.Generation+1 || c.Generation+1 < t.Descriptor.Generation:
		return nil, fmt.Errorf("service: credential of %s is of generation %d, now is %d", c.Name, c.Generation, t.Descriptor.Generation)
	}
	for k, v := range c.Labels {
		if !issuer.MayGrant(k, v) {
			return nil, fmt.Errorf("service: credential of %s has label %s=%s outside the scope of its issuer", c.Name, k, v)
		}
	}
	block, err := netip.ParsePrefix(issuer.Block4)
	if err != nil || !block.Contains(c.Addr4()) {
		return nil, fmt.Errorf("service: credential of %s has address %s outside the block of its issuer", c.Name, c.Addr4())
	}
	if t.Policy != nil {
		if err := t.Policy.Revoked(&c); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// clockSlack is how far ahead an issuer's clock may run; the offset learnt at
// admission takes away the rest (PROTOCOL.md 2).
const clockSlack = 2 * time.Minute
