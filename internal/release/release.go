// Package release keeps the newest release manifest that a process knows, and
// says what it makes of the version that runs. Member and super peer do the same
// with it (docs/protocol/release.md):
//
//	overlay, file ─> Take ─> disk ─> Current ─┬─> status
//	                                          └─> overlay (super peer)
//
// A manifest is verified each time that it is used, under the policy of that
// moment: one that names other keys ends it at once.
package release

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/service"
)

// Shelf has one manifest, or none. Its methods may be called at any time by
// anybody.
type Shelf struct {
	keep func([]byte) error // may be nil

	mu     sync.Mutex // orders changes
	signed service.Signed
}

// NewShelf begins with what a former process gave to keep, nil for nothing. What
// does not count any more is none.
func NewShelf(kept []byte, keep func([]byte) error) *Shelf {
	s := &Shelf{keep: keep}
	if signed, err := service.ParseSignedRelease(kept); err == nil {
		s.signed = signed
	}
	return s
}

// Current returns the manifest that counts under t, also one that has expired;
// nil for none.
func (s *Shelf) Current(t *service.Trust) (*service.Release, service.Signed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.currentLocked(t)
}

func (s *Shelf) currentLocked(t *service.Trust) (*service.Release, service.Signed) {
	r, err := t.OpenRelease(s.signed)
	if err != nil {
		return nil, service.Signed{}
	}
	return r, s.signed
}

// Take puts a newer manifest in the place of what is there, and on disk before
// that; so it does with one that more have signed, which is no news. Errors as
// service.NewerRelease returns them. It asks for the chain in force when no other
// manifest can come any more.
//
// Invariant: while a manifest counts, none of a lower sequence number takes its
// place.
func (s *Shelf) Take(trust func() *service.Trust, signed service.Signed, now time.Time) (*service.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := trust()
	old, _ := s.currentLocked(t)
	r, err := t.NewerRelease(signed, old, now)
	stale := errors.Is(err, service.ErrStale) && t.ReleaseSigners(signed) > t.ReleaseSigners(s.signed)
	if err != nil && !stale {
		return nil, err
	}
	if s.keep != nil {
		if err := s.keep(signed.Encode()); err != nil {
			return nil, err
		}
	}
	s.signed = signed
	return r, err
}

// Status is what people are told by a process of version binary; nil where the
// policy names no release keys.
func (s *Shelf) Status(t *service.Trust, binary string, now time.Time) *control.Release {
	if !t.Policy.Updates.Named() {
		return nil
	}
	out := &control.Release{Channel: t.Policy.Updates.Channel, Artefacts: []control.Artefact{}}
	if _, err := t.ReleaseKeys(); err != nil {
		out.Note = strings.TrimPrefix(err.Error(), "service: ")
		return out
	}
	r, _ := s.Current(t)
	if r == nil {
		out.Note = "no release manifest of this channel is known"
		return out
	}
	out.Version, out.Minimum, out.Sequence, out.Notes = r.Version, r.Minimum, r.Seq, r.Notes
	out.Signed, out.Expires = time.Unix(r.Issued, 0), time.Unix(r.Expires, 0)
	for _, a := range r.Artefacts {
		out.Artefacts = append(out.Artefacts, control.Artefact{OS: a.OS, Arch: a.Arch, Size: a.Size, SHA256: fmt.Sprintf("%x", a.SHA256)})
	}
	var notes []string
	if !now.Before(out.Expires) {
		notes = append(notes, "the manifest has expired, so newer releases may be kept from this process")
	}
	if n := compare(r, binary); n != "" {
		notes = append(notes, n)
	}
	out.Note = strings.Join(notes, "; ")
	return out
}

// compare says what the manifest means for the version that runs.
func compare(r *service.Release, binary string) string {
	runs, ok := service.ParseVersion(binary)
	newest, _ := service.ParseVersion(r.Version)
	minimum, _ := service.ParseVersion(r.Minimum)
	switch {
	case !ok:
		return fmt.Sprintf("this process is of version %q, which cannot be compared with %s", binary, r.Version)
	case runs.Compare(minimum) < 0:
		return fmt.Sprintf("this process runs %s, which is below the minimum %s", binary, r.Minimum)
	case runs.Compare(newest) < 0:
		return fmt.Sprintf("this process runs %s, and %s is out", binary, r.Version)
	}
	return ""
}
