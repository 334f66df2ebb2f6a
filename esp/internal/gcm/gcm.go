package gcm

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"slices"

	"icvpn/esp/internal/lanes"
)

// Errors of the constructor.
var (
	ErrKernel = errors.New("gcm: this processor does not run the kernel")
	ErrKey    = errors.New("gcm: key has a wrong length")
)

// Kernel names a way to do AES-GCM.
type Kernel uint8

// Ways to do AES-GCM; None is never in Kernels.
const (
	None    Kernel = iota
	VAES           // 256-bit registers, two blocks in each
	VAES512        // AVX-512's, four blocks
)

// String returns the kernel's name as it stands in benchmarks.
func (k Kernel) String() string { return [...]string{"none", "vaes", "vaes512"}[k] }

// Kernels returns what this processor can do, best first.
func Kernels() (all []Kernel) {
	vaes, vaes512 := detect()
	if vaes512 {
		all = append(all, VAES512)
	}
	if vaes {
		all = append(all, VAES)
	}
	return all
}

// TagLen is the length of the tag behind a text.
const TagLen = 16

// maxText is what the 32-bit counter of blocks allows (SP 800-38D, Section 5.2.1.1).
const maxText = (1<<32 - 2) * 16

// How many powers of H: one more than a step has blocks, for the block of the
// lengths comes last.
const (
	maxPower     = 33
	maxPowerVAES = 17
)

// element is one of GF(2^128): its first bit is the highest of a little-endian
// number.
type element [16]byte

// GCM is one key with its salt. It is safe for concurrent use until Wipe.
type GCM struct {
	// Invariant: the assembly knows where these two are. Behind H there are
	// three zeros for loads of four powers. VAES needs H^17 and less; where the
	// greater would be, it has the sums of the two halves of each of those.
	powers [maxPower + 3]element // H^33 to H, each times x
	keys   [15][16]byte          // round keys

	rounds int
	kernel Kernel
	esn    bool
	salt   uint32
}

// New expands a key of 16 or 32 bytes for one of Kernels.
func New(kernel Kernel, key []byte, salt [4]byte, esn bool) (*GCM, error) {
	if !slices.Contains(Kernels(), kernel) {
		return nil, ErrKernel
	}
	if len(key) != 16 && len(key) != 32 {
		return nil, ErrKey
	}
	g := &GCM{kernel: kernel, esn: esn, salt: binary.BigEndian.Uint32(salt[:])}
	g.rounds = lanes.ExpandKey(&g.keys, key)
	g.raise()
	return g, nil
}

// raise makes the powers of H. A product of reversed elements is one place too
// low; having H times x once makes up for it, in every power, too.
func (g *GCM) raise() {
	var zero [16]byte
	encryptBlock(&g.keys, g.rounds, &zero)
	hi, lo := binary.BigEndian.Uint64(zero[:]), binary.BigEndian.Uint64(zero[8:])
	clear(zero[:])

	carry := -(hi >> 63)
	hi = hi<<1 | lo>>63
	lo <<= 1
	h := &g.powers[maxPower-1]
	binary.LittleEndian.PutUint64(h[:8], lo^carry&1)
	binary.LittleEndian.PutUint64(h[8:], hi^carry&0xc200000000000000)
	if g.kernel == VAES512 {
		for i := maxPower - 2; i >= 0; i-- {
			multiply(&g.powers[i], &g.powers[i+1], h)
		}
		return
	}
	const first = maxPower - maxPowerVAES
	for i := maxPower - 2; i >= first; i-- {
		multiplyVAES(&g.powers[i], &g.powers[i+1], h)
	}
	for i, p := range g.powers[first:maxPower] {
		half := binary.LittleEndian.Uint64(p[:8]) ^ binary.LittleEndian.Uint64(p[8:])
		binary.LittleEndian.PutUint64(g.powers[i/2][i%2*8:], half)
	}
}

// Wipe clears the key. The GCM is of no use afterwards.
func (g *GCM) Wipe() {
	clear(g.powers[:])
	clear(g.keys[:])
	g.salt = 0
}

// Seal encrypts all of data but its last TagLen bytes in place, and writes the
// tag there. Of seq only the low half counts without ESN.
//
// Everything but the data passes in registers: the kernels need it at once, and
// a load waits for the smaller stores that it spans.
func (g *GCM) Seal(iv uint64, spi uint32, seq uint64, data []byte) {
	n := textLen(data)
	aadHi, aadLo, aadBits := g.aad(spi, seq)
	nonceHi, nonceLo := uint64(g.salt)<<32|iv>>32, iv<<32
	switch {
	case g.kernel == VAES512 && g.rounds == 10:
		seal128(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	case g.kernel == VAES512:
		seal256(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	case g.rounds == 10:
		sealVAES128(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	default:
		sealVAES256(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	}
}

// Open is the reverse. Of data that are not authentic it clears the text and
// returns false.
func (g *GCM) Open(iv uint64, spi uint32, seq uint64, data []byte) bool {
	n := textLen(data)
	aadHi, aadLo, aadBits := g.aad(spi, seq)
	nonceHi, nonceLo := uint64(g.salt)<<32|iv>>32, iv<<32
	var lo, hi uint64
	switch {
	case g.kernel == VAES512 && g.rounds == 10:
		lo, hi = open128(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	case g.kernel == VAES512:
		lo, hi = open256(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	case g.rounds == 10:
		lo, hi = openVAES128(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	default:
		lo, hi = openVAES256(g, &data[0], n, nonceHi, nonceLo, aadHi, aadLo, aadBits)
	}
	lo ^= binary.LittleEndian.Uint64(data[n:])
	hi ^= binary.LittleEndian.Uint64(data[n+8:])
	diff := lo | hi
	if subtle.ConstantTimeEq(int32(uint32(diff)|uint32(diff>>32)), 0) != 1 {
		clear(data[:n])
		return false
	}
	return true
}

func textLen(data []byte) int {
	if len(data) < TagLen || uint64(len(data)-TagLen) > maxText {
		panic("gcm: internal error: no room for the tag, or too long")
	}
	return len(data) - TagLen
}

// aad returns the associated data as a big-endian number, and their length.
func (g *GCM) aad(spi uint32, seq uint64) (hi, lo, bits uint64) {
	if g.esn {
		return uint64(spi)<<32 | seq>>32, seq << 32, 96
	}
	return uint64(spi)<<32 | seq&0xffffffff, 0, 64
}
