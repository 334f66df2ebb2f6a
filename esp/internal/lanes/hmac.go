package lanes

import (
	"encoding/binary"
	"slices"
	"sync"
)

// SumLen is how much of a MAC is given out: the left half of HMAC-SHA-512, all
// of HMAC-SHA-256. ESP truncates to at most as much (RFC 4868, Section 2.3).
const SumLen = 32

// Message is one message of a batch.
type Message struct {
	Data      []byte
	Suffix    [4]byte // authenticated after Data,
	SuffixLen int     // as many bytes of it
	Sum       [SumLen]byte
}

// HMAC is one key of HMAC-SHA-256 (W is uint32) or HMAC-SHA-512 (uint64), as the
// states after its padded key blocks (RFC 2104). It is safe for concurrent use
// until Wipe.
type HMAC[W uint32 | uint64] struct {
	kernels      []shaKernel[W] // narrowest first
	scratch      *sync.Pool     // of *scratch[W]
	word         int            // bytes
	inner, outer [8]W
}

// shaKernel runs blocks of 16 words of width lanes through their states.
type shaKernel[W uint32 | uint64] struct {
	run   func(lanes *[8]lane[W], blocks int)
	width int
}

// Scratch is not part of an HMAC: an idle key costs its states only.
var (
	scratch256 = sync.Pool{New: func() any { return newScratch[uint32]() }}
	scratch512 = sync.Pool{New: func() any { return newScratch[uint64]() }}
)

// scratch is the state of one Sum.
type scratch[W uint32 | uint64] struct {
	lanes [8]lane[W]
	jobs  [8]*job[W] // busy ones first
}

func newScratch[W uint32 | uint64]() *scratch[W] {
	s, jobs := new(scratch[W]), new([8]job[W])
	for i := range jobs {
		s.jobs[i] = &jobs[i]
	}
	return s
}

// job is a message on its way through a lane.
type job[W uint32 | uint64] struct {
	msg   *Message
	phase phase
	state [8]W
	rest  []byte    // whole blocks of this phase not yet hashed
	tail  [256]byte // the blocks that are not Data's; two of SHA-512
}

// phase is what of HMAC(K, m) = H(K ^ opad ‖ H(K ^ ipad ‖ m)) a job is at.
type phase uint8

const (
	phaseData  phase = iota // whole blocks of Data
	phaseTail               // rest of Data, suffix, padding
	phaseOuter              // the inner digest, padding
	phaseDone
)

// NewHMACSHA256 takes a key of up to 64 bytes and one of SHA256Kernels.
func NewHMACSHA256(kernel SHA, key []byte) (*HMAC[uint32], error) {
	if !slices.Contains(SHA256Kernels(), kernel) {
		return nil, ErrKernel
	}
	h := &HMAC[uint32]{kernels: sha256Kernels(kernel), scratch: &scratch256, word: 4}
	return h, h.setKey(key, &[8]uint32{
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	})
}

// NewHMACSHA512 takes a key of up to 128 bytes and one of SHA512Kernels.
func NewHMACSHA512(kernel SHA, key []byte) (*HMAC[uint64], error) {
	if !slices.Contains(SHA512Kernels(), kernel) {
		return nil, ErrKernel
	}
	h := &HMAC[uint64]{kernels: sha512Kernels(kernel), scratch: &scratch512, word: 8}
	return h, h.setKey(key, &[8]uint64{
		0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
		0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
	})
}

func (h *HMAC[W]) blockLen() int { return 16 * h.word }

// setKey hashes the two padded keys, from the initial value of FIPS 180-4,
// Section 5.3.
func (h *HMAC[W]) setKey(key []byte, initial *[8]W) error {
	if len(key) > h.blockLen() {
		return ErrKey
	}
	s := newScratch[W]()
	for i, pad := range [2]byte{0x36, 0x5c} {
		j := s.jobs[i]
		j.state, j.rest = *initial, j.tail[:h.blockLen()]
		copy(j.rest, key)
		for k := range j.rest {
			j.rest[k] ^= pad
		}
	}
	h.step(s, 2)
	h.inner, h.outer = s.jobs[0].state, s.jobs[1].state
	*s.jobs[0], *s.jobs[1] = job[W]{}, job[W]{}
	return nil
}

