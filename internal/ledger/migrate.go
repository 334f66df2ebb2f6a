package ledger

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// What members.sealed of version 1 held.
type formerSaved struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Leases  []byte // of []formerLease
	Members []formerMember
	Used    map[string]uint32
}

type formerLease struct {
	_       struct{} `cbor:",toarray"`
	PID     id.ID
	Host    uint32
	Expires int64
}

type formerMember struct {
	_        struct{} `cbor:",toarray"`
	Member   formerEntry
	SecretID string
	Slot     []byte
	Admitted int64
}

type formerEntry struct {
	_        struct{} `cbor:",toarray"`
	Key      []byte
	Name     string
	VM       string
	Labels   map[string]string
	Address4 []byte
	NotAfter int64
}

const maxFormer = 4 << 20

// migrate returns the records of what a former version saved. Nothing in it
// says which process a member was, nor when it was admitted last: the zero
// instance, long ago.
func migrate(saved []byte, block netip.Prefix) ([]op, error) {
	var s formerSaved
	if err := wire.Unmarshal(saved, &s, maxFormer); err != nil {
		return nil, err
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("they have version %d, this version of icvpn knows 1", s.Version)
	}
	var leases []formerLease
	if err := wire.Unmarshal(s.Leases, &leases, maxFormer); err != nil {
		return nil, err
	}
	var ops []op
	base := number(block.Masked().Addr())
	for _, le := range leases {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], base+le.Host)
		ops = append(ops, leaseOp(netip.AddrFrom4(a), tenancy{le.PID, le.Expires}))
	}
	for _, m := range s.Members {
		f := m.Member
		e := &Entry{
			Member:   service.Member{Key: f.Key, Name: f.Name, VM: f.VM, Labels: f.Labels, Address4: f.Address4, NotAfter: f.NotAfter},
			SecretID: m.SecretID, Admitted: m.Admitted, Slot: m.Slot,
		}
		e.pid = e.Member.PID()
		ops = append(ops, e.op())
	}
	for secretID, n := range s.Used {
		ops = append(ops, op{bucketSecrets, secretID, number64(uint64(n))})
	}
	return ops, nil
}
