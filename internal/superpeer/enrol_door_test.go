package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"icvpn/admission"
)

var doorNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newTestDoor() *door {
	d := newDoor()
	// No rates: these tests are about places.
	endless := admission.LimiterConfig{Rate: 1e9, Burst: 1e9, TotalRate: 1e9, TotalBurst: 1e9}
	d.strangers, d.regulars = admission.NewLimiter(endless), admission.NewLimiter(endless)
	return d
}

// fill lets as many in as will go.
func (d *door) fill(addrs func(i int) netip.Addr, tries int) (in []netip.Addr) {
	for i := range tries {
		if v, _ := d.enter(doorNow, addrs(i)); v == welcome {
			in = append(in, addrs(i))
		}
	}
	return in
}

func TestSharesOfPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		addrs    func(int) netip.Addr
		min, max int
	}{
		"one IPv4 address": {func(int) netip.Addr { return newcomerAt }, 32, 64},
		"one IPv4 network": {func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }, 64, 128},
		"one IPv6 host": {func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i), 14: byte(i >> 8)})
		}, 32, 64},
		"one IPv6 network": {func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i), 6: byte(i >> 8)})
		}, 64, 128},
		"no address": {func(int) netip.Addr { return netip.Addr{} }, 32, 64},
		"everywhere": {func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }, maxConnections, maxConnections},
	} {
		if n := len(newTestDoor().fill(c.addrs, 5000)); n < c.min || n > c.max {
			t.Errorf("%s: %d places, want %d to %d", name, n, c.min, c.max)
		}
	}
}

func TestOneSourceMoreIsRefusedAndAPlaceComesBack(t *testing.T) {
	d := newTestDoor()
	in := d.fill(func(int) netip.Addr { return newcomerAt }, 100)
	if v, _ := d.enter(doorNow, newcomerAt); v != overRate {
		t.Fatalf("over the share: %v", v)
	}
	d.leave(in[0])
	if v, _ := d.enter(doorNow, newcomerAt); v != welcome {
		t.Errorf("after one left: %v", v)
	}
}

func TestPlacesForKnownSources(t *testing.T) {
	d := newTestDoor()
	d.admitted(doorNow, newcomerAt)
	spread := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }
	d.fill(spread, 5000)
	if v, _ := d.enter(doorNow, spread(6000)); v != full {
		t.Fatalf("stranger: %v", v)
	}
	if v, known := d.enter(doorNow, newcomerAt); v != welcome || !known {
		t.Errorf("known source: %v", v)
	}
	if v, _ := d.enter(doorNow.Add(knownLife), newcomerAt); v != full {
		t.Errorf("known too long ago: %v", v)
	}
}

func TestStrangersDoNotTakeTheRateOfKnownSources(t *testing.T) {
	d := newTestDoor()
	d.strangers = admission.NewLimiter(admission.LimiterConfig{TotalRate: 1, TotalBurst: 1})
	d.admitted(doorNow, newcomerAt)
	d.fill(host, 100)
	if v, _ := d.enter(doorNow, newcomerAt); v != welcome {
		t.Errorf("known source: %v", v)
	}
}

// TestPlacesComeOutEven plays at random: nothing stays in the tables.
func TestPlacesComeOutEven(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	d := newTestDoor()
	var in []netip.Addr
	for range 20000 {
		if len(in) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(in))
			d.leave(in[i])
			in[i] = in[len(in)-1]
			in = in[:len(in)-1]
			continue
		}
		a := host(r.IntN(300))
		if v, _ := d.enter(doorNow, a); v == welcome {
			in = append(in, a)
		}
		if d.running() != len(in) {
			t.Fatalf("%d running, want %d", d.running(), len(in))
		}
	}
	for _, a := range in {
		d.leave(a)
	}
	if d.running() != 0 || len(d.places.byAddress) != 0 || len(d.places.byNetwork) != 0 {
		t.Errorf("left over: %d, %v, %v", d.running(), d.places.byAddress, d.places.byNetwork)
	}
}

