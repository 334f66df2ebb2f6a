package process

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"icvpn/internal/config"
	"icvpn/internal/id"
	"icvpn/internal/owner"
	"icvpn/internal/service"
	"icvpn/internal/state"
	"icvpn/internal/wire"
)

// fileHandOver is the name under which a super peer keeps its hand-over:
// key 32 ‖ sealed hand-over.
const fileHandOver = "handover"

// handOver returns the owner's hand-over: the file's if it is there, else what
// an earlier start kept sealed. Fresh is what to keep once the hand-over has
// proved to be good, nil if it is kept already; the caller wipes it.
func handOver(dir *state.Dir, c config.HandOver) (h service.HandOver, fresh []byte, err error) {
	kept, err := dir.Get(fileHandOver)
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		return h, nil, err
	}
	defer clear(kept)
	given, err := readHandOver(c)
	switch {
	case errors.Is(err, fs.ErrNotExist) && kept != nil:
		h, err = openKept(kept, c.File)
		return h, nil, err
	case errors.Is(err, fs.ErrNotExist):
		return h, nil, errNotTaken(c.File)
	case err != nil:
		return h, nil, err
	}
	if h, err = service.OpenHandOver(given[32:], given[:32]); err != nil {
		return h, nil, fmt.Errorf("%s: %w", c.File, err)
	}
	if kept == nil {
		return h, given, nil
	}
	if bytes.Equal(kept, given) {
		clear(given)
		return h, nil, nil
	}
	old, err := openKept(kept, c.File)
	if err == nil {
		err = sameSuperPeer(h, old, dir, c)
	}
	return h, given, err
}

func errNotTaken(file string) error {
	return fmt.Errorf("hand-over %s does not exist, and none was taken over before; copy it from the service owner", file)
}

// sameSuperPeer refuses a hand-over that is not for the super peer whose leases
// and members are in the state directory: they would be taken for its own.
func sameSuperPeer(h, old service.HandOver, dir *state.Dir, c config.HandOver) error {
	if h.Service.ID == old.Service.ID && bytes.Equal(h.Seed, old.Seed) {
		return nil
	}
	belongs, is := "service "+nameOf(old.Service), "service "+nameOf(h.Service)
	way := "to serve both, name both in handover; else give each its own with --state-dir"
	if h.Service.ID == old.Service.ID {
		belongs, is = "super peer "+pidOf(old).Short(), "super peer "+pidOf(h).Short()
		way = "give each its own with --state-dir"
	}
	return fmt.Errorf("state directory %s belongs to %s, but hand-over %s is for %s; %s", dir.Path(), belongs, c.File, is, way)
}

// nameOf names a service for people, as far as its documents let us.
func nameOf(m service.Membership) string {
	if name := nameOnly(m); name != m.ID.Short() {
		return fmt.Sprintf("%s (%s)", name, m.ID.Short())
	}
	return m.ID.Short()
}

// nameOnly is the service's name, or the beginning of its ID.
func nameOnly(m service.Membership) string {
	var r service.Root
	if len(m.Documents.Roots) == 0 || wire.Unmarshal(m.Documents.Roots[0].Body, &r, service.MaxSigned) != nil {
		return m.ID.Short()
	}
	return r.Name
}

func pidOf(h service.HandOver) id.ID {
	return id.FromKey(ed25519.NewKeyFromSeed(h.Seed).Public().(ed25519.PublicKey))
}

// readHandOver returns what is kept of the two files; the error is ErrNotExist if
// there is no hand-over.
func readHandOver(c config.HandOver) ([]byte, error) {
	sealed, err := os.ReadFile(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("hand-over %s cannot be read: %w", c.File, unwrapPath(err))
	}
	if c.KeyFile == "" {
		return nil, fmt.Errorf("hand-over %s is sealed: name the file with its key in handover_key_file", c.File)
	}
	text, err := os.ReadFile(c.KeyFile)
	if err != nil {
		// Not with %w: only the hand-over itself may be missing.
		return nil, fmt.Errorf("hand-over key %s cannot be read: %v; copy it from the service owner, who sends it another way than the hand-over", c.KeyFile, unwrapPath(err))
	}
	key, err := owner.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.KeyFile, err)
	}
	return append(key, sealed...), nil
}

// unwrapPath strips operation and path, which our sentences name themselves.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func openKept(b []byte, file string) (service.HandOver, error) {
	if len(b) < 32 {
		return service.HandOver{}, fmt.Errorf("the hand-over kept in the state directory is damaged; copy %s from the service owner again", file)
	}
	return service.OpenHandOver(b[32:], b[:32])
}
