package superpeer

import (
	"icvpn/admission"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// A super peer has room for as many members as its directory object and its
// address block hold. A stolen token must not take all of it: every enrolment
// secret without a quota of its own leaves a part of both to the others.

// directoryOverhead is what a directory has besides its entries: header fields
// and the head of the list.
const directoryOverhead = 128

// room is what members take of one bounded thing.
type room struct {
	capacity int
	taken    map[string]int // by secret ID
}

// fits says whether a secret may take more. Each other secret keeps what it
// has, or half of an even share if it has less.
func (r room) fits(secretID string, more int, secrets []string) bool {
	reserved := r.capacity / (2 * max(1, len(secrets)))
	need := r.taken[secretID] + more
	for _, other := range secrets {
		if other != secretID {
			need += max(r.taken[other], reserved)
		}
	}
	return need <= r.capacity
}

// entrySize is what a member takes in the directory.
func entrySize(m service.Member) int { return len(wire.Marshal(m)) }

// roomLocked says whether there is room for m under a secret. What the machine
// has already, and what has ended, does not count.
func (a *authority) roomLocked(m service.Member, secretID string, now int64) error {
	pid := m.PID()
	directory := room{service.MaxDirectory - directoryOverhead, map[string]int{}}
	addresses := room{int(a.leases.size()), map[string]int{}}
	for other, o := range a.own {
		if other == pid || now >= o.Member.NotAfter {
			continue
		}
		directory.taken[o.SecretID] += o.size
		addresses.taken[o.SecretID]++
	}
	secrets := make([]string, 0, len(a.secrets))
	for id := range a.secrets {
		secrets = append(secrets, id)
	}
	if !directory.fits(secretID, entrySize(m), secrets) || !addresses.fits(secretID, 1, secrets) {
		return &admission.Refusal{Code: admission.CodeAddresses, Other: a.other()}
	}
	return nil
}
