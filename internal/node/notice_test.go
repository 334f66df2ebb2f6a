package node

import (
	"bytes"
	"encoding/hex"
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
	op, stamp, arg, ok := openNotice(vectorKey(), b)
	if !ok || op != noticePong || stamp != 0x1112131415161718 || arg != 0x1920 {
		t.Errorf("op %d, stamp %#x, arg %#x, %v", op, stamp, arg, ok)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, _, ok := openNotice(vectorKey(), bad); ok {
			t.Errorf("taken with byte %d changed", i)
		}
	}
	for n := range b {
		if _, _, _, ok := openNotice(vectorKey(), b[:n]); ok {
			t.Errorf("taken when cut to %d bytes", n)
		}
	}
	if lost := encodeLost(0x01020304); hex.EncodeToString(lost) != "0000000001020304" {
		t.Errorf("lost is %x", lost)
	}
}

// FuzzNotice: what a member says of a tunnel is a notice of the tunnel, a word of lost
// keys, or nothing; never two of them.
func FuzzNotice(f *testing.F) {
	key := vectorKey()
	f.Add(sealNotice(key, 0x01020304, noticeDelete, 7, 0))
	f.Add(encodeLost(0x01020304))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		spi, lost := parseLost(b)
		_, _, _, ok := openNotice(key, b)
		switch {
		case lost && ok:
			t.Error("both")
		case lost && !bytes.Equal(encodeLost(spi), b):
			t.Errorf("%x is another form of the word that SPI %#x is lost", b, spi)
		case ok != (len(b) == noticeSize) && ok:
			t.Error("a notice of another length")
		}
	})
}
