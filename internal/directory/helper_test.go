package directory

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
)

func TestHelpersOfARootAreBounded(t *testing.T) {
	at := netip.MustParseAddrPort("198.51.100.7:4500")
	good := Helper{PID: id.ID{1}, Addr: at, Roles: HelperStore | HelperReflect, Since: t0.Unix(), Until: t0.Add(HelperLife).Unix()}
	change := func(pid byte, f func(*Helper)) Helper {
		h := good
		h.PID = id.ID{pid}
		f(&h)
		return h
	}
	many := []Helper{}
	for i := range 2 * MaxHelpers {
		many = append(many, change(byte(i), func(*Helper) {}))
	}
	for name, c := range map[string]struct {
		all  []Helper
		want int
	}{
		"one":                 {[]Helper{good}, 1},
		"too many":            {many, MaxHelpers},
		"one twice":           {[]Helper{good, good}, 1},
		"without a role":      {[]Helper{change(2, func(h *Helper) { h.Roles = 0 })}, 0},
		"of an unknown role":  {[]Helper{change(2, func(h *Helper) { h.Roles = 0x80 })}, 0},
		"ended":               {[]Helper{change(2, func(h *Helper) { h.Until = t0.Unix() })}, 0},
		"for hours":           {[]Helper{change(2, func(h *Helper) { h.Until = t0.Add(time.Hour).Unix() })}, 0},
		"at no address":       {[]Helper{change(2, func(h *Helper) { h.Addr = netip.AddrPort{} })}, 0},
		"on this machine":     {[]Helper{change(2, func(h *Helper) { h.Addr = netip.MustParseAddrPort("127.0.0.1:53") })}, 0},
		"a cloud's metadata":  {[]Helper{change(2, func(h *Helper) { h.Addr = netip.MustParseAddrPort("169.254.169.254:80") })}, 0},
		"bad ones among good": {[]Helper{good, change(2, func(h *Helper) { h.Until = 0 }), change(3, func(*Helper) {})}, 2},
	} {
		if got := believable(c.all, t0); len(got) != c.want {
			t.Errorf("%s: %d helpers are believed, want %d", name, len(got), c.want)
		}
	}
	if h := believable([]Helper{change(2, func(h *Helper) { h.Roles = 0xff })}, t0); len(h) != 1 || !slices.Equal(h[0].Roles.Names(), []string{"store", "reflect", "relay"}) {
		t.Errorf("unknown roles beside known ones: %v", h)
	}
}

func TestChangedHelpersMakeANewRoot(t *testing.T) {
	w := NewWriter(id.ID{7}, blockA, 24*time.Hour)
	if _, due := w.Root(1, 1, t0); !due {
		t.Fatal("no first root")
	}
	w.RootStored(t0)
	all := []Helper{{PID: id.ID{1}, Addr: netip.MustParseAddrPort("198.51.100.7:4500"), Roles: HelperStore, Until: 5}}
	w.SetHelpers(all)
	r, due := w.Root(1, 1, t0)
	if !due || !slices.Equal(r.Helpers, all) {
		t.Fatalf("root due %v, of helpers %v", due, r.Helpers)
	}
	w.RootStored(t0)
	w.SetHelpers(slices.Clone(all))
	if _, due := w.Root(1, 1, t0); due {
		t.Error("a new root of the same helpers")
	}
}
