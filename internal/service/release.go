package service

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Bounds of a release manifest.
const (
	MaxRelease      = 8 << 10              // body
	maxReleaseFile  = MaxRelease + 2<<10   // with its signatures
	maxReleaseKeys  = 8                    // that a policy names
	MaxArtefacts    = 64                   // builds of one release
	maxPlatform     = 16                   // bytes of an operating system or an architecture
	maxNotes        = 256                  // bytes of the address of the notes
	MaxReleaseValid = 366 * 24 * time.Hour // a typing error is not to end freeze detection

	// releaseSlack is how far a signer's clock may be ahead: the time of signing is also
	// the number that nobody goes back from.
	releaseSlack = 24 * time.Hour
	// lastSecond is 9999-12-31 23:59:59 UTC: later years have no RFC 3339 form.
	lastSecond = 253402300799
)

// releaseMagic starts a manifest as a file.
var releaseMagic = []byte("icvpn release 1\n")

// Updates says whose word on releases of the program counts in a service:
// docs/protocol/release.md. Empty: nobody's.
type Updates struct {
	// Channel is the one that the service's machines follow, a DNS label.
	Channel string `yaml:"channel,omitempty"`
	// Keys are the release keys, 1 to 8, each as icvpn release key prints it.
	Keys []string `yaml:"keys,omitempty"`
	// Threshold is how many of them must sign a manifest. Default 1.
	Threshold int `yaml:"threshold,omitempty"`
}

// Named says whether there are release keys at all.
func (u Updates) Named() bool { return len(u.Keys) > 0 }

func (u Updates) threshold() int { return max(u.Threshold, 1) }

func (u Updates) validate() error {
	switch {
	case !u.Named() && u.Channel == "" && u.Threshold == 0:
		return nil
	case !ValidName(u.Channel):
		return fmt.Errorf("service: policy has updates of channel %.80q, want 1 to 63 of a-z, 0-9 and inner hyphens", u.Channel)
	case !u.Named() || len(u.Keys) > maxReleaseKeys:
		return fmt.Errorf("service: policy names %d release keys in updates, want 1 to %d", len(u.Keys), maxReleaseKeys)
	case u.Threshold < 0 || u.threshold() > len(u.Keys):
		return fmt.Errorf("service: policy wants %d of %d release keys in updates", u.Threshold, len(u.Keys))
	}
	_, err := u.keys()
	return err
}

func (u Updates) keys() (all []ed25519.PublicKey, err error) {
	for i, text := range u.Keys {
		k, err := ParseReleaseKey(text)
		if err != nil {
			return nil, fmt.Errorf("service: policy has release key %d in updates, which %w", i+1, err)
		}
		if slices.ContainsFunc(all, func(o ed25519.PublicKey) bool { return o.Equal(k) }) {
			return nil, fmt.Errorf("service: policy names release key %s twice in updates", text)
		}
		all = append(all, k)
	}
	return all, nil
}

// ID names what u says: a manifest under another channel, other keys or another
// threshold is another object in the overlays.
func (u Updates) ID() id.ID {
	return id.Hash("icvpn/1 updates", wire.Marshal([]any{u.Channel, u.Keys, u.threshold()}))
}

// ReleaseKeyText is a release key's public half as policies have it.
func ReleaseKeyText(k ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(k) }

// ParseReleaseKey reads what ReleaseKeyText returned.
func ParseReleaseKey(text string) (ed25519.PublicKey, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("is not 43 characters of base64url")
	}
	if ReleaseKeyText(b) != text { // the decoder passes over line breaks
		return nil, errors.New("has characters that are none of base64url")
	}
	if weakKey(b) {
		return nil, errors.New("is no key that anybody could have made: everybody can sign for it")
	}
	return b, nil
}

// weakPoints are the y coordinates of the points of small order on edwards25519, and
// those of their encodings that are not reduced (RFC 8032, Section 5.1.3): signatures
// for them can be made without a secret.
var weakPoints = [...]string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func weakKey(k ed25519.PublicKey) bool {
	y := bytes.Clone(k)
	y[len(y)-1] &= 0x7f // without the sign of x
	return slices.Contains(weakPoints[:], hex.EncodeToString(y))
}

// Release is a release manifest: which version of the program machines of a
// service are to run. Release keys sign it, which the policy names; they are
// neither owners' nor super peers'.
type Release struct {
	_         struct{} `cbor:",toarray"`
	Format    uint8
	Service   id.ID
	Seq       uint64 // never goes back
	Issued    int64  // Unix seconds
	Expires   int64  // Unix seconds; whoever sees nothing newer by then is kept from it
	Channel   string
	Version   string // as 1.2.0
	Minimum   string // nobody should run anything below
	Notes     string // https address, or empty
	Artefacts []Artefact
}

// Artefact is a build of the program.
type Artefact struct {
	_      struct{} `cbor:",toarray"`
	OS     string
	Arch   string
	Size   uint64
	SHA256 []byte
}

