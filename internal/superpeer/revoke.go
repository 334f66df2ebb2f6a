package superpeer

import (
	"icvpn/internal/ledger"
	"icvpn/internal/service"
)

// dropRevoked takes out whom the policy in force has put out. Their tombstones say
// that credentials of before are void, so tunnels to them end wherever the
// directory is read.
func (a *authority) dropRevoked() {
	policy := a.trust().Policy
	for _, e := range a.ledger.Members() {
		c := service.Credential{Key: e.Member.Key, Name: e.Member.Name, SecretID: e.SecretID, AdmittedAt: e.Admitted}
		if policy.Revoked(&c) != nil {
			a.log.Info("revoked by the owner's policy", "peer", e.Member.Name, "pid", e.PID().Short())
			a.bury(e, ledger.ReasonRevoked)
		}
	}
}
