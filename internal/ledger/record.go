package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// schema is the version of everything below. A ledger of another one is refused.
const schema = 1

// Buckets and their keys.
const (
	bucketMeta       = "meta"       // "schema", "key" in clear; "owner"
	bucketMembers    = "members"    // PID
	bucketLeases     = "leases"     // IPv4 address
	bucketSecrets    = "secrets"    // secret ID
	bucketTickets    = "tickets"    // ticket ID
	bucketTombstones = "tombstones" // PID
	bucketSlots      = "slots"      // the caller's
	bucketMarks      = "marks"      // name
)

const (
	metaSchema = "schema"
	metaKey    = "key"
	metaOwner  = "owner"

	markOpened   = "opened"   // how often the ledger was, as in its counter
	markRestored = "restored" // Unix seconds; 0: at the next opening
)

// maxRecord bounds a record: the longest, an attribute key with its envelope,
// takes some 40 kB.
const maxRecord = 64 << 10

// Entry is a member and how it was admitted. Entries are not changed once they
// are in the ledger; a renewal is another Entry.
type Entry struct {
	_        struct{} `cbor:",toarray"`
	Member   service.Member
	SecretID string
	Admitted int64  // Unix seconds, when it first showed the secret
	Slot     []byte // of its attribute key
	Cohort   bool   // the slot is not its own (docs/adr/0020-abe-keys-in-a-storm.md)

	pid     id.ID
	host    uint32
	encoded []byte // of Member without Claim
	version uint64
}

// PID returns the member's node identifier.
func (e *Entry) PID() id.ID { return e.pid }

// Encoded returns Member in CBOR as lists carry it, without the claim. It is
// not to be changed.
func (e *Entry) Encoded() []byte { return e.encoded }

// lease is the value of an address.
type lease struct {
	_     struct{} `cbor:",toarray"`
	PID   id.ID
	Until int64 // Unix seconds, end of the last credential
}

// Ticket is a continuity ticket that was used.
type Ticket struct {
	_        struct{} `cbor:",toarray"`
	ID       [16]byte
	PID      id.ID
	Instance service.Instance
	Expires  int64 // Unix seconds; it is remembered until then
}

// Reason says why somebody is a member no longer.
type Reason uint8

// The reasons.
const (
	// ReasonClone: another machine with the same identity key was admitted later.
	ReasonClone Reason = iota + 1
	// ReasonRevoked: the owner's policy revokes it.
	ReasonRevoked
	// ReasonLeft: it said goodbye.
	ReasonLeft
	// ReasonReplaced: another super peer admitted the same process later.
	ReasonReplaced
)

// Tombstone says that somebody is a member no longer though his credential has
// not ended. His lease stays until it has.
type Tombstone struct {
	_      struct{} `cbor:",toarray"`
	PID    id.ID
	Host   uint32 // number within the block
	Reason Reason
	Issued int64 // Unix seconds, of the entry that is dead
	Until  int64 // Unix seconds: end of the dead credential
}

// owner is whose ledger it is.
type owner struct {
	_         struct{} `cbor:",toarray"`
	Service   id.ID
	SuperPeer id.ID
}

func number64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func parseNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, errors.New("no number")
	}
	return binary.BigEndian.Uint64(b), nil
}

func (e *Entry) op() op { return op{bucketMembers, string(e.pid[:]), wire.Marshal(e)} }

func leaseOp(addr netip.Addr, t tenancy) op {
	a := addr.As4()
	return op{bucketLeases, string(a[:]), wire.Marshal(lease{PID: t.pid, Until: t.until})}
}

func (t *Ticket) op() op { return op{bucketTickets, string(t.ID[:]), wire.Marshal(t)} }

func parseEntry(key, b []byte) (*Entry, error) {
	e := new(Entry)
	if err := wire.Unmarshal(b, e, maxRecord); err != nil {
		return nil, err
	}
	e.pid, e.encoded = e.Member.PID(), encoded(e.Member)
	if string(e.pid[:]) != string(key) {
		return nil, fmt.Errorf("member %s lies under another PID", e.pid.Short())
	}
	return e, nil
}
