package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const (
	docVersion = 1
	maxOwners  = 16
	maxRoots   = 16 // length of a root chain
	maxName    = 63 // a service or machine name is a DNS label (RFC 1035, Section 2.3.1)
)

// Root is the root document: who owns the service. The first one fixes the
// ServiceID; each next one is signed by the thresholds of both.
type Root struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Name      string
	Seq       uint64
	Owners    []ed25519.PublicKey
	Threshold uint8
	Issued    int64 // Unix seconds
	Expires   int64 // Unix seconds
}

// NewRoot makes and signs the first root document of a service.
func NewRoot(name string, owners []ed25519.PrivateKey, threshold int, issued, expires time.Time) (Signed, error) {
	r := Root{Version: docVersion, Name: name, Seq: 1, Threshold: uint8(threshold), Issued: issued.Unix(), Expires: expires.Unix()}
	for _, k := range owners {
		r.Owners = append(r.Owners, k.Public().(ed25519.PublicKey))
	}
	if err := r.validate(); err != nil {
		return Signed{}, err
	}
	return sign(typeRoot, wire.Marshal(r), owners), nil
}

// RootID returns the ServiceID that a first root document made by NewRoot fixes.
func RootID(s Signed) id.ID {
	var r Root
	if err := wire.Unmarshal(s.Body, &r, MaxSigned); err != nil {
		panic("service: internal error: " + err.Error())
	}
	return serviceID(r, s.Body)
}

// serviceID returns SHA-256("icvpn/1 service" ‖ 00 ‖ lp(name) ‖ body)[:20].
func serviceID(r Root, body []byte) id.ID {
	return id.Hash("icvpn/1 service", wire.AppendLP(nil, []byte(r.Name)), body)
}

func (r Root) validate() error {
	switch {
	case r.Version != docVersion:
		return fmt.Errorf("service: root document has version %d, this binary knows %d", r.Version, docVersion)
	case !ValidName(r.Name):
		return fmt.Errorf("service: name %.80q is not a DNS label: 1 to 63 of a-z, 0-9 and inner hyphens", r.Name)
	case len(r.Owners) == 0 || len(r.Owners) > maxOwners:
		return fmt.Errorf("service: root document has %d owners, want 1 to %d", len(r.Owners), maxOwners)
	case r.Threshold == 0 || int(r.Threshold) > len(r.Owners):
		return fmt.Errorf("service: root document wants %d of %d owners", r.Threshold, len(r.Owners))
	}
	seen := map[string]bool{}
	for _, k := range r.Owners {
		if len(k) != ed25519.PublicKeySize || seen[string(k)] {
			return errors.New("service: root document has a malformed or repeated owner key")
		}
		seen[string(k)] = true
	}
	return nil
}

// openRoots verifies a root chain against the ServiceID and returns the
// newest root. Expiry is checked for the newest only: older ones are links.
func openRoots(chain []Signed, service id.ID, now time.Time) (Root, error) {
	if len(chain) == 0 || len(chain) > maxRoots {
		return Root{}, fmt.Errorf("service: root chain has %d documents, want 1 to %d", len(chain), maxRoots)
	}
	var current Root
	for i, s := range chain {
		var next Root
		if err := wire.Unmarshal(s.Body, &next, MaxSigned); err != nil {
			return Root{}, fmt.Errorf("service: root document: %w", err)
		}
		if err := next.validate(); err != nil {
			return Root{}, err
		}
		if err := s.verify(typeRoot, next); err != nil {
			return Root{}, err
		}
		if i == 0 {
			if got := serviceID(next, s.Body); got != service {
				return Root{}, fmt.Errorf("service: root document is of service %s, not %s", got.Short(), service.Short())
			}
		} else {
			if next.Seq != current.Seq+1 || next.Name != current.Name {
				return Root{}, errors.New("service: root chain is out of order")
			}
			if err := s.verifyPrevious(current); err != nil {
				return Root{}, err
			}
		}
		current = next
	}
	if now.Unix() >= current.Expires {
		return Root{}, fmt.Errorf("service: the root document of %s expired on %s; the owner must sign a new one", current.Name, day(current.Expires))
	}
	return current, nil
}

// verifyPrevious checks the outgoing owners' signatures on the next root. They
// are those that verify under an outgoing key at any index, so that one list
// of signatures serves both thresholds.
func (s Signed) verifyPrevious(r Root) error {
	n := 0
	for _, k := range r.Owners {
		for _, sig := range s.Sigs {
			if wire.Verify(k, sig.Sig, "icvpn/1 "+typeRoot, s.Body) {
				n++
				break
			}
		}
	}
	if n < int(r.Threshold) {
		return fmt.Errorf("service: next root document carries %d signatures of the owners before it, %d are needed", n, r.Threshold)
	}
	return nil
}

func day(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04 UTC") }

// ValidName says whether s is a DNS label of lower-case letters, digits and
// inner hyphens: the form of service and machine names.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ValidLabel says whether s may be a key or a value of a label: 1 to 63 of a-z,
// 0-9, '.', '_' and '-'.
func ValidLabel(s string) bool {
	return s != "" && len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