// NewRelease makes a manifest that nobody has signed yet.
func NewRelease(r Release) (Signed, error) {
	r.Format = docVersion
	if err := r.validate(); err != nil {
		return Signed{}, err
	}
	s := Signed{Type: typeRelease, Body: wire.Marshal(r)}
	if len(s.Body) > MaxRelease {
		return s, fmt.Errorf("service: release manifest has %d bytes, at most %d are allowed", len(s.Body), MaxRelease)
	}
	return s, nil
}

// SignRelease adds a signature. A release key is named by its first byte: who
// signs need not know the policy.
func (s Signed) SignRelease(key ed25519.PrivateKey) (Signed, error) {
	sig := Signature{Index: key.Public().(ed25519.PublicKey)[0], Sig: wire.Sign(key, "icvpn/1 "+typeRelease, s.Body)}
	switch {
	case slices.ContainsFunc(s.Sigs, func(o Signature) bool { return bytes.Equal(o.Sig, sig.Sig) }):
		return s, errors.New("service: release manifest is signed with this key already")
	case len(s.Sigs) == maxSignatures:
		return s, fmt.Errorf("service: release manifest has %d signatures, at most %d are allowed", len(s.Sigs), maxSignatures)
	}
	s.Sigs = append(slices.Clone(s.Sigs), sig)
	return s, nil
}

func (r *Release) validate() error {
	version, versionOK := ParseVersion(r.Version)
	minimum, minimumOK := ParseVersion(r.Minimum)
	switch {
	case r.Format != docVersion:
		return fmt.Errorf("service: release manifest has format %d, this binary knows %d", r.Format, docVersion)
	case r.Seq == 0 || r.Seq > math.MaxInt64:
		return fmt.Errorf("service: release manifest has sequence number %d, want 1 to 2^63-1", r.Seq)
	case !ValidName(r.Channel):
		return fmt.Errorf("service: release manifest is of channel %.80q, want 1 to 63 of a-z, 0-9 and inner hyphens", r.Channel)
	case !versionOK || !minimumOK:
		return fmt.Errorf("service: release manifest is of version %.40q with minimum %.40q, want numbers as in 1.2.0", r.Version, r.Minimum)
	case version.Compare(minimum) < 0:
		return fmt.Errorf("service: release manifest is of version %s, which is below its own minimum %s", r.Version, r.Minimum)
	case r.Issued <= 0 || r.Expires > lastSecond || r.Expires <= r.Issued || r.Expires-r.Issued > int64(MaxReleaseValid/time.Second):
		return fmt.Errorf("service: release manifest is valid from %s until %s, want an end after the beginning and at most %d days later", day(r.Issued), day(r.Expires), MaxReleaseValid/(24*time.Hour))
	case r.Notes != "" && (len(r.Notes) > maxNotes || !strings.HasPrefix(r.Notes, "https://") || strings.ContainsFunc(r.Notes, func(c rune) bool { return c <= ' ' || c > '~' })):
		return fmt.Errorf("service: release manifest has notes at %.80q, want an https address of at most %d bytes", r.Notes, maxNotes)
	case len(r.Artefacts) == 0 || len(r.Artefacts) > MaxArtefacts:
		return fmt.Errorf("service: release manifest has %d artefacts, want 1 to %d", len(r.Artefacts), MaxArtefacts)
	}
	for i, a := range r.Artefacts {
		switch {
		case !validPlatform(a.OS) || !validPlatform(a.Arch):
			return fmt.Errorf("service: artefact %d is for %.40q on %.40q, want 1 to %d of a-z and 0-9 each", i+1, a.OS, a.Arch, maxPlatform)
		case a.Size == 0 || len(a.SHA256) != sha256.Size:
			return fmt.Errorf("service: artefact %d, for %s on %s, has %d bytes and a hash of %d", i+1, a.OS, a.Arch, a.Size, len(a.SHA256))
		case slices.ContainsFunc(r.Artefacts[:i], func(o Artefact) bool { return o.OS == a.OS && o.Arch == a.Arch }):
			return fmt.Errorf("service: release manifest has two artefacts for %s on %s", a.OS, a.Arch)
		}
	}
	return nil
}

