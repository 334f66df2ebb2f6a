package owner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
	put := func(name string, mode fs.FileMode, b []byte) error {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(b)
		return errors.Join(err, f.Sync(), f.Close())
	}
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

// Explain prints what was made and the next commands to run.
func (s *Service) Explain(w io.Writer, dir string) {
	fmt.Fprintf(w, "Service %s (%s), addresses %s.\n\n", s.Name, s.ID, s.Prefix4)
	fmt.Fprintf(w, "Next, on each super peer (copy the three files; send the .key another way than the .handover):\n")
	for i, f := range s.Supers {
		n := SuperName(i)
		fmt.Fprintf(w, "  %-24s %s/{%s.yaml,%s.handover,%s.key}\n  %-24s icvpn super --config %s.yaml\n", f.Endpoint, dir, n, n, n, "", n)
	}
	fmt.Fprintf(w, "\nThen, on each machine (the token is a secret: mode 0600, never an argument):\n")
	for _, t := range s.Tokens {
		fmt.Fprintf(w, "  %-24s icvpn up --token-file %s.token\n", t.Role, t.Role)
	}
	fmt.Fprintf(w, "\nKeep %s offline: it signs for the service, and cannot be made again.\n", filepath.Join(dir, fileSecret))
}
