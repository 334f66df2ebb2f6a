package service

import (
	"crypto/ed25519"
	"encoding/binary"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const (
	domainClaim = "icvpn/1 claim"
	// ClaimSize is the length of a Claim in bytes.
	ClaimSize = 8 + ed25519.SignatureSize
	// claimSlack is how far an admission may lie from the claim it was asked for
	// with: clocks may differ by clockSlack, and an admission takes its time.
	claimSlack = int64(5 * time.Minute / time.Second)
)

// Claim is a machine's own word that this process of it asked this super peer for
// admission at a time: time ‖ signature by its identity key. A super peer shows it
// to the others when they list the same machine; without it, anybody who may
// admit could push another's member out by listing its key.
type Claim []byte

// SignClaim makes a claim. The time is in milliseconds and grows from claim to
// claim of a process, so that the last one shows.
func SignClaim(key ed25519.PrivateKey, service, superPeer id.ID, instance Instance, at time.Time) Claim {
	c := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())) //nolint:gosec // after 1970
	return append(c, wire.Sign(key, domainClaim, service[:], superPeer[:], instance[:], c)...)
}

// Holds says whether c is the claim of key's process for an admission by
// superPeer at a time, in Unix seconds.
func (c Claim) Holds(key ed25519.PublicKey, service, superPeer id.ID, instance Instance, admitted int64) bool {
	if len(c) != ClaimSize {
		return false
	}
	at := c.milli() / 1000
	return at >= admitted-claimSlack && at <= admitted+claimSlack &&
		wire.Verify(key, c[8:], domainClaim, service[:], superPeer[:], instance[:], c[:8])
}

func (c Claim) milli() int64 { return int64(binary.BigEndian.Uint64(c)) } //nolint:gosec // compared only

// Supersedes says whether m, which superPeer lists, is the same machine as old
// and asked to be admitted later: as another process, which is a clone or the
// machine started anew, or as the same one, whose admission for old broke off or
// that has moved. Whoever asks last wins, since a machine that crashed must be
// back at once.
func (m Member) Supersedes(old Member, service, superPeer id.ID) bool {
	return m.LaterThan(old) && m.Claimed(service, superPeer)
}

// Claimed says whether m, which superPeer lists, comes with the machine's own word.
func (m Member) Claimed(service, superPeer id.ID) bool {
	return m.Claim.Holds(m.Key, service, superPeer, m.Instance, m.Issued)
}

// LaterThan is Supersedes for the word of the super peer that admitted old: it
// needs no claim, for it may drop its own members as it likes. Of two processes
// within one moment the one with the greater instance is the later.
func (m Member) LaterThan(old Member) bool {
	if !ed25519.PublicKey(m.Key).Equal(ed25519.PublicKey(old.Key)) {
		return false
	}
	if at, before := m.asked(), old.asked(); at != before {
		return at > before
	}
	return string(m.Instance[:]) > string(old.Instance[:])
}

// asked is when the machine asked for its admission, in milliseconds; where only
// the admission is known, its second.
func (m Member) asked() int64 {
	if len(m.Claim) == ClaimSize {
		return m.Claim.milli()
	}
	return 1000 * m.Issued
}
