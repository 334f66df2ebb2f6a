package owner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"icvpn/internal/service"
)

// Names of the files.
const (
	fileSecret = "owner.secret"
	filePolicy = "policy.yaml"
)

// Write writes every file of s into dir, which must be empty or not there yet:
// keys of a service cannot be made again. Secrets get mode 0600.
func (s *Service) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("output directory %s cannot be made: %w", dir, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return errors.Join(fmt.Errorf("output directory %s is not empty; choose another, so that no key is overwritten", dir), err)
	}
	put := func(name string, mode fs.FileMode, b []byte) error { return newFile(filepath.Join(dir, name), mode, b) }
	err := errors.Join(put(fileSecret, 0o600, s.Secret), put(filePolicy, 0o644, s.Policy))
	for _, t := range s.Tokens {
		err = errors.Join(err, put(t.Role+".token", 0o600, []byte(t.Token.Text()+"\n")), put(t.Role+".token.yaml", 0o600, t.Token.YAML()))
	}
	for i, f := range s.Supers {
		n := SuperName(i)
		err = errors.Join(err, put(n+".handover", 0o600, f.HandOver), put(n+".key", 0o600, f.Key), put(n+".yaml", 0o644, f.Config))
	}
	return err
}

// Secret reads owner.secret of the directory that Write made.
func Secret(dir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, fileSecret))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s; name the directory that icvpn service create made", dir, fileSecret)
	}
	return b, err
}

// Write puts a change into the directory of its service: a super peer's files,
// the tokens that are there, and last owner.secret.
func (c *Change) Write(dir string) error {
	n := SuperName(c.Number)
	for _, f := range []struct {
		suffix string
		mode   fs.FileMode
		b      []byte
	}{{".handover", 0o600, c.Files.HandOver}, {".key", 0o600, c.Files.Key}, {".yaml", 0o644, c.Files.Config}} {
		if err := replaceFile(filepath.Join(dir, n+f.suffix), f.mode, f.b); err != nil {
			return err
		}
	}
	tokens, err := filepath.Glob(filepath.Join(dir, "*.token"))
	if err != nil {
		return err
	}
	for _, path := range tokens {
		if err := c.updateToken(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return replaceFile(filepath.Join(dir, fileSecret), 0o600, c.Secret)
}

// updateToken gives a token the super peers there are now. One that was removed
// has an older descriptor: machines with the new token refuse it.
func (c *Change) updateToken(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	t, err := service.ParseToken(b)
	if err != nil || t.Service != c.ID {
		return err
	}
	switch {
	case c.Key == nil:
		return nil
	case c.Removed == nil:
		t.SuperPeers = append(t.SuperPeers, service.TokenSuperPeer{Endpoint: c.Files.Endpoint, Key: c.Key})
	default:
		t.SuperPeers = slices.DeleteFunc(t.SuperPeers, func(sp service.TokenSuperPeer) bool { return sp.Key.Equal(c.Key) })
		t.MinSeq = c.Seq
	}
	return errors.Join(replaceFile(path, 0o600, []byte(t.Text()+"\n")), replaceFile(path+".yaml", 0o600, t.YAML()))
}

// newFile writes a file that is not there yet.
func newFile(path string, mode fs.FileMode, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceFile puts a file in the place of another, whole or not at all.
func replaceFile(path string, mode fs.FileMode, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Explain prints what changed and what to do next.
func (c *Change) Explain(w io.Writer, dir string) {
	fmt.Fprintf(w, "Service %s (%s), descriptor of sequence number %d.\n\n", c.Name, c.ID, c.Seq)
	n := SuperName(c.Number)
	switch {
	case c.Key == nil:
		what := "has the ABE master key no more: others make attribute keys for it"
		if c.Files.Authority {
			what = "has the ABE master key"
		}
		fmt.Fprintf(w, "Super peer %s %s. On it, in the place of the former ones:\n", c.Files.Endpoint, what)
		fmt.Fprintf(w, "  %s/{%s.handover,%s.key}, and restart icvpn super\n\n", dir, n, n)
		fmt.Fprintf(w, "It hands the descriptor on. Destroy the former hand-over, and copies of its state directory: they are as they were.\n")
	case c.Removed == nil:
		fmt.Fprintf(w, "New super peer %s, addresses %s. On it (copy the three files; send the .key another way than the .handover):\n", c.Files.Endpoint, c.Files.Block)
		fmt.Fprintf(w, "  %s/{%s.yaml,%s.handover,%s.key}\n  icvpn super --config %s.yaml\n\n", dir, n, n, n, n)
		fmt.Fprintf(w, "It hands the descriptor to the other super peers once it runs, and they to the machines: nothing needs a restart.\n")
		fmt.Fprintf(w, "The tokens in %s name it from now on; older ones stay good while another super peer in them is there.\n", dir)
	default:
		c.explainRemoved(w, dir, n)
	}
}

func (c *Change) explainRemoved(w io.Writer, dir, n string) {
	fmt.Fprintf(w, "Super peer %s is removed. Another one, %s, hands the descriptor on; there, in the place of the former ones:\n", c.Removed[0], c.Files.Endpoint)
	fmt.Fprintf(w, "  %s/{%s.handover,%s.key}, and restart icvpn super\n\n", dir, n, n)
	fmt.Fprintf(w, "Then stop the removed one. Machines that it admitted join again at another super peer, with another IPv4 address.\n")
}

// Explain prints what was made and the next commands to run.
func (s *Service) Explain(w io.Writer, dir string) {
	fmt.Fprintf(w, "Service %s (%s), addresses %s.\n\n", s.Name, s.ID, s.Prefix4)
	fmt.Fprintf(w, "Next, on each super peer (copy the three files; send the .key another way than the .handover):\n")
	var authorities []string
	for i, f := range s.Supers {
		n := SuperName(i)
		fmt.Fprintf(w, "  %-24s %s/{%s.yaml,%s.handover,%s.key}\n  %-24s icvpn super --config %s.yaml\n", f.Endpoint, dir, n, n, n, "", n)
		if f.Authority {
			authorities = append(authorities, f.Endpoint)
		}
	}
	if len(authorities) < len(s.Supers) {
		fmt.Fprintf(w, "\nOf these %s can make attribute keys, and the others are given theirs by them.\n", strings.Join(authorities, " and "))
	}
	fmt.Fprintf(w, "\nThen, on each machine (the token is a secret: mode 0600, never an argument):\n")
	for _, t := range s.Tokens {
		fmt.Fprintf(w, "  %-24s icvpn up --token-file %s.token\n", t.Role, t.Role)
	}
	fmt.Fprintf(w, "\nKeep %s offline: it signs for the service, and cannot be made again.\n", filepath.Join(dir, fileSecret))
}
