//go:build linux

package measure

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

func TestQuantile(t *testing.T) {
	s := []float64{5, 1, 4, 2, 3}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {0.2, 1}, {0.5, 3}, {0.99, 5}, {1, 5}} {
		if got := Quantile(s, c.q); got != c.want {
			t.Errorf("quantile %v = %v, want %v", c.q, got, c.want)
		}
	}
	if s[0] != 5 {
		t.Error("the samples were sorted in place")
	}
	if !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("a quantile of nothing")
	}
}

func TestNumberHasThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1234: "1234", 99.96: "100.0", 12.34: "12.3", 1.234: "1.23", 0.1234: "0.123"} {
		if got := Number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestProcessKnowsItself(t *testing.T) {
	p := Process(os.Getpid())
	m, err := p.Memory()
	if err != nil || m.Own <= 0 || m.Resident < m.Own || m.Peak < m.Resident*0.9 {
		t.Errorf("%+v, %v", m, err)
	}
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
	}
	used, err := p.CPU()
	if err != nil || used <= 0 {
		t.Errorf("%v, %v", used, err)
	}
	if busy, err := Busy(); err != nil || busy < used {
		t.Errorf("the machine %v, %v; this process %v", busy, err, used)
	}
	if _, err := Process(1 << 30).CPU(); err == nil {
		t.Error("a process that is not there")
	}
}

func TestReportPathOutlivesTheRun(t *testing.T) {
	if err := CheckReportPath("/dev/shm/x.json"); err == nil || !strings.Contains(err.Error(), "choose another directory") {
		t.Error(err)
	}
	if err := CheckReportPath("x.json"); err != nil {
		t.Error(err)
	}
}

func pair(t *testing.T) (a, b *lab.Host) {
	l := labtest.New(t, lab.Config{Clouds: []lab.Cloud{{Name: "c", Hosts: []string{"a", "b"}}}})
	return l.Host("a"), l.Host("b")
}

func TestTransferArrivesAndStreamCounts(t *testing.T) {
	a, b := pair(t)
	to := TCP{From: a, To: b, At: netip.AddrPortFrom(b.Addr4, 5001)}
	const size = 1<<20 + 7
	for range 2 { // the port is free again
		h, err := Transfer(to, size)
		if err != nil || !h.Intact() || h.Bytes != size {
			t.Errorf("%+v, %v", h, err)
		}
	}
	s, err := StartStream(to)
	if err != nil {
		t.Fatal(err)
	}
	for s.Received() < 1<<20 {
		if err := Sleep(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// TestStreamHasTheCongestionControlThatWasAsked: also one that a namespace does not take,
// where the kernel has it.
func TestStreamHasTheCongestionControlThatWasAsked(t *testing.T) {
	a, b := pair(t)
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	to := TCP{From: a, To: b, At: netip.AddrPortFrom(b.Addr4, 5001)}
	for _, to.Congestion = range strings.Fields(string(known)) {
		s, err := StartStream(to)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unix.GetsockoptString(s.out, unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil || strings.TrimRight(got, "\x00") != to.Congestion {
			t.Errorf("%q, %v, want %q", got, err, to.Congestion)
		}
		s.Abort()
	}
	to.Congestion = "best"
	if _, err := StartStream(to); err == nil || !strings.Contains(err.Error(), "congestion control best: this kernel has "+strings.Join(strings.Fields(string(known)), ", ")) {
		t.Errorf("one that there is not: %v", err)
	}
}

func TestAbortWaitsForNothing(t *testing.T) {
	a, b := pair(t)
	s, err := StartStream(TCP{From: a, To: b, At: netip.AddrPortFrom(b.Addr4, 5001)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SetLink(false); err != nil {
		t.Fatal(err)
	}
	s.Abort() // would hang here until the test's own end
}

func TestHashesTellADamagedTransfer(t *testing.T) {
	h := Hashes{Bytes: 1}
	if !h.Intact() {
		t.Error("equal hashes")
	}
	if h.Received[3]++; h.Intact() {
		t.Error("different hashes")
	}
	if (Hashes{}).Intact() {
		t.Error("nothing was sent")
	}
}

func first(t *testing.T, a, b *lab.Host) error {
	_, err := Ping(t.Context(), a, b.Addr4, 1, 0)
	return err
}

func TestPingAnswersOrSaysWhichOneDidNot(t *testing.T) {
	a, b := pair(t)
	// A link that has just been set up may lose its first packets.
	for errors.Is(first(t, a, b), ErrNoAnswer) {
	}
	rtts, err := Ping(t.Context(), a, b.Addr4, 5, time.Microsecond)
	if err != nil || len(rtts) != 5 || rtts[0] <= 0 {
		t.Errorf("%v, %v", rtts, err)
	}
	if err := b.SetLink(false); err != nil {
		t.Fatal(err)
	}
	if _, err := Ping(t.Context(), a, b.Addr4, 1, 0); err == nil || !strings.Contains(err.Error(), "ping 1 from a to") {
		t.Error(err)
	}
}
