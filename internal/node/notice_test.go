package node

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
)

// vectorNotice is a pong under a key of 0, 1, 2, ..., for SPI 0x01020304, with the nonce
// 0x40, 0x41, ..., the stamp 0x1112131415161718 and the argument 0x1920; computed
// by a program of its own from RFC 8439 and draft-irtf-cfrg-xchacha-03.
const vectorNotice = "01020304404142434445464748494a4b4c4d4e4f5051525354555657" +
	"d6281763c4f56f0197eda787c98fffdc77735cb05b2831a8cb77e6"

func vectorKey() (k [32]byte) {
	for i := range k {
		k[i] = byte(i)
	}
	return k
}

func TestNoticeVector(t *testing.T) {
	b, err := hex.DecodeString(vectorNotice)
	if err != nil {
		t.Fatal(err)
	}
	op, stamp, arg, endpoints, ok := openNotice(vectorKey(), b)
	if !ok || endpoints != nil || op != noticePong || stamp != 0x1112131415161718 || arg != 0x1920 {
		t.Errorf("op %d, stamp %#x, arg %#x, %v", op, stamp, arg, ok)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, _, _, ok := openNotice(vectorKey(), bad); ok {
			t.Errorf("taken with byte %d changed", i)
		}
	}
	for n := range b {
		if _, _, _, _, ok := openNotice(vectorKey(), b[:n]); ok {
			t.Errorf("taken when cut to %d bytes", n)
		}
	}
	if lost := encodeLost(0x01020304); hex.EncodeToString(lost) != "0000000001020304" {
		t.Errorf("lost is %x", lost)
	}
}

// TestOnlyKnocksHaveEndpoints: as many as they say, and 8 at most.
func TestOnlyKnocksHaveEndpoints(t *testing.T) {
	all := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4500"), netip.MustParseAddrPort("[2001:db8::1]:61000")}
	_, _, _, got, ok := openNotice(vectorKey(), sealNotice(vectorKey(), 1, noticeKnock, 7, 2, all...))
	if !ok || !slices.Equal(got, all) {
		t.Errorf("endpoints %v, %v", got, ok)
	}
	if _, _, _, _, ok := openNotice(vectorKey(), sealNotice(vectorKey(), 1, noticeKnock, 7, 0)); !ok {
		t.Error("a knock without endpoints is none")
	}
	for name, b := range map[string][]byte{
		"a ping with endpoints": sealNotice(vectorKey(), 1, noticePing, 7, 2, all...),
		"another number":        sealNotice(vectorKey(), 1, noticeKnock, 7, 1, all...),
		"nine":                  sealNotice(vectorKey(), 1, noticeKnock, 7, 9, slices.Repeat(all[:1], 9)...),
	} {
		if _, _, _, _, ok := openNotice(vectorKey(), b); ok {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzNotice: what a member says of a tunnel is a notice of the tunnel, a word of lost
// keys, or nothing; never two of them.
func FuzzNotice(f *testing.F) {
	key := vectorKey()
	f.Add(sealNotice(key, 0x01020304, noticeDelete, 7, 0))
	f.Add(sealNotice(key, 0x01020304, noticeKnock, 7, 1, netip.MustParseAddrPort("192.0.2.1:4500")))
	f.Add(encodeLost(0x01020304))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		spi, lost := parseLost(b)
		_, _, _, _, ok := openNotice(key, b)
		switch {
		case lost && ok:
			t.Error("both")
		case lost && !bytes.Equal(encodeLost(spi), b):
			t.Errorf("%x is another form of the word that SPI %#x is lost", b, spi)
		case ok && !isNotice(b):
			t.Error("a notice of another length")
		}
	})
}
