package relay

import (
	"crypto/ed25519"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Relay gives allocations to the members of one service. Safe for concurrent use.
type Relay struct {
	table    *Table
	service  id.ID
	part     *part
	self     id.ID
	key      []byte // of the names of allocations
	isMember func(id.ID) bool
}

// Relay returns the relay of a service at a port, that of a super peer or member with
// this identity key. isMember says whose allocations it makes; it must be quick.
func (t *Table) Relay(service id.ID, key ed25519.PrivateKey, isMember func(id.ID) bool) *Relay {
	return &Relay{
		table: t, service: service, part: t.part(service), self: id.FromKey(key.Public().(ed25519.PublicKey)),
		key: allocationKey(key.Seed()), isMember: isMember,
	}
}

// Answer returns the answer to a datagram of type seal.TypeRelay that came from an
// address, nil for none: to what is no query, and to strangers. It borrows payload.
//
// Cheapest first; the order is law: nothing is kept before the signature, and no
// signature is looked at but of a member at an address that was proved.
func (r *Relay) Answer(now time.Time, payload []byte, from netip.AddrPort) []byte {
	from = unmap(from)
	// 1. A well-formed query, from an address that may stand for itself.
	q, ok := parseQuery(payload)
	if !ok || IsVirtual(from) || from.Port() == 0 {
		r.table.count(Malformed)
		return nil
	}
	// 2. Its sender has got a token at that address, within two minutes.
	if len(q.Token) == 0 || !r.table.tokens.check(now, from, q.Token) {
		r.table.count(Asked)
		return r.answer(now, q, from, statusProve, []byte{})
	}
	// 3. A member.
	pid := id.FromKey(q.Key)
	if !r.isMember(pid) {
		r.table.count(Stranger)
		return nil
	}
	a := allocationOf(r.key, r.service, pid)
	if r.table.holds(now, a, r.part, pid, from) {
		r.table.count(Granted)
		return r.answer(now, q, from, statusHeld, a[:])
	}
	// 4. The member says so, to this relay, about this address.
	if !r.table.mayVerify(now, from.Addr()) {
		r.table.count(Limited)
		return nil
	}
	if !wire.Verify(q.Key, q.Sig, domainAllocate, signedParts(r.service, r.self, q.Token, q.Tx)...) {
		r.table.count(Unproved)
		return nil
	}
	// 5. A place.
	if !r.table.hold(now, a, r.part, pid, from) {
		r.table.count(Full)
		return r.answer(now, q, from, statusBusy, []byte{})
	}
	r.table.count(Granted)
	return r.answer(now, q, from, statusHeld, a[:])
}

func (r *Relay) answer(now time.Time, q query, from netip.AddrPort, s status, allocation []byte) []byte {
	return wire.Marshal(answer{Ver: version, Tx: q.Tx, Status: s, Token: r.table.tokens.give(now, from), Allocation: allocation})
}
