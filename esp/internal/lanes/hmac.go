package lanes

import (
	"encoding/binary"
	"slices"
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
// states after its padded key blocks (RFC 2104). It is safe for concurrent use,
// with a Scratch for each user, until Wipe.
type HMAC[W uint32 | uint64] struct {
	kernels      []shaKernel[W] // narrowest first
	digest       func(block *[128]byte, state *[8]W)
	blockLen     int  // 64 or 128 bytes
	shift        uint // its logarithm
	inner, outer [8]W
}

// Scratch is what any HMAC needs during a Sum; apart, so that an idle key costs
// its states only. The zero value is ready. It keeps no key: what stays in it is
// MACs.
type Scratch struct {
	sha256 scratch[uint32]
	sha512 scratch[uint64]
}

type scratch[W uint32 | uint64] struct {
	lanes [maxLanes]lane[W]
	jobs  [maxLanes]job[W]
	order [maxLanes]*job[W] // all jobs, busy ones first
}

// scratch returns the half of s that is for HMACs of that size.
func (h *HMAC[W]) scratch(s *Scratch) *scratch[W] {
	half, ok := any(&s.sha256).(*scratch[W])
	if !ok {
		half = any(&s.sha512).(*scratch[W])
	}
	if half.order[0] == nil {
		for i := range half.jobs {
			j := &half.jobs[i]
			half.order[i] = j
			n := h.blockLen / 2 // of a digest
			h.end(j.outer[:h.blockLen], n, n)
		}
	}
	return half
}

// shaKernel runs blocks of 16 words of width lanes through their states.
type shaKernel[W uint32 | uint64] struct {
	run   func(lanes *[maxLanes]lane[W], blocks int)
	width int
}

// job is a message on its way through a lane.
type job[W uint32 | uint64] struct {
	msg   *Message
	phase phase
	state [8]W
	rest  []byte    // what of this phase is not yet hashed:
	count int       // so many whole blocks
	tail  [256]byte // Data's rest, suffix, padding: up to two blocks, of SHA-512
	outer [128]byte // inner digest and padding, which stays
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
	h := newHMAC(sha256Kernels(kernel), digest256, 6)
	return h, h.setKey(key, &[8]uint32{
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	})
}

// NewHMACSHA512 takes a key of up to 128 bytes and one of SHA512Kernels.
func NewHMACSHA512(kernel SHA, key []byte) (*HMAC[uint64], error) {
	if !slices.Contains(SHA512Kernels(), kernel) {
		return nil, ErrKernel
	}
	h := newHMAC(sha512Kernels(kernel), digest512, 7)
	return h, h.setKey(key, &[8]uint64{
		0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
		0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
	})
}

func newHMAC[W uint32 | uint64](kernels []shaKernel[W], digest func(*[128]byte, *[8]W), shift uint) *HMAC[W] {
	return &HMAC[W]{kernels: kernels, digest: digest, shift: shift, blockLen: 1 << shift}
}

// setKey hashes the two padded keys, from the initial value of FIPS 180-4,
// Section 5.3.
func (h *HMAC[W]) setKey(key []byte, initial *[8]W) error {
	if len(key) > h.blockLen {
		return ErrKey
	}
	s := h.scratch(new(Scratch))
	for i, pad := range [2]byte{0x36, 0x5c} {
		j := s.order[i]
		j.state, j.rest, j.count = *initial, j.tail[:h.blockLen], 1
		copy(j.rest, key)
		for k := range j.rest {
			j.rest[k] ^= pad
		}
	}
	h.step(s, 2)
	h.inner, h.outer = s.order[0].state, s.order[1].state
	clear(s.jobs[:])
	return nil
}

// Wipe clears the key. The HMAC is of no use afterwards.
func (h *HMAC[W]) Wipe() {
	clear(h.inner[:])
	clear(h.outer[:])
}

// Sum fills in every message's Sum.
func (h *HMAC[W]) Sum(space *Scratch, messages []Message) {
	s := h.scratch(space)
	width := h.kernels[len(h.kernels)-1].width
	for len(messages) > 0 {
		n := min(width, len(messages))
		if !alike(messages[:n]) {
			break
		}
		h.sumAlike(s, messages[:n])
		messages = messages[n:]
	}
	h.sumAny(s, messages)
	clear(s.lanes[:])
}

// alike says whether messages, at least one, have one length.
func alike(messages []Message) bool {
	first := &messages[0]
	for i := range messages {
		if m := &messages[i]; len(m.Data) != len(first.Data) || m.SuffixLen != first.SuffixLen {
			return false
		}
	}
	return true
}

// sumAlike is for messages of one length, one for each lane and at least one:
// they go through all phases together.
func (h *HMAC[W]) sumAlike(s *scratch[W], messages []Message) {
	kernel := h.kernelFor(len(messages))
	jobs := s.jobs[:len(messages)]
	blocks := len(messages[0].Data) >> h.shift
	for i := range jobs {
		jobs[i].state = h.inner
	}
	if blocks > 0 {
		for i := range jobs {
			s.lanes[i] = lane[W]{&jobs[i].state, &messages[i].Data[0]}
		}
		s.run(kernel, len(jobs), blocks)
	}
	for i := range jobs {
		j := &jobs[i]
		blocks = h.fillTail(j, &messages[i])
		s.lanes[i] = lane[W]{&j.state, &j.tail[0]}
	}
	s.run(kernel, len(jobs), blocks)
	for i := range jobs {
		j := &jobs[i]
		h.digest(&j.outer, &j.state)
		j.state = h.outer
		s.lanes[i].data = &j.outer[0]
	}
	s.run(kernel, len(jobs), 1)
	for i := range jobs {
		j := &jobs[i]
		h.digest(&j.outer, &j.state)
		messages[i].Sum = [SumLen]byte(j.outer[:])
	}
}

// run has the kernel work on the first busy lanes.
func (s *scratch[W]) run(kernel *shaKernel[W], busy, blocks int) {
	for i := busy; i < kernel.width; i++ {
		s.lanes[i] = s.lanes[0] // same loads, then same stores
	}
	kernel.run(&s.lanes, blocks)
}

// kernelFor returns the narrowest kernel for so many lanes.
func (h *HMAC[W]) kernelFor(busy int) *shaKernel[W] {
	i := 0
	for busy > h.kernels[i].width {
		i++
	}
	return &h.kernels[i]
}

// sumAny is for messages of any lengths: a lane that is done with one goes on to
// the next.
func (h *HMAC[W]) sumAny(s *scratch[W], messages []Message) {
	width := h.kernels[len(h.kernels)-1].width
	for busy := 0; ; {
		for busy < width && len(messages) > 0 {
			h.start(s.order[busy], &messages[0])
			messages = messages[1:]
			busy++
		}
		if busy == 0 {
			return
		}
		h.step(s, busy)
		for i := busy - 1; i >= 0; i-- {
			j := s.order[i]
			if j.count > 0 {
				continue
			}
			if h.next(j); j.phase == phaseDone {
				j.msg, j.rest = nil, nil
				busy--
				s.order[i], s.order[busy] = s.order[busy], j
			}
		}
	}
}

// step advances all busy lanes until the first is at the end of its blocks.
func (h *HMAC[W]) step(s *scratch[W], busy int) {
	jobs := s.order[:busy]
	blocks := jobs[0].count
	for i, j := range jobs {
		blocks = min(blocks, j.count)
		s.lanes[i] = lane[W]{&j.state, &j.rest[0]}
	}
	s.run(h.kernelFor(busy), busy, blocks)
	for _, j := range jobs {
		if j.count -= blocks; j.count > 0 {
			j.rest = j.rest[blocks<<h.shift:]
		}
	}
}

// start begins with a message.
func (h *HMAC[W]) start(j *job[W], m *Message) {
	j.msg, j.phase, j.state = m, phaseData, h.inner
	j.rest, j.count = m.Data, len(m.Data)>>h.shift
	if j.count == 0 {
		h.next(j)
	}
}

// next goes on to the job's next phase.
func (h *HMAC[W]) next(j *job[W]) {
	j.phase++
	switch j.phase {
	case phaseTail:
		j.count = h.fillTail(j, j.msg)
		j.rest = j.tail[:]
	case phaseOuter:
		h.digest(&j.outer, &j.state)
		j.state = h.outer
		j.rest, j.count = j.outer[:], 1
	case phaseDone:
		h.digest(&j.outer, &j.state)
		j.msg.Sum = [SumLen]byte(j.outer[:])
	}
}

// fillTail writes the last blocks of a message: what is behind its whole blocks,
// suffix and padding (FIPS 180-4, Section 5.1). It returns how many they are.
func (h *HMAC[W]) fillTail(j *job[W], m *Message) (count int) {
	rest := m.Data[len(m.Data)&^(h.blockLen-1):]
	n := len(rest) + m.SuffixLen
	count = 1
	if n+1+h.blockLen/8 > h.blockLen { // no room for the length
		count = 2
	}
	end := count << h.shift
	if end == 64 {
		*(*[64]byte)(j.tail[:]) = [64]byte{}
	} else {
		clear(j.tail[:end])
	}
	copy(j.tail[:], rest)
	copy(j.tail[len(rest):], m.Suffix[:m.SuffixLen])
	h.end(j.tail[:end], n, len(m.Data)+m.SuffixLen)
	return count
}

// end ends blocks with n bytes of message: the key's block and total bytes are
// hashed.
func (h *HMAC[W]) end(blocks []byte, n, total int) {
	blocks[n] = 0x80
	binary.BigEndian.PutUint64(blocks[len(blocks)-8:], 8*uint64(h.blockLen+total))
}