// Wipe clears the key. The HMAC is of no use afterwards.
func (h *HMAC[W]) Wipe() {
	clear(h.inner[:])
	clear(h.outer[:])
}

// Sum fills in every message's Sum.
func (h *HMAC[W]) Sum(messages []Message) {
	s := h.scratch.Get().(*scratch[W])
	width := h.kernels[len(h.kernels)-1].width
	busy := 0
	for {
		for busy < width && len(messages) > 0 {
			h.start(s.jobs[busy], &messages[0])
			messages = messages[1:]
			busy++
		}
		if busy == 0 {
			break
		}
		h.step(s, busy)
		for i := busy - 1; i >= 0; i-- {
			j := s.jobs[i]
			if len(j.rest) > 0 {
				continue
			}
			if h.next(j); j.phase == phaseDone {
				j.msg, j.rest = nil, nil
				busy--
				s.jobs[i], s.jobs[busy] = s.jobs[busy], j
			}
		}
	}
	clear(s.lanes[:])
	h.scratch.Put(s)
}

// step advances all busy lanes until the first is at the end of its blocks.
func (h *HMAC[W]) step(s *scratch[W], busy int) {
	kernel := h.kernels[0]
	for _, k := range h.kernels[1:] {
		if busy > kernel.width {
			kernel = k
		}
	}
	blockLen := h.blockLen()
	blocks := len(s.jobs[0].rest) / blockLen
	for i := range busy {
		j := s.jobs[i]
		blocks = min(blocks, len(j.rest)/blockLen)
		s.lanes[i] = lane[W]{&j.state, &j.rest[0]}
	}
	for i := busy; i < kernel.width; i++ {
		s.lanes[i] = s.lanes[0] // same loads, then same stores
	}
	kernel.run(&s.lanes, blocks)
	for i := range busy {
		s.jobs[i].rest = s.jobs[i].rest[blocks*blockLen:]
	}
}

// start begins with a message.
func (h *HMAC[W]) start(j *job[W], m *Message) {
	j.msg, j.phase, j.state = m, phaseData, h.inner
	j.rest = m.Data[:len(m.Data)&^(h.blockLen()-1)]
	if len(j.rest) == 0 {
		h.next(j)
	}
}

// next goes on to the job's next phase.
func (h *HMAC[W]) next(j *job[W]) {
	j.phase++
	switch j.phase {
	case phaseTail:
		m := j.msg
		n := copy(j.tail[:], m.Data[len(m.Data)&^(h.blockLen()-1):])
		n += copy(j.tail[n:], m.Suffix[:m.SuffixLen])
		h.pad(j, n, len(m.Data)+m.SuffixLen)
	case phaseOuter:
		n := h.digest(j.tail[:], &j.state)
		j.state = h.outer
		h.pad(j, n, n)
	case phaseDone:
		var full [64]byte
		h.digest(full[:], &j.state)
		copy(j.msg.Sum[:], full[:])
	}
}

// pad ends a tail of n bytes, of total that follow the key's block, as FIPS
// 180-4, Section 5.1, wants.
func (h *HMAC[W]) pad(j *job[W], n, total int) {
	blockLen := h.blockLen()
	end := blockLen
	if n+1+2*h.word > blockLen {
		end = 2 * blockLen
	}
	j.rest = j.tail[:end]
	j.rest[n] = 0x80
	clear(j.rest[n+1:])
	binary.BigEndian.PutUint64(j.rest[end-8:], 8*uint64(blockLen+total))
}

// digest writes the state as bytes and returns how many.
func (h *HMAC[W]) digest(b []byte, state *[8]W) int {
	for i, w := range state {
		if h.word == 4 {
			binary.BigEndian.PutUint32(b[4*i:], uint32(w))
		} else {
			binary.BigEndian.PutUint64(b[8*i:], uint64(w))
		}
	}
	return 8 * h.word
}
