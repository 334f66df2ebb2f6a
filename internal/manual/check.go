package manual

import (
	"errors"
	"fmt"
	"net/netip"

	"icvpn/internal/config"
	"icvpn/internal/netcfg"
)

// checkRoutes compares prefixes of different tunnels, and prefixes with the
// underlay.
func (l *loader) checkRoutes(sections []*config.Section) {
	taken := map[netip.Prefix]string{}
	for i, t := range l.c.Tunnels {
		for _, p := range t.Routes {
			if other, twice := taken[p]; twice {
				sections[i].Fail("routes", fmt.Sprintf("%v leads to %q already", p, other), "let each prefix lead to one peer")
			}
			taken[p] = t.Name
			l.checkUnderlay(sections[i], p)
			l.checkOwn(sections[i], p)
		}
	}
}

// checkUnderlay refuses a prefix that would send the tunnels' own datagrams into
// a tunnel.
func (l *loader) checkUnderlay(s *config.Section, p netip.Prefix) {
	const wayOut = "leave the addresses of the underlay out of the inner prefixes"
	for _, t := range l.c.Tunnels {
		if p.Contains(t.Remote.Addr()) {
			s.Fail("routes", fmt.Sprintf("%v contains %v, the underlay address of %q: its datagrams would go into the tunnel", p, t.Remote.Addr(), t.Name), wayOut)
		}
	}
	if a := l.c.Listen.Addr(); a.IsValid() && !a.IsUnspecified() && p.Contains(a) {
		s.Fail("routes", fmt.Sprintf("%v contains %v, the underlay address of this machine", p, a), wayOut)
	}
}

// checkOwn refuses a prefix that leads to the peer and is an address of ours.
func (l *loader) checkOwn(s *config.Section, p netip.Prefix) {
	for _, a := range l.c.Addresses {
		if p.IsSingleIP() && p.Addr() == a.Addr() {
			s.Fail("routes", fmt.Sprintf("%v is this machine's own inner address", a.Addr()), "name the addresses behind the peer")
		}
	}
}

// CheckMachine says whether a prefix collides with a network that this machine
// reaches another way, such as the underlay itself.
func (c *Config) CheckMachine(path string) error {
	for _, t := range c.Tunnels {
		for _, p := range t.Routes {
			err := netcfg.Collides(p, c.Interface)
			var collision *netcfg.CollisionError
			switch {
			case errors.As(err, &collision):
				via := ""
				if collision.Interface != "" {
					via = " on " + collision.Interface
				}
				return &config.Error{Where: path, Field: "routes",
					Problem: fmt.Sprintf("%v of %q overlaps %v%s, which this machine reaches another way", p, t.Name, collision.With, via),
					WayOut:  "choose other inner addresses, or remove that route"}
			case err != nil:
				return err
			}
		}
	}
	return nil
}
