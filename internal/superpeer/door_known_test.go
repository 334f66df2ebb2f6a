package superpeer

import (
	"net/netip"
	"testing"
	"time"
)

// TestKnownSourcesOfOneNetworkDisplaceEachOther: who has a token and a /48 enrols
// from each of its /64.
func TestKnownSourcesOfOneNetworkDisplaceEachOther(t *testing.T) {
	d, now := newDoor(), time.Unix(1e9, 0)
	honest := netip.MustParseAddr("192.0.2.1")
	d.admitted(now, honest)
	for i := range maxKnown {
		a := netip.MustParseAddr("2001:db8::1").As16()
		a[6], a[7] = byte(i>>8), byte(i)
		d.admitted(now.Add(time.Minute), netip.AddrFrom16(a))
	}
	if !d.known.has(now.Add(time.Minute), honest) {
		t.Error("a source of another network was forgotten")
	}
	if got := d.known.recent.Len(); got != maxKnownOfNetwork+1 || len(d.known.bySource) != got {
		t.Errorf("%d sources are known, want %d", got, maxKnownOfNetwork+1)
	}
	if got := len(d.known.byNetwork); got != 2 {
		t.Errorf("%d networks are counted, want 2", got)
	}
}
