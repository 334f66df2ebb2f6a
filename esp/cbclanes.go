package esp

import (
	"crypto/hmac"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"slices"
	"sync"

	"icvpn/esp/internal/lanes"
)

// cbcLanes is cbcHMAC over many packets at once: chains of CBC and of the hash
// do not wait for themselves while those of other packets can go on.
type cbcLanes struct {
	cbc    *lanes.CBC
	ivKey  *lanes.CBC
	mac    laneMAC
	icvLen int
	esn    bool

	// few is the MAC of a handful of packets: kernels of 4 lanes and more take as
	// long for one packet as for all. nil where the kernel is good for one, too.
	few hash.Hash

	*laneScratch // of the batch under way, nil in between
}

// laneScratch is the working space for one group of a batch.
type laneScratch struct {
	order    [sorted]uint64 // of the batch, or of a part of it
	packets  [group]*Packet
	bodies   [group][]byte // IV and ciphertext
	messages [group]lanes.Message
	ivs      [group * cbcBlock]byte
	sum      [64]byte
	hash     lanes.Scratch
}

// laneScratches lends working space to all SAs, so that an idle one costs its
// keys only.
var laneScratches freeList[laneScratch]

// freeList is a plain list and no sync.Pool, which may forget at any time, so
// that a batch would allocate. It holds as many as were ever in use at once: one
// for each goroutine that seals or opens.
type freeList[T any] struct {
	mu   sync.Mutex // guards free
	free []*T
}

func (l *freeList[T]) get() *T {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.free)
	if n == 0 {
		return new(T)
	}
	t := l.free[n-1]
	l.free[n-1] = nil
	l.free = l.free[:n-1]
	return t
}

func (l *freeList[T]) put(t *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, t)
}

// group is how many packets are worked on together: a multiple of every kernel's
// lanes, and little enough that full packets stay in a level 1 cache of 32 KiB
// between encryption and MAC.
const group = 16

// sorted is how many packets of a batch are put into order together.
const sorted = 128

// fewest is how many packets a kernel without SHA-NI must have to beat one stream.
const fewest = 3

// laneMAC is lanes.HMAC of either size.
type laneMAC interface {
	Sum(space *lanes.Scratch, messages []lanes.Message)
	Wipe()
}

func newCBCLanes(k *Keys, mac laneMAC, kernel lanes.SHA, newHash func() hash.Hash, icvLen int, esn bool) (transform, error) {
	cbc, err := lanes.NewCBC(chosen.aes, k.Enc)
	if err != nil {
		return nil, err
	}
	ivKey, err := lanes.NewCBC(chosen.aes, k.IV)
	if err != nil {
		return nil, err
	}
	t := &cbcLanes{cbc: cbc, ivKey: ivKey, mac: mac, icvLen: icvLen, esn: esn}
	if kernel == lanes.SHAAVX2 || kernel == lanes.SHAAVX512 {
		t.few = hmac.New(newHash, k.Int)
	}
	return t, nil
}

func (t *cbcLanes) seal(batch []Packet) {
	t.laneScratch = laneScratches.get()
	defer t.giveBack()
	t.inGroups(batch, (*cbcLanes).sealGroup)
}

func (t *cbcLanes) sealGroup(n int) {
	t.makeIVs(n)
	t.cbc.Encrypt(t.bodies[:n])
	t.sums(n)
	for i, p := range t.packets[:n] {
		pkt := p.Bytes()
		copy(pkt[len(pkt)-t.icvLen:], t.messages[i].Sum[:])
	}
}

func (t *cbcLanes) open(batch []Packet) {
	t.laneScratch = laneScratches.get()
	defer t.giveBack()
	t.inGroups(batch, (*cbcLanes).openGroup)
}

// openGroup authenticates a group before it decrypts any of it.
func (t *cbcLanes) openGroup(n int) {
	t.sums(n)
	for i, p := range t.packets[:n] {
		pkt := p.Bytes()
		if !sameICV(pkt[len(pkt)-t.icvLen:], t.messages[i].Sum[:t.icvLen]) {
			p.Drop = DropAuth
		}
	}
	for i, p := range t.packets[:n] {
		if p.Drop == DropNone {
			t.cbc.Decrypt(t.bodies[i])
		}
	}
}

