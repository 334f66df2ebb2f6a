package overlay

import (
	"crypto/ed25519"
	"encoding/binary"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Of a flood of forged puts, each with a good token and from another address of one
// prefix, no more come to a look at key or signature than the prefix may ask.
func TestFloodOfPutsIsLimitedBeforeTheSignature(t *testing.T) {
	for _, base := range []string{"203.0.113.0", "2001:db8::"} {
		asked := 0
		o := testNode(t, func(c *Config) {
			c.AnswerRate = 50
			c.Class = func(ed25519.PublicKey) Class { asked++; return ClassMember } // just before the store
		})
		forged := signed("", 1, "x")
		forged.Sig[0] ^= 1
		limited := 0
		for i := range 1000 {
			b := netip.MustParseAddr(base).AsSlice()
			b[len(b)-1] = byte(i)
			a, _ := netip.AddrFromSlice(b)
			from := netip.AddrPortFrom(a, 4500)
			m := itemPut(forged)
			m.kind, m.t, m.id, m.has = query, []byte("t"), testID, m.has|hasArgs|hasID|hasToken
			m.token = o.proofs.writeToken(day, from)
			if o.answer(&m, from, nil) == DropRate {
				limited++
			}
		}
		if asked != 100 || o.stats.Refused.Load() != 100 || limited != 900 {
			t.Errorf("%s: %d puts looked at, %d refused, %d dropped; want a burst of 100", base, asked, o.stats.Refused.Load(), limited)
		}
		if n, _ := o.store.size(); n != 0 {
			t.Errorf("%d forged items stored", n)
		}
	}
}

// A put without a good token costs neither a class nor a signature.
func TestPutWithoutTokenIsNotLookedAt(t *testing.T) {
	o := testNode(t, func(c *Config) {
		c.Class = func(ed25519.PublicKey) Class { t.Error("asked for a class"); return ClassSuper }
	})
	m := itemPut(signed("", 1, "x"))
	m.token = []byte("guessed!")
	if code, _ := o.keep(&m, testAddr); code != codeProtocol {
		t.Errorf("code %d", code)
	}
}

// Senders that were there once, such as a member who invents source addresses can
// produce, do not take the place of those who come after them.
func TestLimiterForgetsThoseWhoAreGone(t *testing.T) {
	l := newLimiter[netip.Prefix](10)
	now := day
	for i := range 3 * maxLimiterKeys {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], uint32(10<<24+i<<8))
		l.take(now, sourcePrefix(netip.AddrFrom4(ip)), false)
		now = now.Add(100 * time.Microsecond)
		if len(l.keys) > maxLimiterKeys+1 {
			t.Fatalf("%d keys", len(l.keys))
		}
	}
	now = now.Add(limiterSweep)
	key := source.from
	l.take(now, key, false)
	if _, own := l.keys[key]; !own {
		t.Error("a newcomer has no rate of his own")
	}
}

// What a datagram or a root claims to carry is not allocated.
func TestClaimsAllocateNothing(t *testing.T) {
	args := "d2:id20:" + strings.Repeat("i", 20)
	claims := map[string]func(){}
	for name, pkt := range map[string]string{
		"string":     "d1:a134217727:e",
		"63 bits":    "d1:a9223372036854775807:e",
		"nodes":      "d1:r" + args + "6:nodes69223372036854775806:e",
		"value":      "d1:a" + args + "5:token8:12345678" + "1:v2147483647:e",
		"many lists": "d1:a" + args + "1:x" + strings.Repeat("le", 500) + "e",
		"deep list":  "d1:a" + args + "1:x" + strings.Repeat("l", 500),
	} {
		claims[name] = func() { parse([]byte(pkt)) }
	}
	for name, value := range map[string]string{
		"root of 4 GiB":  "\x84\x01\x1a\xff\xff\xff\xff\x40\x40",
		"names of 4 GiB": "\x84\x01\x01\x40\x5a\xff\xff\xff\xff",
		"2^63 fields":    "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
	} {
		claims[name] = func() { parseRoot([]byte(value), MaxLargeObject) } //nolint:errcheck // only what it costs counts
	}
	for name, f := range claims {
		const runs = 100
		var before, after runtime.MemStats
		f()
		runtime.ReadMemStats(&before)
		for range runs {
			f()
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 8<<10 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

func TestLifeOfAChunkOnTheWire(t *testing.T) {
	m := message{
		kind: query, q: put, t: []byte("t"), id: testID, token: []byte("12345678"), value: []byte("chunk"), life: 600,
		has: hasArgs | hasID | hasToken | hasValue | hasLife,
	}
	b := m.append(nil)
	if want := "4:lifei600e5:token8:12345678" + "1:v5:chunk"; !strings.Contains(string(b), want) {
		t.Errorf("%q lacks %q", b, want)
	}
	got, why := parse(b)
	if why != DropNone || got.lifetime() != 10*time.Minute || string(got.append(nil)) != string(b) {
		t.Errorf("%v, %v from %q", why, got.lifetime(), b)
	}
	for n := range b {
		if _, why := parse(b[:n]); why == DropNone {
			t.Errorf("accepted a truncation to %d bytes", n)
		}
	}
	m.life = math.MaxInt64
	if got, why = parse(m.append(nil)); why != DropNone || got.lifetime() < 24*time.Hour {
		t.Errorf("%v, %v of 2^63-1 seconds", why, got.lifetime())
	}
	m.life = -1
	if _, why = parse(m.append(nil)); why != DropMalformed {
		t.Errorf("a negative life: %v", why)
	}
	m.has &^= hasLife
	if got, why = parse(m.append(nil)); why != DropNone || got.lifetime() != 0 {
		t.Errorf("without a life: %v, %v", why, got.lifetime())
	}
}
