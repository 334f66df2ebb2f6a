package superpeer

import (
	"crypto/ed25519"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/port"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// standing is what the owners say of an overlay at one moment: the verified
// chain, its bytes, and what it makes of us. It is replaced as a whole when they
// say something newer.
type standing struct {
	trust *service.Trust
	docs  service.Documents
	// policy is what trust.Policy was read from; empty in the universal overlay.
	policy service.Signed
	self   service.SuperPeer // without roles if the descriptor does not list us

	root, descriptor []byte         // docs as admission hands them out
	others           *port.Resolver // where the other super peers are
}

func newStanding(trust *service.Trust, docs service.Documents, policy service.Signed, key ed25519.PublicKey) *standing {
	pid := id.FromKey(key)
	self, ok := trust.Descriptor.SuperPeer(pid)
	if !ok {
		self = service.SuperPeer{Key: key} // of no role
	}
	return &standing{
		trust: trust, docs: docs, policy: policy, self: self, root: wire.Marshal(docs.Roots), descriptor: docs.Descriptor.Encode(),
		others: port.NewResolver(endpoints(trust.Descriptor, pid)),
	}
}

// mayAdmit says whether the owners let us admit at a moment.
func (st *standing) mayAdmit(now time.Time) bool {
	return st.self.Has(service.RoleAdmit) && now.Unix() < st.self.Expires
}

// trust returns the newest verified chain.
func (t *tier) trust() *service.Trust { return t.standing.Load().trust }

// bootstrap returns the addresses of the other super peers.
func (t *tier) bootstrap() []netip.AddrPort { return t.standing.Load().others.Addrs() }

// trust returns the newest verified chain of the service.
func (a *authority) trust() *service.Trust { return a.tier.trust() }

// self is what the owners let this super peer do. Key and address block stay as
// long as it runs.
func (a *authority) self() service.SuperPeer { return a.tier.standing.Load().self }

// policy returns the policy in force, to be handed on.
func (a *authority) policy() service.Signed { return a.tier.standing.Load().policy }

// docs returns the owners' documents, to be handed on.
func (a *authority) docs() service.Documents { return a.tier.standing.Load().docs }
