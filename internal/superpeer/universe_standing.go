package superpeer

import (
	"icvpn/internal/service"
)

// standing is what the owners say of an overlay at one moment: the verified
// chain, its bytes, and what it makes of us. It is replaced as a whole when they
// say something newer.
type standing struct {
	trust *service.Trust
	docs  service.Documents
	self  service.SuperPeer
}

// trust returns the newest verified chain.
func (t *tier) trust() *service.Trust { return t.standing.Load().trust }

// trust returns the newest verified chain of the service.
func (a *authority) trust() *service.Trust { return a.tier.trust() }

// self is what the owners let this super peer do. Key and address block stay as
// long as it runs.
func (a *authority) self() service.SuperPeer { return a.tier.standing.Load().self }

// docs returns the owners' documents, to be handed on.
func (a *authority) docs() service.Documents { return a.tier.standing.Load().docs }