func validPlatform(s string) bool {
	return s != "" && len(s) <= maxPlatform && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// ReadRelease reads what a manifest says. Nothing in it is verified.
func (s Signed) ReadRelease() (*Release, error) {
	if s.Type != typeRelease {
		return nil, fmt.Errorf("service: document is of type %.16q, want %q", s.Type, typeRelease)
	}
	r := new(Release)
	if err := wire.Unmarshal(s.Body, r, MaxRelease); err != nil {
		return nil, fmt.Errorf("service: release manifest: %w", err)
	}
	return r, r.validate()
}

// OpenRelease verifies a manifest under the policy in force. It may have expired.
func (t *Trust) OpenRelease(s Signed) (*Release, error) {
	keys, err := t.ReleaseKeys()
	if err != nil {
		return nil, err
	}
	u := t.Policy.Updates
	if err := s.verifyBy(typeRelease, "release key", keys, u.threshold(), byFirstByte(keys)); err != nil {
		return nil, err
	}
	r, err := s.ReadRelease()
	switch {
	case err != nil:
		return nil, err
	case r.Service != t.Service:
		return nil, fmt.Errorf("service: release manifest is of service %s, not %s", r.Service.Short(), t.Service.Short())
	case r.Channel != u.Channel:
		return nil, fmt.Errorf("service: release manifest is of channel %s, and the policy follows %s", r.Channel, u.Channel)
	}
	return r, nil
}

// EnoughSignatures returns a manifest that counts with as few signatures as count: those
// of the first keys, as the policy has them, that have signed. So copies that others
// have signed as well are mostly the same bytes, which the overlays want under one
// number.
func (t *Trust) EnoughSignatures(s Signed) Signed {
	all := t.releaseSignatures(s)
	s.Sigs = all[:min(len(all), t.Policy.Updates.threshold())]
	return s
}

// ReleaseSigners returns how many of the policy's keys have signed.
func (t *Trust) ReleaseSigners(s Signed) int { return len(t.releaseSignatures(s)) }

// releaseSignatures returns one signature of each key that has signed.
func (t *Trust) releaseSignatures(s Signed) []Signature {
	keys, err := t.ReleaseKeys()
	if err != nil {
		return nil
	}
	return s.signatures(typeRelease, keys, byFirstByte(keys))
}

// byFirstByte is how release keys are named in signatures.
func byFirstByte(keys []ed25519.PublicKey) func(i int) uint8 {
	return func(i int) uint8 { return keys[i][0] }
}

// ReleaseKeys returns the keys that the policy in force names. One that is an
// owner's or a super peer's, too, is an error: who runs the service all day is
// not to say what its machines run.
func (t *Trust) ReleaseKeys() ([]ed25519.PublicKey, error) {
	if t.Policy == nil || !t.Policy.Updates.Named() {
		return nil, errors.New("service: the policy in force names no release keys")
	}
	keys, err := t.Policy.Updates.keys()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		_, super := t.Descriptor.SuperPeer(id.FromKey(k))
		if super || slices.ContainsFunc(t.Root.Owners, func(o ed25519.PublicKey) bool { return o.Equal(k) }) {
			return nil, fmt.Errorf("service: the policy names release key %s, which is an owner's or a super peer's, too", ReleaseKeyText(k))
		}
	}
	return keys, nil
}

// NewerRelease verifies a manifest that is to take the place of old, which counts
// or is nil. It is ErrRollback for a lower sequence number and ErrStale for the
// one that is known.
func (t *Trust) NewerRelease(s Signed, old *Release, now time.Time) (*Release, error) {
	r, err := t.OpenRelease(s)
	switch {
	case err != nil:
		return nil, err
	case now.Unix() >= r.Expires:
		return nil, fmt.Errorf("service: the release manifest of %s expired on %s", r.Version, day(r.Expires))
	case r.Issued > now.Add(releaseSlack).Unix():
		return nil, fmt.Errorf("service: the release manifest of %s is signed on %s, which is yet to come; set the signer's clock and sign again", r.Version, day(r.Issued))
	case old == nil:
		return r, nil
	case r.Seq < old.Seq:
		return nil, fmt.Errorf("%w: release manifest has sequence number %d, %d is known", ErrRollback, r.Seq, old.Seq)
	case r.Seq > old.Seq:
		return r, nil
	case !bytes.Equal(wire.Marshal(r), wire.Marshal(old)):
		return nil, fmt.Errorf("service: another release manifest of sequence number %d is known", r.Seq)
	}
	return nil, fmt.Errorf("%w: release manifest of sequence number %d is known", ErrStale, r.Seq)
}

// EncodeRelease returns the bytes of a manifest as a file: magic ‖ CBOR.
func (s Signed) EncodeRelease() []byte { return append(bytes.Clone(releaseMagic), s.Encode()...) }

// IsReleaseFile says whether a file begins as a manifest does.
func IsReleaseFile(b []byte) bool { return bytes.HasPrefix(b, releaseMagic) }

// ParseReleaseFile reads what EncodeRelease returned. Nothing in it is verified.
func ParseReleaseFile(b []byte) (s Signed, err error) {
	body, ok := bytes.CutPrefix(b, releaseMagic)
	if !ok {
		return s, errors.New("this is not an icvpn release manifest of format 1")
	}
	return ParseSignedRelease(body)
}

// ParseSignedRelease reads a manifest as it stands in the overlays and on disk.
// Nothing in it is verified.
func ParseSignedRelease(b []byte) (s Signed, err error) {
	if err := wire.Unmarshal(b, &s, maxReleaseFile); err != nil {
		return s, fmt.Errorf("service: release manifest: %w", err)
	}
	return s, nil
}

// Version is a version of the program: major, minor, patch.
type Version [3]uint32

// ParseVersion reads a version as 1.2.0, in its one form. Others, such as devel,
// cannot be compared.
func ParseVersion(s string) (v Version, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != len(v) {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != p {
			return v, false
		}
		v[i] = uint32(n)
	}
	return v, true
}

// Compare is negative where v is before o.
func (v Version) Compare(o Version) int { return slices.Compare(v[:], o[:]) }
