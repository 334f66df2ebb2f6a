package service

import (
	"net/netip"

	"icvpn/internal/wire"
)

// metadata are addresses at which clouds serve secrets to their machines; an
// endpoint there would make us a confused deputy. Those that are link-local,
// 169.254.169.254 among them, need no entry.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

var (
	reserved4   = netip.MustParsePrefix("240.0.0.0/4") // RFC 1112; holds the broadcast address
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")   // RFC 1122, Section 3.2.1.3
)

// UsableAddr says whether a may be the address of a peer: unicast, and neither
// loopback, link-local, unspecified, to be discarded nor a cloud's metadata service. IPv4-mapped
// addresses are not: an endpoint has one spelling.
func UsableAddr(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.Zone() != "" || a.Is4In6() { // excludes the rest of the list
		return false
	}
	for _, m := range metadata {
		if a == m {
			return false
		}
	}
	return !reserved4.Contains(a) && !thisNetwork.Contains(a) && !wire.Discard.Contains(a)
}

// UsableEndpoint says whether a peer may be asked to send to e. The conductor
// adds the overlay's own prefixes to what is refused.
func UsableEndpoint(e netip.AddrPort) bool { return e.Port() != 0 && UsableAddr(e.Addr()) }
