package superpeer

import (
	"icvpn/admission"
	"icvpn/internal/id"
)

// A super peer has room for as many members as its address block holds. A stolen
// token must not take all of it: every enrolment secret without a quota of its
// own leaves a part to the others.

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

// roomLocked says whether there is room for pid under a secret. What the machine
// has already, and what has ended, does not count.
func (a *authority) roomLocked(pid id.ID, secretID string, now int64) error {
	addresses := room{int(a.leases.size()), map[string]int{}}
	for other, o := range a.own {
		if other == pid || now >= o.Member.NotAfter {
			continue
		}
		addresses.taken[o.SecretID]++
	}
	secrets := make([]string, 0, len(a.secrets))
	for id := range a.secrets {
		secrets = append(secrets, id)
	}
	if !addresses.fits(secretID, 1, secrets) {
		return &admission.Refusal{Code: admission.CodeAddresses, Other: a.other()}
	}
	return nil
}
