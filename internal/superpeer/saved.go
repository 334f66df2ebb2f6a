package superpeer

import (
	"fmt"
	"maps"
	"slices"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// saved is the form in which members and leases are kept.
type saved struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Leases  []byte
	Members []member
	Used    map[string]uint32
}

const maxSaved = 4 << 20

func (a *authority) encodeLocked() []byte {
	s := saved{Version: 1, Leases: a.leases.encode(), Used: a.used}
	for _, pid := range slices.SortedFunc(maps.Keys(a.own), id.ID.Compare) {
		s.Members = append(s.Members, a.own[pid])
	}
	return wire.Marshal(s)
}

func (a *authority) restore(b []byte) error {
	var s saved
	if err := wire.Unmarshal(b, &s, maxSaved); err != nil {
		return err
	}
	if s.Version != 1 {
		return fmt.Errorf("superpeer: saved members have version %d, this binary knows 1", s.Version)
	}
	l, err := decodeLeases(a.leases.block, s.Leases)
	if err != nil {
		return err
	}
	a.leases = l
	for _, m := range s.Members {
		a.own[m.Member.PID()] = m
	}
	if s.Used != nil {
		a.used = s.Used
	}
	return nil
}
