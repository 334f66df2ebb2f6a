//go:build !linux

package netcfg

import (
	"fmt"
	"net/netip"
)

// Apply reports that this system is not supported.
func Apply(i Interface) error { return fmt.Errorf("netcfg: interface %s: %w", i.Name, ErrUnsupported) }

// RemoveAddrs is not supported here.
func RemoveAddrs(name string, _ []netip.Prefix) error {
	return fmt.Errorf("netcfg: interface %s: %w", name, ErrUnsupported)
}

// Collides reports that this system is not supported.
func Collides(p netip.Prefix, own string) error {
	return fmt.Errorf("netcfg: %v on %s: %w", p, own, ErrUnsupported)
}

// Candidates reports that this system is not supported.
func Candidates(string, []netip.Prefix) ([]netip.Addr, error) {
	return nil, fmt.Errorf("netcfg: %w", ErrUnsupported)
}