func TestKnownSourcesAreBounded(t *testing.T) {
	d := newTestDoor()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range maxKnown {
		d.admitted(doorNow, at(i))
	}
	d.admitted(doorNow, at(0)) // renewed, so the last to go
	for i := range 10 {
		d.admitted(doorNow, at(maxKnown+i))
	}
	if len(d.known.bySource) != maxKnown || d.known.recent.Len() != maxKnown {
		t.Errorf("%d sources", len(d.known.bySource))
	}
	if !d.known.has(doorNow, at(0)) || d.known.has(doorNow, at(1)) || !d.known.has(doorNow, at(maxKnown+9)) {
		t.Error("the wrong ones were forgotten")
	}
}

func TestCertificateIsMadeOnceAndRenewed(t *testing.T) {
	seed := sha256.Sum256([]byte("super peer"))
	c := &certificate{key: ed25519.NewKeyFromSeed(seed[:])}
	first := c.config(doorNow)
	if c.config(doorNow.Add(time.Hour)) != first {
		t.Error("made again within its life")
	}
	later := c.config(doorNow.Add(admission.CertificateLife / 2))
	if later == first {
		t.Error("shown beyond half of its life")
	}
	if c.config(doorNow.Add(admission.CertificateLife/2+time.Hour)) != later {
		t.Error("the second one was made twice")
	}
}

func TestWorkersEndWaitingWithTheContext(t *testing.T) {
	w := newWorkers(1)
	release := make(chan struct{})
	started := make(chan struct{})
	for range cap(w.all) {
		go w.do(t.Context(), false, func() { started <- struct{}{}; <-release })
		<-started
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, stranger := range []bool{true, false} {
		if w.do(ctx, stranger, func() {}) {
			t.Errorf("stranger %v: ran without a worker", stranger)
		}
	}
	close(release)
	if !w.do(t.Context(), true, func() {}) || w.waiting.Load() != 0 || len(w.strangers) != 0 {
		t.Error("workers lost")
	}
}

func TestQuietSaysHowManyItLeftOut(t *testing.T) {
	q := newQuiet()
	line := func(after time.Duration, addr, reason string, wantN int, wantOK bool) {
		t.Helper()
		if n, ok := q.line(doorNow.Add(after), netip.MustParseAddr(addr), reason); n != wantN || ok != wantOK {
			t.Errorf("%v %s %s: %d, %v", after, addr, reason, n, ok)
		}
	}
	line(0, "192.0.2.1", "busy", 0, true)
	line(time.Second, "192.0.2.1", "busy", 0, false)
	line(2*time.Second, "192.0.2.99", "busy", 0, false) // the same network
	line(2*time.Second, "192.0.2.1", "scope", 0, true)
	line(2*time.Second, "192.0.3.1", "busy", 0, true)
	line(quietFor, "192.0.2.1", "busy", 2, true)
	line(quietFor+time.Second, "192.0.2.1", "busy", 0, false)
	line(2*quietFor, "192.0.2.1", "busy", 1, true)
}

func TestQuietIsBounded(t *testing.T) {
	q := newQuiet()
	lines, left := 0, 0
	for minute := range 3 {
		for i := range 2000 {
			for range 2 {
				now := doorNow.Add(time.Duration(minute) * quietFor)
				n, ok := q.line(now, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), fmt.Sprint("reason ", i%2))
				if left += n; ok {
					lines++
				}
			}
		}
		if len(q.lines) > maxQuiet+2 {
			t.Fatalf("%d entries", len(q.lines))
		}
	}
	if lines > 3*(maxQuiet+2) {
		t.Errorf("%d lines in three minutes", lines)
	}
	for _, l := range q.lines {
		left += l.suppressed
	}
	if lines+left != 3*2000*2 {
		t.Errorf("%d lines and %d left out, want %d together", lines, left, 3*2000*2)
	}
}
