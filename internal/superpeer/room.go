package superpeer

import (
	"icvpn/admission"
	"icvpn/internal/ledger"
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

// room says whether a secret admits one more: by its quota, and by what it
// leaves to the others. What the machine has already does not count. It costs as
// much as there are secrets.
func (a *authority) room(v ledger.View, secretID string) error {
	if q := a.secrets[secretID].Quota; q != 0 && !v.Renewal() && v.Uses(secretID) >= q {
		return &admission.Refusal{Code: admission.CodeQuota}
	}
	addresses := room{v.Addresses(), map[string]int{}}
	secrets := make([]string, 0, len(a.secrets))
	for id := range a.secrets {
		secrets = append(secrets, id)
		addresses.taken[id] = v.Taken(id)
	}
	if !addresses.fits(secretID, 1, secrets) {
		return &admission.Refusal{Code: admission.CodeAddresses, Other: a.other()}
	}
	return nil
}
