package netcfg

import (
	"net/netip"
	"strings"
	"testing"
)

func TestUsableRefusesWhatIsNoEndpoint(t *testing.T) {
	overlay := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")}
	for addr, want := range map[string]bool{
		"192.0.2.1":          true,
		"10.41.255.255":      true,
		"172.17.0.1":         true,
		"100.64.0.1":         true,
		"2001:db8::1":        true,
		"fd00::1":            true,
		"::ffff:192.0.2.1":   true,
		"10.42.0.5":          false, // the overlay's own
		"::ffff:10.42.0.5":   false,
		"fd42::5":            false,
		"0.0.0.0":            false,
		"0.1.2.3":            false,
		"127.0.0.1":          false,
		"127.9.9.9":          false,
		"::1":                false,
		"::":                 false,
		"169.254.169.254":    false,
		"169.254.1.1":        false,
		"fe80::1":            false,
		"fe80::1%eth0":       false,
		"224.0.0.1":          false,
		"ff02::1":            false,
		"ff0e::1":            false,
		"255.255.255.255":    false,
		"240.0.0.1":          false,
		"fd00:ec2::254":      false,
		"fd20:ce::254":       false,
		"168.63.129.16":      false,
		"100.100.100.200":    false,
		"192.0.0.192":        false,
		"::ffff:127.0.0.1":   false,
		"::ffff:169.254.1.1": false,
	} {
		if got := Usable(netip.MustParseAddr(addr), overlay); got != want {
			t.Errorf("Usable(%s) = %v, want %v", addr, got, want)
		}
	}
	if Usable(netip.Addr{}, nil) {
		t.Error("the zero address is usable")
	}
}

func TestBadInterfaceNamesTheField(t *testing.T) {
	mapped := netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.1"), 128)
	for want, i := range map[string]Interface{
		"Name":   {},
		"Addrs":  {Name: "x", Addrs: []netip.Prefix{{}}},
		"Routes": {Name: "x", Routes: []netip.Prefix{mapped}},
		"MTU":    {Name: "x", MTU: -1},
	} {
		if err := Apply(i); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a word about %s", err, want)
		}
	}
}

func TestCollisionIsOneSentence(t *testing.T) {
	e := &CollisionError{Prefix: netip.MustParsePrefix("10.42.0.0/16"), With: netip.MustParsePrefix("10.42.3.0/24"), Interface: "docker0"}
	for _, want := range []string{"10.42.0.0/16", "10.42.3.0/24", "docker0", "choose another range"} {
		if !strings.Contains(e.Error(), want) {
			t.Errorf("%q lacks %q", e, want)
		}
	}
	e.Interface = ""
	if strings.Contains(e.Error(), "on interface") {
		t.Errorf("%q names no interface", e)
	}
}
