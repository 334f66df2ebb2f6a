package relay

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/underlay"
)

func readVectors(t testing.TB) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	v := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
			v[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return v
}

// TestVectors: what the page says, made without code of this package, is what a relay
// and its member send.
func TestVectors(t *testing.T) {
	v := readVectors(t)
	of := func(name string) []byte {
		b, err := hex.DecodeString(v[name])
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %q: %v", name, v[name], err)
		}
		return b
	}
	seconds, err := strconv.ParseInt(v["time"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	now, addr, at := time.Unix(seconds, 0), netip.MustParseAddrPort(v["address"]), netip.MustParseAddrPort("192.0.2.1:4500")
	service, key := id.ID(of("service")), ed25519.NewKeyFromSeed(of("relay"))
	self := id.FromKey(key.Public().(ed25519.PublicKey))
	table := NewTable([32]byte(of("tokenkey")), Limits{})
	relay := table.Relay(service, key, func(id.ID) bool { return true })
	same := func(name string, got []byte) {
		t.Helper()
		if want := of(name); !bytes.Equal(got, want) {
			t.Errorf("%s is %x, want %x", name, got, want)
		}
	}

	h := NewHoldings(Config{Service: service, Key: ed25519.NewKeyFromSeed(of("member")), Rand: bytes.NewReader(bytes.Repeat(of("tx"), 2)), Conn: NewConn(nil)})
	out := h.Want(now, self, at, now.Add(time.Hour))
	same("first", out.Send[0].Payload)
	prove := relay.Answer(now, out.Send[0].Payload, addr)
	same("prove", prove)
	out = h.Receive(now, at, prove)
	same("second", out.Send[0].Payload)
	held := relay.Answer(now, out.Send[0].Payload, addr)
	same("held", held)
	h.Receive(now, at, held)
	name, _, _ := h.Held(self)
	same("allocation", name[:])
	if a, ok := parseAnswer(of("busy")); !ok || a.Status != statusBusy || !bytes.Equal(a.Token, of("token")) {
		t.Errorf("busy: %+v, %v", a, ok)
	}

	sink := &sockets{}
	h.cfg.Conn.sockets = sink
	to, _ := h.cfg.Conn.Virtual(at, ID(of("to")))
	if n, err := h.cfg.Conn.WriteBatch([]underlay.Message{{Buf: of("content"), N: len(of("content")), Addr: to}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	same("datagram", sink.sent[0].Buf)
}
