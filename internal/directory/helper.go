package directory

import (
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

const (
	// MaxHelpers of a super peer stand in its root.
	MaxHelpers = 32
	// HelperLife is how long a super peer's word for a helper counts; it is given anew
	// after HelperRenew, just before the root would be sealed anew in any case. A
	// reader that looks once in five minutes never sees one end.
	HelperLife  = 25 * time.Minute
	HelperRenew = RootLife/2 - time.Minute
	// maxHelperLife is longer, by a clock's slack.
	maxHelperLife = HelperLife + 5*time.Minute
)

// HelperRoles are what a member was promoted to, a set. None of them holds a secret
// of the service.
type HelperRoles uint8

// Roles of helpers.
const (
	HelperStore   HelperRoles = 1 << iota // keeps a copy of every item
	HelperReflect                         // tells members under which address it sees them
	HelperRelay                           // forwards between members that cannot reach each other

	helperRoles = HelperStore | HelperReflect | HelperRelay
)

// Has says whether all of want are in r.
func (r HelperRoles) Has(want HelperRoles) bool { return r&want == want }

// Names lists the roles in words.
func (r HelperRoles) Names() (all []string) {
	if r.Has(HelperStore) {
		all = append(all, "store")
	}
	if r.Has(HelperReflect) {
		all = append(all, "reflect")
	}
	if r.Has(HelperRelay) {
		all = append(all, "relay")
	}
	return all
}

// Helper is a member that a super peer has promoted (docs/protocol/helpers.md).
type Helper struct {
	_     struct{} `cbor:",toarray"`
	PID   id.ID
	Addr  netip.AddrPort // where it answers
	Roles HelperRoles
	Since int64 // Unix seconds
	Until int64 // Unix seconds
}

// believable returns the helpers that may count at now. That they are members is
// for the reader to see to: a root is read before its shards.
func believable(all []Helper, now time.Time) (good []Helper) {
	last := now.Add(maxHelperLife).Unix()
	for _, h := range all[:min(len(all), MaxHelpers)] {
		h.Roles &= helperRoles
		twice := slices.ContainsFunc(good, func(g Helper) bool { return g.PID == h.PID })
		if h.Roles != 0 && now.Unix() < h.Until && h.Until <= last && service.UsableEndpoint(h.Addr) && !twice {
			good = append(good, h)
		}
	}
	return good
}

// SetHelpers says who helps; a change makes a new root.
func (w *Writer) SetHelpers(all []Helper) {
	all = slices.Clone(all[:min(len(all), MaxHelpers)])
	if !slices.Equal(w.helpers, all) {
		w.helpers, w.changed = all, true
	}
}