// inGroups has work done on all packets that are not dropped, group by group.
func (t *cbcLanes) inGroups(batch []Packet, work func(t *cbcLanes, n int)) {
	for len(batch) > 0 {
		part := batch[:min(len(batch), sorted)]
		batch = batch[len(part):]
		order := t.byLength(part)
		for len(order) > 0 {
			n := min(len(order), group)
			t.gather(part, order[:n])
			order = order[n:]
			work(t, n)
			t.forget(n)
		}
	}
}

// byLength returns which packets of part are not dropped, the longest first:
// lanes of about one length do not wait for each other. An element is the packet's
// index below what its length lacks to 4 GiB.
func (t *cbcLanes) byLength(part []Packet) (order []uint64) {
	n, last, inOrder := 0, uint64(0), true
	for i := range part {
		p := &part[i]
		if p.Drop != DropNone {
			continue
		}
		at := uint64(^uint32(p.Len))<<32 | uint64(i)
		t.order[n] = at
		n++
		inOrder = inOrder && last <= at
		last = at
	}
	if !inOrder {
		slices.Sort(t.order[:n])
	}
	return t.order[:n]
}

// sameICV is subtle.ConstantTimeCompare, in words as long as there are any.
func sameICV(a, b []byte) bool {
	var differ uint64
	for ; len(a) >= 8 && len(b) >= 8; a, b = a[8:], b[8:] {
		differ |= binary.LittleEndian.Uint64(a) ^ binary.LittleEndian.Uint64(b)
	}
	words := subtle.ConstantTimeEq(int32(uint32(differ)|uint32(differ>>32)), 0)
	return words&subtle.ConstantTimeCompare(a, b) == 1
}

// gather takes the packets of a group.
func (t *cbcLanes) gather(part []Packet, group []uint64) {
	for n, at := range group {
		p := &part[uint32(at)]
		pkt := p.Bytes()
		t.packets[n] = p
		t.bodies[n] = pkt[headerLen : len(pkt)-t.icvLen]
		m := &t.messages[n]
		m.Data = pkt[:len(pkt)-t.icvLen]
		// The high bits follow what is on the wire (RFC 4303, Section 2.2.1).
		m.SuffixLen = 0
		if t.esn {
			binary.BigEndian.PutUint32(m.Suffix[:], uint32(p.Seq>>32))
			m.SuffixLen = len(m.Suffix)
		}
	}
}

func (t *cbcLanes) giveBack() {
	laneScratches.put(t.laneScratch)
	t.laneScratch = nil
}

// forget lets go of the batch's buffers.
func (t *cbcLanes) forget(n int) {
	for i := range n {
		t.packets[i], t.bodies[i], t.messages[i].Data = nil, nil, nil
	}
}

// makeIVs writes what cbcHMAC.makeIV does.
func (t *cbcLanes) makeIVs(n int) {
	for i, p := range t.packets[:n] {
		binary.BigEndian.PutUint64(t.ivs[i*cbcBlock:], 0)
		binary.BigEndian.PutUint64(t.ivs[i*cbcBlock+8:], p.Seq)
	}
	t.ivKey.EncryptBlocks(t.ivs[:n*cbcBlock])
	for i, body := range t.bodies[:n] {
		*(*[cbcBlock]byte)(body) = [cbcBlock]byte(t.ivs[i*cbcBlock:])
	}
}

func (t *cbcLanes) sums(n int) {
	if t.few == nil || n >= fewest {
		t.mac.Sum(&t.hash, t.messages[:n])
		return
	}
	for i := range n {
		m := &t.messages[i]
		t.few.Reset()
		t.few.Write(m.Data)
		t.few.Write(m.Suffix[:m.SuffixLen])
		copy(m.Sum[:], t.few.Sum(t.sum[:0]))
	}
}

func (t *cbcLanes) wipe() {
	t.cbc.Wipe()
	t.ivKey.Wipe()
	t.mac.Wipe()
	t.few = nil
}
