package esp

import (
	"encoding/binary"

	"icvpn/esp/internal/gcm"
)

// gcmKernel is AES-GCM by package gcm; combined has the format.
type gcmKernel struct{ gcm *gcm.GCM }

func newGCMKernel(k *Keys, esn bool) (transform, error) {
	g, err := gcm.New(chosen.gcm, k.Enc, [aeadSalt]byte(k.Salt), esn)
	if err != nil {
		return nil, err
	}
	return &gcmKernel{gcm: g}, nil
}

func (t *gcmKernel) seal(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		binary.BigEndian.PutUint64(pkt[headerLen:], p.Seq)
		t.encrypt(pkt, p.Seq)
	}
}

// encrypt takes the IV from the packet, as open does.
func (t *gcmKernel) encrypt(pkt []byte, seq uint64) {
	iv := binary.BigEndian.Uint64(pkt[headerLen:])
	t.gcm.Seal(iv, binary.BigEndian.Uint32(pkt), seq, pkt[headerLen+aeadIV:])
}

func (t *gcmKernel) open(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		pkt := p.Bytes()
		iv := binary.BigEndian.Uint64(pkt[headerLen:])
		if !t.gcm.Open(iv, binary.BigEndian.Uint32(pkt), p.Seq, pkt[headerLen+aeadIV:]) {
			p.Drop = DropAuth
		}
	}
}

func (t *gcmKernel) wipe() { t.gcm.Wipe() }
