package esp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSuiteNumbersAndKeySizes(t *testing.T) {
	for i, v := range []struct {
		suite Suite
		name  string
		sizes KeySizes
		aead  bool
	}{
		{1, "aes128cbc-sha256", KeySizes{16, 32, 16, 0}, false},
		{2, "aes256cbc-sha512", KeySizes{32, 64, 16, 0}, false},
		{3, "aes128gcm", KeySizes{16, 0, 0, 4}, true},
		{4, "aes256gcm", KeySizes{32, 0, 0, 4}, true},
		{5, "chacha20poly1305", KeySizes{32, 0, 0, 4}, true},
	} {
		if Suites()[i] != v.suite || v.suite.String() != v.name || v.suite.KeySizes() != v.sizes || v.suite.AEAD() != v.aead {
			t.Errorf("suite %d: %v %v %+v %v", v.suite, Suites()[i], v.suite, v.suite.KeySizes(), v.suite.AEAD())
		}
		if got, err := ParseSuite(v.name); err != nil || got != v.suite {
			t.Errorf("ParseSuite(%q) = %v, %v", v.name, got, err)
		}
	}
	for _, bad := range []Suite{0, 6, 255} {
		if bad.Valid() || bad.AEAD() || bad.KeySizes() != (KeySizes{}) || bad.String() != "unknown" ||
			bad.SealedLen(100) != 0 || bad.Overhead(100, true) != 0 || bad.MaxInner(1500, false) != 0 {
			t.Errorf("suite %d counts for something", bad)
		}
	}
	for _, bad := range []string{"", "unknown", "AES128GCM"} {
		if _, err := ParseSuite(bad); !errors.Is(err, ErrSuite) {
			t.Errorf("ParseSuite(%q): %v", bad, err)
		}
	}
}

func TestMaxInnerIsTheLargestThatFits(t *testing.T) {
	for _, s := range Suites() {
		for _, six := range []bool{false, true} {
			for mtu := range 1700 {
				n := s.MaxInner(mtu, six)
				if n > 0 && n+s.Overhead(n, six) > mtu {
					t.Fatalf("%v: MaxInner(%d, %v) = %d does not fit", s, mtu, six, n)
				}
				if n+1+s.Overhead(n+1, six) <= mtu {
					t.Fatalf("%v: MaxInner(%d, %v) = %d, one more fits", s, mtu, six, n)
				}
			}
		}
	}
}

// Figures that other documents may quote.
func TestOverheadFigures(t *testing.T) {
	for _, v := range []struct {
		suite    Suite
		mtu      int
		six      bool
		maxInner int
	}{
		{AES128CBCSHA256, 1500, false, 1422},
		{AES128CBCSHA256, 1500, true, 1406},
		{AES128CBCSHA256, 1280, true, 1182},
		{AES256CBCSHA512, 1500, false, 1406},
		{AES128GCM, 1500, false, 1438},
		{ChaCha20Poly1305, 1500, true, 1418},
		{AES128CBCSHA256, 0, false, 0},
	} {
		if got := v.suite.MaxInner(v.mtu, v.six); got != v.maxInner {
			t.Errorf("%v over %d (IPv6 %v): %d, want %d", v.suite, v.mtu, v.six, got, v.maxInner)
		}
	}
}

func TestKeysAreNeverShown(t *testing.T) {
	secret := bytes.Repeat([]byte{0xab}, 32)
	k := Keys{Enc: secret, Int: secret, IV: secret, Salt: secret}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q", "%T %v"} {
		fmt.Fprintf(&shown, verb+" "+verb+"\n", k, &k)
	}
	c := testConfig(DefaultSuite)
	c.Keys = k
	c.Stats = nil
	fmt.Fprintf(&shown, "%v %+v %#v\n", c, c, c)
	untimed := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey { // whose digits may be those of a key
			return slog.Attr{}
		}
		return a
	}}
	slog.New(slog.NewTextHandler(&shown, untimed)).Info("x", "keys", k, "config", c)
	slog.New(slog.NewJSONHandler(&shown, untimed)).Info("x", "keys", k, "ptr", &k)
	j, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(j)
	out, in := newPair(t, testConfig(DefaultSuite))
	fmt.Fprintf(&shown, "%v %s %v", out, in, out.LogValue())
	for _, leak := range []string{"abab", "ABAB", "171", "0xab", "\\xab", "q6ur"} {
		if strings.Contains(shown.String(), leak) {
			t.Errorf("%q in %s", leak, shown.String())
		}
	}
	if out.String() != "1c0ffee5/aes128cbc-sha256" {
		t.Error(out.String())
	}
	if k.Wipe(); !bytes.Equal(secret, make([]byte, 32)) {
		t.Error("Wipe left something")
	}
}

func TestDropsHaveNamesAndCounters(t *testing.T) {
	seen := map[string]bool{}
	var s Stats
	for _, d := range Drops() {
		if d.String() == "" || seen[d.String()] {
			t.Errorf("drop %d is called %q", d, d)
		}
		seen[d.String()] = true
		s.CountDrop(d)
		if s.Dropped(d) != 1 {
			t.Errorf("%v not counted", d)
		}
	}
	s.CountDrop(DropNone)
	s.CountDrop(200)
	if s.Dropped(DropNone) != 0 || s.Dropped(200) != 0 || Drop(200).String() != "invalid" || Life(9).String() != "invalid" {
		t.Error("values out of range")
	}
	if LifeFresh.String() != "fresh" || LifeRekey.String() != "rekey" || LifeExpired.String() != "expired" {
		t.Error("names of Life")
	}
	for d, want := range map[Drop]bool{DropNone: true, DropDummy: true, DropInner: true, DropSource: true, DropPolicy: true,
		DropAuth: false, DropReplay: false, DropPadding: false, DropExpired: false} {
		if d.Authentic() != want {
			t.Errorf("%v authentic: %v", d, !want)
		}
	}
}
