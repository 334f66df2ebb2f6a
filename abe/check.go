package abe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// Why this file: circl v1.6.5 parses lengths safely, but it believes the
// matrix dimensions in what it parses, and its arithmetic panics when they do
// not conform (matrixG1.add, pairAccum.addDuals, both before the MAC is
// checked); a count of 65535 also makes it allocate half a megabyte on the
// word of two bytes. All shapes are known beforehand: those of parameters are
// constant, those of a key follow from its attributes, those of a ciphertext
// from its policy. So the bytes are walked first and every length, count and
// dimension must be the expected one. With that, no input reaches a panic, and
// recover is not needed.

var (
	errParams     = errors.New("abe: malformed public parameters")
	errKey        = errors.New("abe: malformed key")
	errCiphertext = errors.New("abe: malformed ciphertext")
)

// A walker reads tkn20's little-endian encoding. After the first thing that is
// not as expected, bad is set and every further read yields nothing.
type walker struct {
	rest []byte
	bad  bool
}

func (w *walker) take(n int) []byte {
	if w.bad || n < 0 || n > len(w.rest) {
		w.bad = true
		return nil
	}
	b := w.rest[:n]
	w.rest = w.rest[n:]
	return b
}

func (w *walker) u16() int {
	if b := w.take(2); b != nil {
		return int(binary.LittleEndian.Uint16(b))
	}
	return -1
}

func (w *walker) u32() int {
	if b := w.take(4); b != nil {
		return int(int32(binary.LittleEndian.Uint32(b))) // negative: take refuses
	}
	return -1
}

// want consumes exactly b.
func (w *walker) want(b []byte) {
	if !bytes.Equal(w.take(len(b)), b) {
		w.bad = true
	}
}

func (w *walker) wantU16(n int) {
	if w.u16() != n {
		w.bad = true
	}
}

// field enters a field with a length of 16 bits before it.
func (w *walker) field() walker {
	b := w.take(w.u16())
	return walker{b, w.bad}
}

// longField enters a field with a length of 32 bits before it.
func (w *walker) longField() walker {
	b := w.take(w.u32())
	return walker{b, w.bad}
}

// skip consumes a field of exactly n bytes.
func (w *walker) skip(n int) {
	w.wantU16(n)
	w.take(n)
}

// matrix consumes a field that holds a matrix of points of the given size.
func (w *walker) matrix(rows, cols, size int) {
	w.wantU16(4 + rows*cols*size)
	w.wantU16(rows)
	w.wantU16(cols)
	w.take(rows * cols * size)
}

// end says whether everything was as expected and nothing is left.
func (w *walker) end() bool { return !w.bad && len(w.rest) == 0 }

// leave marks w bad unless inner ended well.
func (w *walker) leave(inner *walker) {
	if !inner.end() {
		w.bad = true
	}
}

// checkParams walks the public parameters: [B]2, [WB]1, [B^T k]T.
func checkParams(b []byte) error {
	w := walker{rest: b}
	w.matrix(4, 2, g2Size)
	w.matrix(3, 2, g1Size)
	w.matrix(2, 1, gtSize)
	if !w.end() {
		return errParams
	}
	return nil
}

// checkKey walks an attribute key that must be for exactly labels (tkn20's, as
// a set) and must have one wildcard, the internal one.
func checkKey(b []byte, labels map[string]string) error {
	names := slices.Sorted(maps.Keys(labels))
	at, _ := slices.BinarySearch(names, tknInternalLabel)
	names = slices.Insert(names, at, tknInternalLabel)

	w := walker{rest: b}
	attrs := w.field()
	attrs.wantU16(len(names))
	for _, name := range names {
		attrs.wantU16(len(name))
		attrs.want([]byte(name))
		wild := byte(0)
		if name == tknInternalLabel {
			wild = 1
		}
		attrs.want([]byte{wild})
		attrs.take(scalarSize)
	}
	w.leave(&attrs)
	w.matrix(3, 1, g2Size)
	w.matrix(4, 1, g1Size)
	w.wantU16(len(names))
	for _, name := range names {
		w.wantU16(len(name))
		w.want([]byte(name))
		w.matrix(4, 1, g1Size)
	}
	w.wantU16(1)
	w.wantU16(len(tknInternalLabel))
	w.want([]byte(tknInternalLabel))
	w.matrix(4, 1, g1Size)
	if !w.end() {
		return errKey
	}
	return nil
}

// checkCiphertext walks a ciphertext of a 32-byte secret to a policy of shape
// s. That the policy in it is the expected one is circl's to compare.
func checkCiphertext(b []byte, s shape) error {
	w := walker{rest: b}
	w.want([]byte(tknVersion)) // no ciphertexts of before v1.3.8
	w.skip(blakeIDSize)
	body := w.longField()
	w.skip(tknTagSize)
	header := body.longField()
	env := body.longField()
	env.take(tknSeedSize + SecretSize)
	body.leave(&env)
	checkHeader(&header, s)
	body.leave(&header)
	w.leave(&body)
	if !w.end() {
		return errCiphertext
	}
	return nil
}

// blakeIDSize is the length of the Boneh-Katz identity, a BLAKE2b-256 hash.
const blakeIDSize = 32

func checkHeader(w *walker, s shape) {
	policy := w.field()
	checkTknPolicy(&policy, s)
	w.leave(&policy)
	w.matrix(4, 1, g2Size)
	w.wantU16(s.repeats) // the internal label stands there once, so never more
	for range s.repeats {
		w.matrix(4, 1, g2Size)
	}
	w.wantU16(s.conditions + 1) // and the internal one
	for range s.conditions + 1 {
		w.matrix(3, 1, g1Size)
	}
	for range s.conditions + 1 {
		w.wantU16(0) // nothing for negation: no policy of ours has it
	}
}

func checkTknPolicy(w *walker, s shape) {
	gates := s.conditions - 1
	formula := w.field()
	formula.wantU16(gates)
	formula.take(7 * gates)
	w.leave(&formula)
	w.wantU16(s.conditions)
	for range s.conditions {
		cond := w.field()
		label, value := cond.field(), cond.field()
		cond.bad = cond.bad || label.bad || value.bad
		cond.skip(scalarSize)
		cond.want([]byte{1}) // positive
		w.leave(&cond)
	}
}
