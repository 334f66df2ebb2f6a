package keyex

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// The domains of the two signatures.
const (
	domainInitiator = "icvpn/1 ke initiator"
	domainResponder = "icvpn/1 ke responder"
)

// Tags of the running hash. The signature of a message has the message's tag
// plus 0x10.
const (
	tagM1   = 0x01
	tagM2   = 0x02
	tagM3   = 0x03
	tagM4   = 0x04
	tagSigA = 0x13
	tagSigB = 0x14
)

// startHash returns T0 = H("icvpn/1 ke" ‖ ServiceID ‖ u32 e).
func startHash(service id.ID, epoch uint32) hash {
	b := append(wire.Label("icvpn/1 ke"), service[:]...)
	return sha256.Sum256(binary.BigEndian.AppendUint32(b, epoch))
}

// addMessage returns H(h ‖ tag ‖ lp(msg)).
func addMessage(h hash, tag byte, msg []byte) hash {
	b := make([]byte, 0, len(h)+1+2+len(msg))
	b = append(append(b, h[:]...), tag)
	return sha256.Sum256(wire.AppendLP(b, msg))
}

// addSignature returns H(h ‖ tag ‖ sig).
func addSignature(h hash, tag byte, sig []byte) hash {
	b := append(append(make([]byte, 0, len(h)+1+len(sig)), h[:]...), tag)
	return sha256.Sum256(append(b, sig...))
}

// schedule derives everything from one finished exchange. It is wiped after
// the Result is made.
type schedule struct {
	secret []byte // S
	info   []byte // PID_A ‖ PID_B ‖ H_T
	total  hash   // H_T
}

// newSchedule returns S = HKDF-Extract(K_ke ‖ rk, DH_R), with K_ke =
// HKDF-Expand(K_e, "icvpn/1 ke psk" ‖ ServiceID ‖ u32 e). The salt is exactly
// one HMAC block, so no two (K_ke, rk) share a salt. It wipes dhR.
func newSchedule(service id.ID, epoch uint32, epochKey, rk *[32]byte, dhR []byte, pidA, pidB id.ID, total hash) *schedule {
	info := append(wire.Label("icvpn/1 ke psk"), service[:]...)
	info = binary.BigEndian.AppendUint32(info, epoch)
	psk := expand(epochKey[:], info, 32)
	salt := append(append(make([]byte, 0, 64), psk...), rk[:]...)
	secret, err := hkdf.Extract(sha256.New, dhR, salt)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	clear(psk)
	clear(salt)
	clear(dhR)
	suffix := append(append([]byte(nil), pidA[:]...), pidB[:]...)
	return &schedule{secret: secret, info: append(suffix, total[:]...), total: total}
}

// key returns K(label, n); nil for n = 0.
func (s *schedule) key(label string, n int) []byte {
	if n == 0 {
		return nil
	}
	return expand(s.secret, append(wire.Label("icvpn/1 "+label), s.info...), n)
}

// confirmation returns mac_B.
func (s *schedule) confirmation() []byte {
	k := s.key("confirm b", 32)
	defer clear(k)
	mac := hmac.New(sha256.New, k)
	mac.Write(s.total[:])
	return mac.Sum(nil)
}

// traffic returns the ESP keys of one direction, "ab" or "ba".
func (s *schedule) traffic(dir string, enc, integ, iv, salt int) Keys {
	return Keys{
		Enc:  s.key("esp "+dir+" enc", enc),
		Int:  s.key("esp "+dir+" int", integ),
		IV:   s.key("esp "+dir+" iv", iv),
		Salt: s.key("esp "+dir+" salt", salt),
	}
}

// fill derives the secrets of r, whose Initiator and Suite are set.
func (s *schedule) fill(r *Result, suiteKeys func(Suite) (int, int, int, int, bool)) {
	enc, integ, iv, salt, _ := suiteKeys(r.Suite)
	ab, ba := s.traffic("ab", enc, integ, iv, salt), s.traffic("ba", enc, integ, iv, salt)
	ctlAB, ctlBA := s.key("ctl ab", 32), s.key("ctl ba", 32)
	if r.Initiator {
		r.Out, r.In, r.CtlOut, r.CtlIn = ab, ba, [32]byte(ctlAB), [32]byte(ctlBA)
	} else {
		r.Out, r.In, r.CtlOut, r.CtlIn = ba, ab, [32]byte(ctlBA), [32]byte(ctlAB)
	}
	rekey := s.key("rekey", 32)
	r.Rekey = [32]byte(rekey)
	r.RekeyID = [8]byte(s.key("rekey id", 8))
	r.Transcript = s.total
	clear(ctlAB)
	clear(ctlBA)
	clear(rekey)
}

func (s *schedule) wipe() { clear(s.secret) }

func expand(prk, info []byte, n int) []byte {
	k, err := hkdf.Expand(sha256.New, prk, string(info), n)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	return k
}
