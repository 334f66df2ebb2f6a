package esp

import (
	"encoding/binary"

	"icvpn/esp/internal/gcm"
)

// gcmKernel is AES-GCM by package gcm; combined has the format.
type gcmKernel struct {
	gcm *gcm.GCM
	esn bool
}

func newGCMKernel(k *Keys, esn bool) (transform, error) {
	g, err := gcm.New(chosen.gcm, k.Enc, [aeadSalt]byte(k.Salt))
	if err != nil {
		return nil, err
	}
	return &gcmKernel{gcm: g, esn: esn}, nil
}

func (t *gcmKernel) seal(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		binary.BigEndian.PutUint64(pkt[headerLen:], p.Seq)
		h := t.header(pkt, p.Seq, p.Seq)
		t.gcm.Seal(&h, pkt[headerLen+aeadIV:])
	}
}

func (t *gcmKernel) encrypt(pkt []byte, seq uint64) {
	h := t.header(pkt, binary.BigEndian.Uint64(pkt[headerLen:]), seq)
	t.gcm.Seal(&h, pkt[headerLen+aeadIV:])
}

func (t *gcmKernel) open(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		h := t.header(pkt, binary.BigEndian.Uint64(pkt[headerLen:]), p.Seq)
		if !t.gcm.Open(&h, pkt[headerLen+aeadIV:]) {
			p.Drop = DropAuth
		}
	}
}

func (t *gcmKernel) header(pkt []byte, iv, seq uint64) gcm.Header {
	return gcm.Header{IV: iv, SPI: binary.BigEndian.Uint32(pkt), Seq: seq, ESN: t.esn}
}

func (t *gcmKernel) wipe() { t.gcm.Wipe() }
