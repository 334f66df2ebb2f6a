package demo

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"icvpn/internal/lab"
)

func TestScreenNumbersTitlesAndIndentsLines(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.title("First")
	s.line("a %d\nb\n", 1)
	s.title("Second")
	got := out.String()
	if !strings.HasPrefix(got, "\n 1  First  [0.0 s]\n    a 1\n    b\n\n 2  Second  [") {
		t.Errorf("got %q", got)
	}
}

func TestCommandIsShownAsAnOperatorWouldTypeIt(t *testing.T) {
	var out bytes.Buffer
	newScreen(&out).command([]string{"ping", "-c", "3", "app-2", "--state-dir", "/tmp/x/state", "--out", "/tmp/x"})
	if got, want := out.String(), "    $ icvpn ping -c 3 app-2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShortKeepsDigitsThatMatter(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1234567 * time.Nanosecond: "1ms", 527400 * time.Microsecond: "527ms", 12345 * time.Millisecond: "12.35s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// packet is an IPv4 packet with ports.
func packet(from, to *lab.Host, proto byte, fromPort, toPort uint16, payload []byte) lab.Packet {
	head := 8
	if proto == 6 {
		head = 20
	}
	b := make([]byte, 20+head, 20+head+len(payload))
	b[0], b[9] = 0x45, proto
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	copy(b[12:], from.Addr4.AsSlice())
	copy(b[16:], to.Addr4.AsSlice())
	binary.BigEndian.PutUint16(b[20:], fromPort)
	binary.BigEndian.PutUint16(b[22:], toPort)
	if proto == 17 {
		binary.BigEndian.PutUint16(b[24:], uint16(head+len(payload)))
	}
	return lab.Packet{Time: time.Now(), Data: append(b, payload...)}
}

// TestWatchTellsWhatCrossesTheRouter: were the tunnels not sealed, the demo would
// have to see it.
func TestWatchTellsWhatCrossesTheRouter(t *testing.T) {
	web := &lab.Host{Addr4: netip.MustParseAddr("192.0.2.12")}
	app := &lab.Host{Addr4: netip.MustParseAddr("198.51.100.13")}
	esp := append([]byte{0x1a, 0x2b, 0x3c, 0x4d, 0, 0, 0, 7}, make([]byte, 40)...)
	w := &watch{from: web, to: app}
	w.see(packet(app, web, 17, 4500, 4500, esp)) // not the direction of the sample
	if w.sample != "" {
		t.Errorf("sample %q", w.sample)
	}
	w.see(packet(web, app, 17, 4500, 4500, esp))
	if !strings.Contains(w.sample, "spi=0x1a2b3c4d") || !strings.Contains(w.sample, "seq=0x7") || !strings.Contains(w.sample, "192.0.2.12:4500 > 198.51.100.13:4500") {
		t.Errorf("sample %q", w.sample)
	}
	w.see(packet(web, app, 17, 4500, 4500, make([]byte, 60)))        // SPI 0: control
	w.see(packet(web, app, 17, 40000, 4500, esp))                    // not a machine's port
	w.see(packet(web, app, 6, 40000, 8080, []byte("GET "+marker)))   // in clear
	w.see(packet(web, app, 17, 53, 53, []byte("...."+marker+"..."))) // in clear, elsewhere
	if w.packets != 6 || w.esp != 2 || w.ctl != 2 || w.tcp != 1 || w.other != 1 || w.leaks != 2 {
		t.Errorf("%d packets: %d ESP, %d control, %d TCP, %d other, %d leaks", w.packets, w.esp, w.ctl, w.tcp, w.other, w.leaks)
	}
}

func TestTCPIsFoundInBothFamilies(t *testing.T) {
	v4, v6 := make([]byte, 40), make([]byte, 60)
	v4[0], v4[9], v6[0], v6[6] = 0x45, 6, 0x60, 6
	if !isTCP(v4) || !isTCP(v6) {
		t.Error("TCP not found")
	}
	v4[9], v6[6] = 17, 17
	if isTCP(v4) || isTCP(v6) || isTCP(nil) || isTCP(v4[:10]) {
		t.Error("something else taken for TCP")
	}
}

func TestFailedErrorSaysWhereToLook(t *testing.T) {
	if got := (&FailedError{Code: 1}).Error(); !strings.Contains(got, "code 1") || !strings.Contains(got, "lines above") {
		t.Errorf("got %q", got)
	}
}
