package service

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

var updateVectors = flag.Bool("update", false, "rewrite testdata")

var advertNow = time.Unix(1_800_000_000, 0)

func seedKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// sampleAdvert is that of a super peer of two services.
func sampleAdvert() Advert {
	universe, publisher := id.ID{1}, id.FromKey(seedKey(1).Public().(ed25519.PublicKey))
	a := NewAdvert(universe, publisher, 7, advertNow.Add(10*time.Minute), SuperPeerRecord{
		Labels: map[string]string{"cloud": "east", "zone": "e1"}, Roles: []string{RoleStore, RoleAdmit}, Binary: "0.1.0", Load: 12,
	})
	a.Add(Advertised{Service: id.ID{2}, Name: "shop", Endpoints: []string{"192.0.2.1:4500"}, Seq: 3, Until: advertNow.Unix() + 86400}, seedKey(2))
	a.Add(Advertised{Service: id.ID{3}, Name: "wiki", Endpoints: []string{"192.0.2.1:4500", "[2001:db8::1]:4500"}, Seq: 1, Until: advertNow.Unix() + 3600}, seedKey(3))
	return a
}

// TestAdvertVector: the bytes are wire format.
func TestAdvertVector(t *testing.T) {
	b, err := sampleAdvert().Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := "# Advert of docs/protocol/universe.md: universe 01 00..., publisher key of seed 01..., services 02 00... and\n" +
		"# 03 00... with keys of seeds 02... and 03..., at Unix time 1800000000, sequence number 7.\n" + hex.EncodeToString(b) + "\n"
	path := filepath.Join("testdata", "advert.txt")
	if *updateVectors {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != text {
		t.Errorf("got\n%s, %v", text, err)
	}
}

func TestAdvertOpens(t *testing.T) {
	a := sampleAdvert()
	b, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenAdvert(b, a.Universe, a.Publisher, a.Seq, advertNow)
	if err != nil || len(got.Services) != 2 || got.Services[1].Name != "wiki" || got.Record.Labels["cloud"] != "east" {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := OpenAdvert(b[:n], a.Universe, a.Publisher, a.Seq, advertNow); err == nil {
			t.Fatalf("opens with %d bytes of %d", n, len(b))
		}
	}
	if _, err := OpenAdvert(append(b, 0), a.Universe, a.Publisher, a.Seq, advertNow); err == nil {
		t.Error("opens with a byte too many")
	}
}

func TestAdvertIsRefused(t *testing.T) {
	other := id.ID{9}
	for want, c := range map[string]struct {
		change func(*Advert)
		now    time.Time
		seq    int64
		from   id.ID
	}{
		"bad signature":           {change: func(a *Advert) { a.Services[0].Endpoints[0] = "203.0.113.9:1" }},
		"bad signature for":       {change: func(a *Advert) { a.Expires++ }}, // entries are bound to their advert
		"expired":                 {now: advertNow.Add(10 * time.Minute)},
		"at most 1h0m0s":          {now: advertNow.Add(-2 * time.Hour)},
		"sequence number 7":       {seq: 8},
		"stands under the key of": {from: other},
		"want \"advert\"":         {change: func(a *Advert) { a.Universe = other }},
		"out of bounds":           {change: func(a *Advert) { a.Record.Load = 101 }},
		"malformed label":         {change: func(a *Advert) { a.Record.Labels["zone"] = "\x1b[2J" }},
		"malformed role":          {change: func(a *Advert) { a.Record.Roles[0] = "" }},
		"malformed entry 1":       {change: func(a *Advert) { a.Services[0].Name = "Shop" }},
		"malformed endpoint":      {change: func(a *Advert) { a.Services[1].Endpoints[0] = "nowhere" }},
		"twice":                   {change: func(a *Advert) { a.Services[1].Service = a.Services[0].Service }},
	} {
		a := sampleAdvert()
		universe, publisher := a.Universe, a.Publisher
		if c.change != nil {
			c.change(&a)
		}
		if c.now.IsZero() {
			c.now = advertNow
		}
		if c.seq == 0 {
			c.seq = a.Seq
		}
		if !c.from.IsZero() {
			publisher = c.from
		}
		if _, err := OpenAdvert(wire.Marshal(a), universe, publisher, c.seq, c.now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestEntryOfAnotherAdvertIsRefused: nobody advertises another's service as his.
func TestEntryOfAnotherAdvertIsRefused(t *testing.T) {
	honest := sampleAdvert()
	thief := honest
	thief.Publisher = id.FromKey(seedKey(4).Public().(ed25519.PublicKey))
	if _, err := OpenAdvert(wire.Marshal(thief), thief.Universe, thief.Publisher, thief.Seq, advertNow); err == nil || !strings.Contains(err.Error(), "bad signature") {
		t.Error(err)
	}
}

func FuzzOpenAdvert(f *testing.F) {
	a := sampleAdvert()
	f.Add(wire.Marshal(a))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := OpenAdvert(b, a.Universe, a.Publisher, a.Seq, advertNow)
		if err != nil {
			return
		}
		if again, err := got.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("encodes otherwise: %v", err)
		}
	})
}
