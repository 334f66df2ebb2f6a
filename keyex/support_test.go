package keyex

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
)

type edPub = ed25519.PublicKey

// flip returns b with one bit of byte i turned.
func flip(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 0x01
	return c
}

func newTestRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// seedRand returns a new reproducible source drawn from r.
func seedRand(r *rand.Rand) io.Reader {
	var seed [32]byte
	for i := 0; i < 32; i += 8 {
		binary.BigEndian.PutUint64(seed[i:], r.Uint64())
	}
	return rand.NewChaCha8(seed)
}

var errOneWay = errors.New("one way only")
