package overlay

import (
	"bytes"
	"encoding/hex"
	"math"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// BEP 44, "Test vectors", 1 and 2.
func TestItemMatchesBEP44Vectors(t *testing.T) {
	for _, v := range []struct{ salt, sig, target string }{{
		"",
		"305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
		"4a533d47ec9c7d95b1ad75f576cffc641853b750",
	}, {
		"foobar",
		"6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
		"411eba73b6f087ca51a3795d9c8c938d365e32c1",
	}} {
		it := Item{
			Key:   unhex(t, "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"),
			Salt:  []byte(v.salt),
			Seq:   1,
			Value: []byte("Hello World!"),
			Sig:   [64]byte(unhex(t, v.sig)),
		}
		if !it.Verify() {
			t.Errorf("salt %q: signature refused", v.salt)
		}
		if got := Target(it.Key, it.Salt); got.String() != v.target {
			t.Errorf("target %v, want %v", got, v.target)
		}
		it.Seq++
		if it.Verify() {
			t.Error("signature of another sequence number accepted")
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	good := SignItem(testKey, []byte("salt"), 5, []byte("value"))
	if !good.Verify() {
		t.Fatal("own item refused")
	}
	for name, change := range map[string]func(*Item){
		"value":          func(it *Item) { it.Value = []byte("Value") },
		"salt":           func(it *Item) { it.Salt = []byte("Salt") },
		"sequence":       func(it *Item) { it.Seq++ },
		"signature":      func(it *Item) { it.Sig[3] ^= 1 },
		"key":            func(it *Item) { it.Key = bytes.Repeat([]byte{1}, 32) },
		"short key":      func(it *Item) { it.Key = it.Key[:31] },
		"no key":         func(it *Item) { it.Key = nil },
		"negative":       func(it *Item) { *it = SignItem(testKey, nil, -1, nil) },
		"value too long": func(it *Item) { *it = SignItem(testKey, nil, 1, make([]byte, MaxValue+1)) },
		"salt too long":  func(it *Item) { *it = SignItem(testKey, make([]byte, MaxSalt+1), 1, nil) },
		// salt "1:v" and the like: bencode's lengths keep the fields apart.
		"salt moved into value": func(it *Item) { it.Salt, it.Value = nil, []byte("saltvalue") },
	} {
		it := good
		change(&it)
		if it.Verify() {
			t.Errorf("%s changed: accepted", name)
		}
	}
	if it := SignItem(testKey, make([]byte, MaxSalt), math.MaxInt64, make([]byte, MaxValue)); !it.Verify() {
		t.Error("item at the limits refused")
	}
}

func TestNewerIsATotalOrder(t *testing.T) {
	a, b := Item{Seq: 1, Value: []byte("a")}, Item{Seq: 1, Value: []byte("b")}
	c := Item{Seq: 2}
	if a.newer(b) || !b.newer(a) || !c.newer(b) || b.newer(c) || a.newer(a) {
		t.Error("newer is not an order")
	}
}
