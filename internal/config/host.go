package config

import (
	"path/filepath"
	"strings"
)

// Host is what defaults depend on.
type Host struct {
	// Root says whether the process runs as root.
	Root bool
	// Name is the host name.
	Name string
	// Home is the home directory, StateHome $XDG_STATE_HOME; either may be
	// empty.
	Home, StateHome string
}

// stateDir returns the default state directory: under /var/lib for root, else
// where the XDG base directory specification puts state.
func (h *Host) stateDir(name string) (string, error) {
	switch {
	case h.Root:
		return filepath.Join("/var/lib", name), nil
	case filepath.IsAbs(h.StateHome): // XDG: relative paths are to be ignored
		return filepath.Join(h.StateHome, name), nil
	case filepath.IsAbs(h.Home):
		return filepath.Join(h.Home, ".local", "state", name), nil
	}
	return "", &Error{Field: "state_dir", Problem: "no default, because neither HOME nor XDG_STATE_HOME is set",
		WayOut: "set ICVPN_STATE_DIR to a directory that survives a restart"}
}

// peerName makes a name out of the host name: its first label in lower case,
// what no name may hold turned into '-'.
func (h *Host) peerName() (string, error) {
	label, _, _ := strings.Cut(strings.ToLower(h.Name), ".")
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, label)
	name = name[:min(len(name), maxName)]
	name = strings.Trim(name, "-")
	if name == "" {
		return "", &Error{Field: "name", Problem: "no default, because this machine has no usable host name",
			WayOut: "set ICVPN_NAME or --name"}
	}
	return name, nil
}

func controlSocketIn(stateDir string) string {
	return filepath.Join(stateDir, "control.sock")
}
