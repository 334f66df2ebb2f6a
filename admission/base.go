package admission

import (
	"math/bits"

	"filippo.io/bigmod"
)

// fixedBase raises one base to many exponents of at most exponentSize bytes: with
// base^(16^i * d) kept for every place i and digit d, a power is one
// multiplication for each digit and no squaring, which is 2.5 times as fast as
// bigmod's Exp. It serves g, and v where a service has tables for all of its
// verifiers: one that is missing would tell which secret IDs exist.
//
// Time and addresses read do not depend on the exponent: every digit, zero too,
// reads all of its place's entries and multiplies once.
type fixedBase struct {
	limbs int
	table []uint // [place][digit][limb], 16 digits; 256 KiB for 2048 bits
}

const (
	digits = 1 << 4
	places = exponentSize * 8 / 4
)

func newFixedBase(base *bigmod.Nat, n *bigmod.Modulus) *fixedBase {
	one := make([]byte, n.Size())
	one[len(one)-1] = 1
	power, err := bigmod.NewNat().SetBytes(one, n)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	f := &fixedBase{limbs: len(power.Bits())}
	f.table = make([]uint, 0, places*digits*f.limbs)
	step := bigmod.NewNat().ExpandFor(n).Add(base, n) // base^(16^i)
	for range places {
		p := bigmod.NewNat().ExpandFor(n).Add(power, n) // step^0
		for range digits {
			f.table = append(f.table, p.Bits()...)
			p.Mul(step, n)
		}
		step = p // step^16
	}
	return f
}

// power returns base^e.
func (f *fixedBase) power(e []byte, n *bigmod.Modulus) *bigmod.Nat {
	if len(e) > exponentSize {
		panic("admission: internal error: exponent too long for its table")
	}
	out, factor := bigmod.NewNat().ExpandFor(n), bigmod.NewNat().ExpandFor(n)
	defer wipeNat(factor)
	copy(out.Bits(), f.table) // base^0
	for i := range 2 * len(e) {
		digit := e[len(e)-1-i/2] >> (4 * (i % 2)) & (digits - 1)
		f.pick(factor.Bits(), i, uint(digit))
		out.Mul(factor, n)
	}
	return out
}

// pick copies base^(digit * 16^place) to out.
func (f *fixedBase) pick(out []uint, place int, digit uint) {
	clear(out)
	entries := f.table[place*digits*f.limbs:][:digits*f.limbs]
	for d := range uint(digits) {
		// All ones if d is the digit: the difference is below 16, so one less than
		// it has its top bit set only for zero.
		mask := -(((d ^ digit) - 1) >> (bits.UintSize - 1))
		for j, limb := range entries[int(d)*f.limbs:][:f.limbs] {
			out[j] |= limb & mask
		}
	}
}
