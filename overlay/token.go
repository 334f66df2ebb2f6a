package overlay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// proofs makes and checks the two things of which a peer shows that they came
// from us, without our keeping any of them:
//
//	write token  = HMAC(key, "token" ‖ ip 16 ‖ port ‖ u64 interval)[:8]   (BEP 5)
//	transaction  = counter ‖ HMAC(key, "tag" ‖ ip 16 ‖ port ‖ counter)[:8]
//
// The tag is there because the library counts its transaction IDs up from zero
// for the whole process: whoever guesses one could answer in another's name.
type proofs struct {
	key [sha256.Size]byte // never changed: random per process
}

func newProofs() *proofs {
	p := new(proofs)
	rand.Read(p.key[:]) // never fails (crypto/rand)
	return p
}

func (p *proofs) mac(label string, to netip.AddrPort, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write([]byte(label))
	ip := to.Addr().As16()
	h.Write(ip[:])
	h.Write(binary.BigEndian.AppendUint16(nil, to.Port()))
	for _, b := range parts {
		h.Write(b)
	}
	return h.Sum(nil)
}

// writeToken returns the token with which to may put within the next two
// intervals.
func (p *proofs) writeToken(now time.Time, to netip.AddrPort) []byte {
	return p.tokenOf(interval(now), to)
}

func (p *proofs) tokenOf(interval uint64, to netip.AddrPort) []byte {
	return p.mac("token", to, binary.BigEndian.AppendUint64(nil, interval))[:tokenSize]
}

func (p *proofs) checkToken(now time.Time, from netip.AddrPort, token []byte) bool {
	n := interval(now)
	return hmac.Equal(token, p.tokenOf(n, from)) || hmac.Equal(token, p.tokenOf(n-1, from))
}

func interval(now time.Time) uint64 { return uint64(now.UnixNano() / int64(writeTokenLife)) }

// tag appends to transaction ID t the proof that we asked to. It leaves t alone.
func (p *proofs) tag(to netip.AddrPort, t []byte) []byte {
	return append(t[:len(t):len(t)], p.mac("tag", to, t)[:tagSize]...)
}

// untag returns the transaction ID if a query to from carried it.
func (p *proofs) untag(from netip.AddrPort, tagged []byte) ([]byte, bool) {
	if len(tagged) <= tagSize {
		return nil, false
	}
	t, tag := tagged[:len(tagged)-tagSize], tagged[len(tagged)-tagSize:]
	return t, hmac.Equal(tag, p.mac("tag", from, t)[:tagSize])
}
