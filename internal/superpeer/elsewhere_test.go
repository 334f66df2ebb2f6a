package superpeer

import (
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/owner/ownertest"
)

// crowdedOne is a super peer with n others.
func crowdedOne(t *testing.T, n int) *SuperPeer {
	t.Helper()
	supers := []string{"192.0.2.1:4500", "192.0.2.2:4500", "192.0.2.3:4500", "192.0.2.4:4500"}
	svc := ownertest.Service(t, owner.Options{
		Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web"}, SuperPeers: supers[:n+1],
		Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "web"}}}, Now: time.Now(),
	})
	return startTestSuper(t, svc, new(ledger.Memory), nil)
}

// sent counts where a busy super peer sends machines.
func sent(s *SuperPeer, n int) map[string]int {
	to := map[string]int{}
	for range n {
		to[s.busy().Other]++
	}
	return to
}

func TestBusySendsToWhoeverSeemsLessBusy(t *testing.T) {
	s := crowdedOne(t, 2)
	var stormed id.ID
	for _, sp := range s.service.trust().Descriptor.SuperPeers {
		if sp.Endpoints[0] == "192.0.2.2:4500" {
			stormed = sp.PID()
		}
	}
	s.authority.loads.add(stormed, 100, time.Now())
	if to := sent(s, 50); to["192.0.2.3:4500"] != 50 {
		t.Errorf("one of two is in a storm: sent %v", to)
	}
}

// TestBusySpreadsAStorm: those who are sent count before any directory shows them.
func TestBusySpreadsAStorm(t *testing.T) {
	to := sent(crowdedOne(t, 3), 300)
	for _, other := range []string{"192.0.2.2:4500", "192.0.2.3:4500", "192.0.2.4:4500"} {
		if to[other] < 90 || to[other] > 110 {
			t.Errorf("%s gets %d of 300", other, to[other])
		}
	}
	if alone := sent(crowdedOne(t, 0), 1); alone[""] != 1 {
		t.Errorf("without others: %v", alone)
	}
}

func TestBusyPassesOverTheSilent(t *testing.T) {
	s := crowdedOne(t, 2)
	for _, sp := range s.service.trust().Descriptor.SuperPeers {
		if sp.Endpoints[0] == "192.0.2.2:4500" {
			s.authority.others.SetExpires(sp.PID(), time.Now().Add(-time.Second).Unix())
		}
	}
	if to := sent(s, 20); to["192.0.2.3:4500"] != 20 {
		t.Errorf("sent %v", to)
	}
}

func TestLoadIsForgotten(t *testing.T) {
	var l loads
	a, b, now := id.ID{1}, id.ID{2}, time.Now()
	l.add(a, 64, now)
	l.add(b, 3, now.Add(5*loadHalf))
	if !l.lighter(a, b, now.Add(5*loadHalf)) || l.lighter(a, b, now) {
		t.Error("a storm of long ago counts like one of now")
	}
}
