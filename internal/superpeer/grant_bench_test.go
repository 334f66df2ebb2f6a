package superpeer

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// BenchmarkAdmit is what an admission costs the super peer beside TLS, SRP and
// keys: labels, lease, credential, ledger (in memory: no disk), and the peer
// list, with so many members there already.
func BenchmarkAdmit(b *testing.B) {
	svc, err := owner.Create(owner.Options{
		Name: "shop", Prefix4: netip.MustParsePrefix("10.0.0.0/15"), Roles: []string{"web", "app"}, SuperPeers: []string{"192.0.2.1:4500"},
		Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}, Now: time.Now(),
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, members := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			a := startTestSuper(b, svc, new(ledger.Memory), nil).authority
			wide := ledger.Config{Service: svc.ID, SuperPeer: a.self().PID(), Block: netip.MustParsePrefix("10.0.0.0/16"), Life: credentialLife, Grace: leaseGrace}
			if a.ledger, err = ledger.Open(new(ledger.Memory), wide, time.Now()); err != nil {
				b.Fatal(err)
			}
			admit := func(n int) {
				req, labels := admitMember(b, a, svc, n)
				now := time.Now()
				a.roster.namesakes(req.Name, req.PID, now)
				a.roster.list(a.rules(), labels, now)
			}
			for n := range members {
				admit(n)
			}
			b.ResetTimer()
			b.ReportAllocs()
			for i := range b.N {
				admit(i % members)
			}
		})
	}
}

// admitMember makes the n-th of many machines a member, without TLS, SRP and keys.
func admitMember(b *testing.B, a *authority, svc *owner.Service, n int) (provision.Request, map[string]string) {
	b.Helper()
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint64(seed, uint64(n)+1<<32)
	c := comer(svc, []string{"web", "app"}[n%2], 0)
	c.key = ed25519.NewKeyFromSeed(seed)
	c.who.IDKey = c.key.Public().(ed25519.PublicKey)
	c.who.PID = id.FromKey(c.who.IDKey)
	now := time.Now()
	req := provision.Request{PID: c.who.PID, Name: fmt.Sprint("m-", n), VM: "vm", Instance: service.Instance{1}}
	req.Claim = service.SignClaim(c.key, a.trust().Service, a.self().PID(), req.Instance, now)
	labels, err := a.labels(c.who, req, now)
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := a.admit(c.who, req, membership{labels: labels, slot: prepared{Slot: &abe.Slot{ID: abe.SlotID{1}}}}, now); err != nil {
		b.Fatal(err)
	}
	return req, labels
}
