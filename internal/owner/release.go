package owner

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"icvpn/internal/service"
)

// Release keys are whoever's that builds the program; the owner of a service only
// names them. They stand here beside the owner's, because both sign offline.

// releaseKeyMagic starts the file of a release key.
var releaseKeyMagic = []byte("icvpn release key 1\n")

// NewReleaseKey makes a release key in a new file, and its public half in another
// one with the suffix .pub.
func NewReleaseKey(file string) (public string, err error) {
	k := newKey()
	public = service.ReleaseKeyText(k.Public().(ed25519.PublicKey))
	for _, f := range []string{file, file + ".pub"} {
		if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("owner: %s is there already, and may be a key; name another file", f)
		}
	}
	if err := newFile(file, 0o600, fmt.Appendf(bytes.Clone(releaseKeyMagic), "%x\n", k.Seed())); err != nil {
		return "", err
	}
	return public, newFile(file+".pub", 0o644, []byte(public+"\n"))
}

// ReadReleaseKey reads a release key, which nobody else may be able to read.
func ReadReleaseKey(file string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("owner: there is no release key %s; make one with icvpn release key", file)
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	text, ok := bytes.CutPrefix(b, releaseKeyMagic)
	seed, err := hex.DecodeString(string(trim(text)))
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("owner: %s is not the secret half of a key that icvpn release key made", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("owner: release key %s is open to others; chmod 600 it, and make another one if somebody may have read it", file)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// ReadPublicReleaseKey reads the public half of a release key.
func ReadPublicReleaseKey(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text := string(trim(b))
	if bytes.HasPrefix(b, releaseKeyMagic) {
		return "", fmt.Errorf("owner: %s is the secret half of a release key; give %s.pub", file, file)
	}
	if _, err := service.ParseReleaseKey(text); err != nil {
		return "", fmt.Errorf("owner: the release key in %s %w", file, err)
	}
	return text, nil
}

// platform is the end of an artefact's name.
var platform = regexp.MustCompile(`[-_]([a-z0-9]+)[-_]([a-z0-9]+)(?:\.exe)?$`)

// systems are what Go calls the systems that a VPN may be built for.
var systems = []string{"android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "linux", "netbsd", "openbsd", "solaris", "windows"}

// Artefact describes a build in a file named NAME-OS-ARCH.
func Artefact(file string) (a service.Artefact, err error) {
	m := platform.FindStringSubmatch(filepath.Base(file))
	if m == nil {
		return a, fmt.Errorf("owner: %s is not named after what it is for; call it NAME-OS-ARCH, for example icvpn-linux-amd64", file)
	}
	if !slices.Contains(systems, m[1]) {
		return a, fmt.Errorf("owner: %s is for the operating system %q by its name, which the program does not run on; call it NAME-OS-ARCH, for example icvpn-linux-amd64", file, m[1])
	}
	f, err := os.Open(file)
	if err != nil {
		return a, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n == 0 {
		return a, fmt.Errorf("owner: %s is empty", file)
	}
	return service.Artefact{OS: m[1], Arch: m[2], Size: uint64(n), SHA256: h.Sum(nil)}, err
}

// WriteRelease puts a manifest into a file, in the place of another one and of nothing
// else.
func WriteRelease(file string, s service.Signed) error {
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !service.IsReleaseFile(b):
		return fmt.Errorf("owner: %s is there already, and no release manifest; name another file with --out", file)
	}
	return replaceFile(file, 0o644, s.EncodeRelease())
}

// ReadRelease reads a manifest, and what it says. Nothing in it is verified.
func ReadRelease(file string) (s service.Signed, r *service.Release, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return s, nil, err
	}
	if s, err = service.ParseReleaseFile(b); err == nil {
		r, err = s.ReadRelease()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return s, r, err
}
