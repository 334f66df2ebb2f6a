package relay

import (
	"encoding/hex"
	"errors"
	"net/netip"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// ID names an allocation at one relay. The zero ID names none.
type ID [idLen]byte

// String returns ID in hexadecimal.
func (a ID) String() string { return hex.EncodeToString(a[:]) }

// ParseID reverses String.
func ParseID(s string) (a ID, ok bool) {
	if len(s) != 2*idLen {
		return a, false
	}
	_, err := hex.Decode(a[:], []byte(s))
	return a, err == nil
}

// IsZero says whether a names none.
func (a ID) IsZero() bool { return a == ID{} }

// query asks for an allocation, or for more time. Without token it asks for one.
type query struct {
	_     struct{} `cbor:",toarray"`
	Ver   uint8
	Tx    []byte // 8 bytes, the asker's
	Token []byte // 16 bytes, or none: then no key and no signature either
	Key   []byte // Ed25519, of a member
	Sig   []byte
}

// Status is what an answer says.
type status uint8

const (
	statusHeld  status = iota // the allocation is there for Life
	statusProve               // sign this token
	statusBusy                // no place, for now
	statusEnd
)

// answer goes back to where its query came from, and is never longer.
type answer struct {
	_          struct{} `cbor:",toarray"`
	Ver        uint8
	Tx         []byte
	Status     status
	Token      []byte // 16 bytes: for the next query
	Allocation []byte // 8 bytes, not zero; none unless statusHeld
}

func parseQuery(b []byte) (q query, ok bool) {
	if wire.Unmarshal(b, &q, maxMessage) != nil || q.Ver != version || len(q.Tx) != txLen {
		return q, false
	}
	if q.Token == nil || q.Key == nil || q.Sig == nil { // null, where a string has to be
		return q, false
	}
	if len(q.Token) == 0 {
		return q, len(q.Key) == 0 && len(q.Sig) == 0
	}
	return q, len(q.Token) == tokenLen && len(q.Key) == 32 && len(q.Sig) == 64
}

func parseAnswer(b []byte) (a answer, ok bool) {
	if wire.Unmarshal(b, &a, maxMessage) != nil || a.Ver != version || len(a.Tx) != txLen || a.Status >= statusEnd || len(a.Token) != tokenLen || a.Allocation == nil {
		return a, false
	}
	if a.Status == statusHeld {
		return a, len(a.Allocation) == idLen && !ID(a.Allocation).IsZero()
	}
	return a, len(a.Allocation) == 0
}

// IsAnswer says whether a payload is a relay's answer.
func IsAnswer(b []byte) bool {
	_, ok := parseAnswer(b)
	return ok
}

// signedParts are what a member signs: which relay, in which service, and the token,
// in which its address is.
func signedParts(service, relay id.ID, token, tx []byte) [][]byte {
	return [][]byte{service[:], relay[:], token, tx}
}

// appendHeader appends the header of a relayed datagram.
func appendHeader(b []byte, to, from ID) []byte {
	b = append(b, 0, 0, 0, 0, dataType, 0, 0, 0)
	return append(append(b, to[:]...), from[:]...)
}

// marked says whether a datagram, or the first one of a train, claims to be relayed.
// Called for every message of a machine that has allocations.
func marked(b []byte) bool {
	return len(b) > HeaderLen && b[0]|b[1]|b[2]|b[3] == 0 && b[4] == dataType
}

// parseHeader reads the header of a relayed datagram that has content.
func parseHeader(b []byte) (to, from ID, ok bool) {
	if !marked(b) || b[5]|b[6]|b[7] != 0 {
		return to, from, false
	}
	return ID(b[8 : 8+idLen]), ID(b[8+idLen : HeaderLen]), true
}

// virtual returns the address that stands for an allocation of a peer at the relay of
// our allocation number n.
func virtual(peer ID, n uint16) netip.AddrPort {
	a := wire.Discard.Addr().As16()
	copy(a[8:], peer[:])
	return netip.AddrPortFrom(netip.AddrFrom16(a), n)
}

// IsVirtual says whether an address stands for a peer behind a relay.
func IsVirtual(a netip.AddrPort) bool { return wire.Discard.Contains(a.Addr()) }

// peerOf returns the allocation in a virtual address.
func peerOf(a netip.AddrPort) ID {
	b := a.Addr().As16()
	return ID(b[8:])
}

// ErrNoAllocation marks a message to a peer behind a relay where we have no
// allocation any more.
var ErrNoAllocation = errors.New("relay: no allocation at the relay of this path")
