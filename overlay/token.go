package overlay

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
	"time"
)

// proofs makes and checks the two things of which a peer shows that they came
// from us, without our keeping any of them:
//
//	write token  = HMAC(key, "token" ‖ ip 16 ‖ port ‖ u64 interval)[:8]   (BEP 5)
//	transaction  = counter ‖ HMAC(key, "tag" ‖ ip 16 ‖ port ‖ counter)[:8]
//
// The tag is there because the counter can be guessed: whoever guesses one could
// answer in another's name.
type proofs struct {
	mac hash.Hash // keyed once: making one for each datagram would be the larger cost
	buf []byte    // what goes into mac, and what comes out
}

func newProofs(key [sha256.Size]byte) *proofs {
	return &proofs{mac: hmac.New(sha256.New, key[:]), buf: make([]byte, 0, 96)}
}

// sum returns the HMAC of label, address and part, valid until the next call.
func (p *proofs) sum(label string, to netip.AddrPort, part []byte) []byte {
	ip := to.Addr().As16()
	b := append(p.buf[:0], label...)
	b = append(b, ip[:]...)
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = append(b, part...)
	p.mac.Reset()
	p.mac.Write(b)
	return p.mac.Sum(b[:0])
}

// writeToken returns the token with which to may put within the next two
// intervals, valid until the next call of proofs.
func (p *proofs) writeToken(now time.Time, to netip.AddrPort) []byte {
	return p.tokenOf(interval(now), to)
}

func (p *proofs) tokenOf(interval uint64, to netip.AddrPort) []byte {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], interval)
	return p.sum("token", to, n[:])[:tokenSize]
}

func (p *proofs) checkToken(now time.Time, from netip.AddrPort, token []byte) bool {
	n := interval(now)
	return hmac.Equal(token, p.tokenOf(n, from)) || hmac.Equal(token, p.tokenOf(n-1, from))
}

func interval(now time.Time) uint64 { return uint64(now.UnixNano() / int64(writeTokenLife)) }

// transaction returns the ID of the n-th query, which goes to an address: the
// number, and the proof that we asked there.
func (p *proofs) transaction(n uint64, to netip.AddrPort) []byte {
	t := binary.AppendUvarint(make([]byte, 0, maxTransaction), n)
	return append(t, p.sum("tag", to, t)[:tagSize]...)
}

// untag returns the number of the query, if a query to from carried it.
func (p *proofs) untag(from netip.AddrPort, tagged []byte) (n uint64, ok bool) {
	if len(tagged) <= tagSize {
		return 0, false
	}
	t, tag := tagged[:len(tagged)-tagSize], tagged[len(tagged)-tagSize:]
	n, used := binary.Uvarint(t)
	return n, used == len(t) && hmac.Equal(tag, p.sum("tag", from, t)[:tagSize])
}
