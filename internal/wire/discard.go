package wire

import "net/netip"

// Discard is the prefix of addresses that nobody has (RFC 6666). No record may name one,
// and nothing is sent there: here they stand for peers behind relays, the last eight
// bytes for an allocation (docs/protocol/relay.md).
var Discard = netip.MustParsePrefix("100::/64")
