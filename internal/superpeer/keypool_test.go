package superpeer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/keypool"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/owner/ownertest"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/underlay/simnet"
)

// keyless is a super peer without the ABE master key, not running, and the one
// that has it, whose acceptLoop runs.
type keyless struct {
	*SuperPeer
	t     *testing.T
	svc   *owner.Service
	maker *gate
	store *ledger.Memory
	slots int
	dead  bool // no authority can be reached
}

var errDead = errors.New("connection refused")

// withoutMaster runs f beside an authority in simulated time.
func withoutMaster(t *testing.T, slots int, f func(*testing.T, *keyless)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		svc := ownertest.Service(t, owner.Options{
			Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web", "app"},
			SuperPeers: []string{"192.0.2.1:4500", "192.0.2.2:4500", "192.0.2.3:4500"}, Authorities: 1,
			Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}, Now: time.Now(),
		})
		g := &gate{pipes: newPipes(), svc: svc, SuperPeer: startTestSuper(t, svc, new(ledger.Memory), nil)}
		stop := g.open(t)
		k := &keyless{t: t, svc: svc, maker: g, store: new(ledger.Memory), slots: slots}
		k.restart()
		f(t, k)
		stop()
	})
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

// open has g's acceptLoop run until stop is called.
func (g *gate) open(t *testing.T) (stop func()) {
	g.cfg.TCP = g.pipes
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.acceptLoop(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// restart makes the super peer from its hand-over and its disk.
func (k *keyless) restart() {
	k.t.Helper()
	udp, err := simnet.New(simnet.Config{}).Listen(4500, netip.MustParseAddr("192.0.2.2"))
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { udp.Close() })
	k.SuperPeer, err = New(Config{
		HandOver: handOverOf(k.t, k.svc, 1), Ledger: k.store, UDP: udp, TCP: newPipes(), Log: slog.New(slog.DiscardHandler), Slots: k.slots, Dial: k.dial, ABE: keysOf(k.t),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	if k.recall.pending() {
		close(k.recall.done)
	}
}

func (k *keyless) dial(_ context.Context, _, address string) (net.Conn, error) {
	if k.dead || address != "192.0.2.1:4500" {
		return nil, errDead
	}
	return k.maker.dial(netip.MustParseAddr("192.0.2.2")), nil
}

// fill lets time pass as keysLoop does until nothing is lacked.
func (k *keyless) fill() {
	k.t.Helper()
	for range 40 {
		if err := k.refill(k.t.Context(), time.Now()); err != nil {
			k.t.Fatal(err)
		}
		sleep(k.t.Context(), keysLook)
	}
}

// anything takes every answer.
func anything(keypool.Answer) error { return nil }

// admit is an admission that must succeed.
func (k *keyless) admit(role string, n byte) provision.Grant {
	k.t.Helper()
	g, err := comer(k.svc, role, n).ask(k.t, k.authority, nil)
	if err != nil {
		k.t.Fatalf("machine %d of role %s: %v", n, role, err)
	}
	return g
}

// refused is an admission that must be refused for want of a key.
func (k *keyless) refused(what, role string, n byte) {
	k.t.Helper()
	_, err := comer(k.svc, role, n).ask(k.t, k.authority, nil)
	err = k.authority.sorry(err, time.Now())
	wantCode(k.t, what, err, admission.CodeBusy)
	var r *admission.Refusal
	if errors.As(err, &r) && (r.Other != "192.0.2.1:4500" || !strings.Contains(r.Detail, "no attribute key left for role="+role)) {
		k.t.Errorf("%s: the refusal says %q and names %q", what, r.Detail, r.Other)
	}
}

func (k *keyless) attributes(role string) map[string]string { return k.authority.attributes(role) }

// target is that of a policy of the service.
func (k *keyless) target(p abe.Policy) abe.Target {
	return abe.Target{Service: k.svc.ID, Generation: 1, Policy: p}
}

// TestSuperPeerWithoutMasterKeyAdmitsFromItsPool: its machines hold what those of
// an authority would, and their keys open what they must and nothing else.
func TestSuperPeerWithoutMasterKeyAdmitsFromItsPool(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		if k.authority.abe != nil || k.Ready() {
			t.Fatal("it has a master key, or says that it is ready")
		}
		k.fill()
		if !k.Ready() {
			t.Error("with a full pool it is not ready")
		}
		toApp, _ := discovery.PolicyOf(k.authority.rules(), map[string]string{"role": "app"})
		for role, opens := range map[string]bool{"web": true, "app": false} {
			c := comer(k.svc, role, 1)
			g := k.admit(role, 1)
			cred, err := k.authority.trust().VerifyCredential(time.Now(), g.Credential, g.Epoch)
			if err != nil {
				t.Fatal(err)
			}
			key, err := abe.ParseKey(g.AttributeKey)
			if err != nil {
				t.Fatal(err)
			}
			slot := k.target(abe.ForSlot(abe.SlotID(cred.Slot)))
			secret, err := key.Unseal(slot, g.SlotCiphertext)
			if err != nil {
				t.Fatalf("%s: its own slot: %v", role, err)
			}
			sealed, err := k.authority.list(c.who, secret, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			keys := discovery.NewKeys(k.svc.ID, key, k.authority.authorityKey, k.authority.epochKey)
			keys.AddSeed(slot, secret)
			if _, err := keys.Open(sealed, "list", c.who.IDKey, provision.MaxList); err != nil {
				t.Errorf("%s: its peer list: %v", role, err)
			}
			for _, e := range g.Envelopes {
				if _, err := keys.AddEnvelope(e, time.Now()); err != nil {
					t.Errorf("%s: an envelope that it was given: %v", role, err)
				}
			}
			if !keys.Has(k.target(discovery.Members())) || keys.Has(k.target(toApp)) != opens {
				t.Errorf("%s: opens the directory: %v, contacts of app: %v", role, keys.Has(k.target(discovery.Members())), keys.Has(k.target(toApp)))
			}
			envelope := k.authority.targets.byPolicy[toApp.String()].envelope
			if _, _, err := abe.OpenEnvelope(envelope, key, k.authority.authorityKey, time.Now()); (err == nil) != opens {
				t.Errorf("%s: the envelope of contacts of app: %v", role, err)
			}
		}
		if st, err := abe.VerifyStatement(k.admit("app", 2).Publish, k.svc.ID, k.authority.authorityKey, time.Now()); err != nil || !st.Target.Policy.Equal(toApp) || st.Issuer != k.maker.PID() {
			t.Errorf("statement of %s by %s: %v", st.Target.Policy, st.Issuer.Short(), err)
		}
		if n := k.maker.authority.slotCounts.handed.Load(); n != 6 {
			t.Errorf("%d keys handed out for 2 label sets of 2 keys and a cohort's", n)
		}
	})
}

// TestMachinesCannotTellWhoMadeTheirKey: a whole admission over TLS.
func TestMachinesCannotTellWhoMadeTheirKey(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		g := &gate{SuperPeer: k.SuperPeer, pipes: newPipes(), svc: k.svc}
		stop := g.open(t)
		defer stop()
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestPoolOutlivesItsAuthority: what is there is given out, then machines are told
// why not and where to go; when the authority is back, so are the keys.
func TestPoolOutlivesItsAuthority(t *testing.T) {
	withoutMaster(t, 1, func(t *testing.T, k *keyless) { // so no cohort
		k.fill()
		k.dead = true
		k.admit("web", 1)
		k.refused("an empty pool", "web", 2)
		k.admit("app", 3)
		if err := k.refill(t.Context(), time.Now()); !errors.Is(err, errDead) {
			t.Errorf("nobody answers: %v", err)
		}
		if n := k.authority.slotCounts.lacking.Load(); n != 1 {
			t.Errorf("counted %d", n)
		}
		if k.authority.ledger.Member(comer(k.svc, "web", 2).who.PID) != nil {
			t.Error("a machine that was refused is a member")
		}
		k.dead = false
		k.fill()
		k.admit("web", 2)
	})
}

// TestRenewalsThatNeedNoKeyGoOnWithoutAnAuthority: with an empty pool.
func TestRenewalsThatNeedNoKeyGoOnWithoutAnAuthority(t *testing.T) {
	withoutMaster(t, 1, func(t *testing.T, k *keyless) {
		k.fill()
		k.dead = true
		c := comer(k.svc, "app", 1)
		g := k.admit("app", 1)
		a, now := k.authority, time.Now()
		cred, err := a.trust().VerifyCredential(now, g.Credential, g.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		renew := func(n byte, holds provision.Parts) error {
			who := c.who
			who.Continued = true
			r := provision.Request{PID: who.PID, Name: "m-1", Instance: service.Instance{1}}
			r.Claim = service.SignClaim(c.key, k.svc.ID, k.PID(), r.Instance, now)
			ticket := &admission.Ticket{
				ID: admission.TicketID{n}, PID: who.PID, SecretID: who.SecretID, Admitted: now, Expires: now.Add(time.Hour), Issuer: k.PID(),
				Memo: a.memoOf(cred.Labels, now).of(cred, false),
			}
			_, err := a.renew(who, ticket, provision.Renewal{Holds: holds, Request: r.Encode()}.Encode(), newcomerAt, now)
			return err
		}
		if err := renew(1, provision.AllParts); err != nil {
			t.Errorf("a machine that has a key: %v", err)
		}
		wantCode(t, "a machine that has lost it", a.sorry(renew(2, 0), now), admission.CodeBusy)
		if err := renew(2, provision.AllParts); err != nil {
			t.Errorf("its ticket was used up by the refusal: %v", err)
		}
		a.targets.retire(func(string) bool { return false })
		issued := a.ledger.Member(c.who.PID).Member.Issued
		sleep(t.Context(), 2*time.Second)
		now = time.Now()
		err = a.sorry(renew(3, provision.PartKey), now)
		wantCode(t, "a machine that is to be told of policies", err, admission.CodeBusy)
		if a.ledger.Member(c.who.PID).Member.Issued != issued {
			t.Error("it was admitted all the same")
		}
	})
}

// TestRestartKeepsThePoolAndGivesNoSlotTwice: without an authority, too.
func TestRestartKeepsThePoolAndGivesNoSlotTwice(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		given := map[abe.SlotID]bool{}
		slot := func(n byte) (abe.SlotID, bool) { return slotOf(t, k.authority, k.admit("web", n)) }
		one, _ := slot(1)
		given[one] = true
		k.dead = true
		k.restart()
		two, cohort := slot(2)
		if given[two] || cohort {
			t.Error("the second key of the pool is lost, or the first was given again")
		}
		given[two] = true
		k.restart()
		shared, cohort := slot(3)
		if given[shared] || !cohort {
			t.Error("the third machine has no key of the cohort")
		}
		if again, cohort := slot(4); again != shared || !cohort {
			t.Error("the fourth machine has no key of the cohort")
		}
		if err := ledger.MarkRestored(k.store); err != nil {
			t.Fatal(err)
		}
		k.restart()
		if n := k.authority.slots.Len(k.attributes("app")); n != 0 {
			t.Errorf("an older copy gives out %d keys that it may have given out before", n)
		}
	})
}

// TestKeysThatNobodyTookAreErased: in memory and on disk, when their time is over,
// and not taken up by a restart.
func TestKeysThatNobodyTookAreErased(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		kept := func() (n int) {
			if err := k.authority.ledger.Slots(func(_, _ []byte) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := kept(); n != 6 {
			t.Fatalf("%d keys on disk", n)
		}
		copied := k.store.Copy()
		k.dead = true
		sleep(t.Context(), handedLife)
		k.authority.expire(time.Now())
		if n := kept() + k.authority.slots.Len(k.attributes("web")); n != 0 {
			t.Errorf("%d keys left", n)
		}
		k.refused("after a week", "web", 1)
		k.store = copied
		k.restart()
		if n := kept() + k.authority.slots.Len(k.attributes("web")); n != 0 {
			t.Errorf("%d keys left after a restart", n)
		}
	})
}

// TestAuthorityGivesNothingOutsideTheScope nor more than a day's, nor to whom the
// owners have removed.
func TestAuthorityGivesNothingOutsideTheScope(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		m := k.maker.authority
		two, web := k.authority.self().Key, k.attributes("web")
		ask := func(key ed25519.PublicKey, keys int, set map[string]string) keypool.Code {
			t.Helper()
			ans, err := m.handOut(key, keypool.Request{Keys: uint8(keys), Sets: []map[string]string{set}}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if ans.Code != keypool.OK && len(ans.Slots)+len(ans.Policies)+len(ans.Params) > 0 {
				t.Error("something is given with a refusal")
			}
			return ans.Code
		}
		forged := maps.Clone(web)
		for label := range web {
			if label != "role" {
				forged[label] = "forged"
			}
		}
		for what, set := range map[string]map[string]string{"another role": k.attributes("db"), "another label": {"role": "web", "zone": "eu"}, "no member": forged} {
			for keys := range 2 {
				if c := ask(two, keys, set); c != keypool.Scope {
					t.Errorf("%s, %d keys: %v", what, keys, c)
				}
			}
		}
		if err := k.ask(t.Context(), keypool.Request{Keys: 1, Sets: []map[string]string{k.attributes("db")}}, anything); err == nil || !strings.Contains(err.Error(), "scope") {
			t.Errorf("another role, over TLS: %v", err)
		}
		if n := m.slotCounts.handed.Load(); n != 0 {
			t.Errorf("%d keys made for that", n)
		}

		of := func(set map[string]string) []count { return m.countsOf(k.PID(), discovery.LabelsOf(set)) }
		if !m.handed.allow(time.Now(), handedPerSet-1, of(web)...) || ask(two, 2, web) != keypool.Quota {
			t.Error("more than a day's keys of a label set are given")
		}
		if c := ask(two, 1, web); c != keypool.OK {
			t.Errorf("the last key of the day: %v", c)
		}
		if c := ask(two, 1, k.attributes("app")); c != keypool.OK {
			t.Errorf("another label set: %v", c)
		}
		in := of(web)[:1]
		if m.handed.allow(time.Now(), handedPerDay-handedPerSet, in...) || !m.handed.allow(time.Now(), handedPerDay-handedPerSet-1, in...) {
			t.Error("what is given in all is not what was counted")
		}
		if c := ask(two, 1, k.attributes("app")); c != keypool.Quota {
			t.Errorf("another label set, after a day's of all: %v", c)
		}
		if c := ask(k.trustedKey(2), 1, web); c != keypool.OK {
			t.Errorf("another super peer pays for it: %v", c)
		}
		policies := count{k.PID(), "policies", handedPolicies}
		if !m.handed.allow(time.Now(), handedPolicies, policies) {
			t.Error("keys count as policies")
		}
		if c := ask(two, 0, map[string]string{"role": "app"}); c != keypool.Quota {
			t.Errorf("the day's policies, and one that nobody has asked for: %v", c)
		}
		sleep(t.Context(), 24*time.Hour)
		for range 2 {
			if c := ask(two, 0, map[string]string{"role": "app"}); c != keypool.OK {
				t.Errorf("policies the next day: %v", c)
			}
		}
		if n := m.handed.counts[policies]; n != 1 {
			t.Errorf("%d policies were unknown, want that of requests to the super peer", n)
		}
		if c := ask(two, 1, web); c != keypool.OK {
			t.Errorf("the next day: %v", c)
		}
	})
}

// TestLabelsWithoutAValueMakeNoLabelSet of its own, and a key is a member's.
func TestLabelsWithoutAValueMakeNoLabelSet(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		m, web := k.maker.authority, k.attributes("web")
		ask := func(set map[string]string) (keypool.Answer, error) {
			return m.handOut(k.authority.self().Key, keypool.Request{Keys: 1, Sets: []map[string]string{set}}, time.Now())
		}
		counts := m.countsOf(k.PID(), discovery.LabelsOf(web))
		junk := maps.Clone(web)
		junk[strings.Repeat("x", 64)] = ""
		if _, err := ask(junk); err == nil || m.handed.counts[counts[0]] != 0 {
			t.Errorf("a key that cannot be made: %v, counted %d", err, m.handed.counts[counts[0]])
		}
		if !m.handed.allow(time.Now(), handedPerSet, counts...) {
			t.Fatal("a key that could not be made counts")
		}
		for _, label := range []string{"junk", "zone"} {
			set := maps.Clone(web)
			set[label] = ""
			if ans, err := ask(set); err != nil || ans.Code != keypool.Quota {
				t.Errorf("the 257th key of role=web, with an empty %s: %v, %v", label, ans.Code, err)
			}
		}
		if ans, err := ask(map[string]string{"role": "app"}); err != nil || ans.Code != keypool.Scope {
			t.Errorf("a key of no member: %v, %v", ans.Code, err)
		}
	})
}

// TestChosenLabelsLeaveKeysForThoseOfSecrets: machines that may choose a label do not
// use up the day of those that may not.
func TestChosenLabelsLeaveKeysForThoseOfSecrets(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		m, now := k.maker.authority, time.Now()
		n := 0
		for zone := 0; m.handed.allow(now, 1, m.countsOf(k.PID(), map[string]string{"role": "web", "zone": fmt.Sprint(zone / handedPerSet)})...); zone++ {
			n++
		}
		if n != handedChosen {
			t.Errorf("%d keys of chosen labels", n)
		}
		for _, role := range []string{"web", "app"} {
			if ans, err := m.handOut(k.authority.self().Key, keypool.Request{Keys: 1, Sets: []map[string]string{k.attributes(role)}}, now); err != nil || ans.Code != keypool.OK {
				t.Errorf("role %s: %v, %v", role, ans.Code, err)
			}
		}
	})
}

// TestOneRequestAtATimeOfEachSuperPeer: nothing is read of another one until then.
func TestOneRequestAtATimeOfEachSuperPeer(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		first := tls.Client(k.maker.dial(newcomerAt), admission.MutualTLS(k.cert.config(time.Now()).Certificates[0], keypool.ALPN, func(ed25519.PublicKey) error { return nil }))
		if err := first.Handshake(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		second := make(chan error, 1)
		go func() { second <- k.ask(t.Context(), keypool.Request{}, anything) }()
		synctest.Wait()
		if len(second) > 0 {
			t.Fatalf("it did not wait: %v", <-second)
		}
		first.NetConn().Close()
		if err := <-second; err != nil {
			t.Errorf("when the first is gone: %v", err)
		}
	})
}

// TestSecretsOutsideTheScopeAskForNothing: the hand-over has the secrets of every
// role, and the super peer may grant one.
func TestSecretsOutsideTheScopeAskForNothing(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.authority.self().Scope["role"] = []string{"app"}
		asked, _ := k.maker.authority.trust().Descriptor.SuperPeer(k.PID())
		asked.Scope["role"] = []string{"app"}
		k.authority.slots = abe.NewPool(2, 2, 1)
		clear(k.authority.targets.wanted)
		if err := k.authority.prepare(time.Now()); err != nil {
			t.Fatal(err)
		}
		k.fill()
		k.admit("app", 1)
		_, err := comer(k.svc, "web", 2).ask(t, k.authority, nil)
		wantCode(t, "a role outside the scope", err, admission.CodeScope)
	})
}

// trustedKey is the key of super peer i.
func (k *keyless) trustedKey(i int) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(handOverOf(k.t, k.svc, i).Seed).Public().(ed25519.PublicKey)
}

// change has super peers learn what the owner has signed.
func (k *keyless) change(sign func(secret []byte, endpoint string, now time.Time) (*owner.Change, error), endpoint string, all ...*SuperPeer) *owner.Change {
	k.t.Helper()
	c, err := sign(k.svc.Secret, endpoint, time.Now())
	if err != nil {
		k.t.Fatal(err)
	}
	k.svc.Secret = c.Secret
	for _, s := range all {
		if _, err := s.learnDocuments(s.service, fileDocuments, documentsIn(k.t, c), time.Now()); err != nil {
			k.t.Fatal(err)
		}
	}
	return c
}

// TestRemovedSuperPeerIsGivenNothing: the handshake fails, and so does a request
// that was waiting for its turn.
func TestRemovedSuperPeerIsGivenNothing(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		k.change(owner.RemoveSuper, "192.0.2.2:4500", k.maker.SuperPeer)
		if err := k.ask(t.Context(), keypool.Request{}, anything); err == nil {
			t.Error("policies are given")
		}
		if _, err := k.maker.authority.handOut(k.authority.self().Key, keypool.Request{}, time.Now()); !errors.Is(err, errNoTaker) {
			t.Errorf("when its turn comes: %v", err)
		}
	})
}

// TestStrangersAreGivenNothing: members, whoever shows no certificate, and whoever
// is in the middle.
func TestStrangersAreGivenNothing(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		member := certificate{key: comer(k.svc, "web", 1).key}
		for what, certs := range map[string][]tls.Certificate{
			"a member": member.config(time.Now()).Certificates, "nobody": nil, "itself": k.maker.cert.config(time.Now()).Certificates,
		} {
			config := admission.MutualTLS(k.cert.config(time.Now()).Certificates[0], keypool.ALPN, func(ed25519.PublicKey) error { return nil })
			config.Certificates = certs
			c := tls.Client(k.maker.dial(newcomerAt), config)
			err := c.Handshake()
			if err == nil {
				if err = keypool.Write(c, keypool.Request{}.Encode()); err == nil {
					_, err = keypool.ReadAnswer(c)
				}
			}
			if err == nil {
				t.Errorf("%s is given something", what)
			}
			c.NetConn().Close()
		}
		sp := &k.maker.authority.trust().Descriptor.SuperPeers[2]
		sp.Roles = []string{service.RoleStore}
		if _, err := k.maker.authority.handOut(sp.Key, keypool.Request{}, time.Now()); !errors.Is(err, errNoTaker) {
			t.Errorf("a super peer that may not admit: %v", err)
		}
		maker, _ := k.authority.trust().Descriptor.SuperPeer(k.maker.PID())
		k.cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go impostor(far, member.config(time.Now()))
			return near, nil
		}
		if _, err := k.askAt(t.Context(), maker, "192.0.2.1:4500", keypool.Request{}); err == nil {
			t.Error("an answer of somebody else is believed")
		}
		k.cfg.Dial = k.dial
		other, _ := k.authority.trust().Descriptor.SuperPeer(id.FromKey(k.trustedKey(2)))
		if _, err := k.askAt(t.Context(), other, "192.0.2.1:4500", keypool.Request{}); err == nil {
			t.Error("an answer of another super peer than the one that was asked is believed")
		}
	})
}

// impostor answers a request.
func impostor(c net.Conn, config *tls.Config) {
	defer c.Close()
	tc := tls.Server(c, admission.MutualTLS(config.Certificates[0], keypool.ALPN, func(ed25519.PublicKey) error { return nil }))
	if _, err := keypool.ReadRequest(tc); err == nil {
		_ = keypool.Write(tc, keypool.Answer{}.Encode())
	}
}

// TestStolenDiskOfASuperPeerWithoutMasterKey: what is on it, and in its hand-over,
// holds no master key, and makes no key or seed for anything but the pool's labels.
func TestStolenDiskOfASuperPeerWithoutMasterKey(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		k.admit("web", 1)
		h := handOverOf(t, k.svc, 1)
		master := handOverOf(t, k.svc, 0).ABESeed
		if len(h.ABESeed) != 0 || len(master) != 32 {
			t.Fatal("the hand-over has a master key")
		}
		b, err := h.Seal(make([]byte, 32))
		if err != nil || bytes.Contains(b, master) {
			t.Fatal(err)
		}

		var disk []byte
		var pool []*abe.Slot
		if err := k.authority.ledger.Slots(func(_, value []byte) error {
			s, err := abe.RestoreSlot(value[1:], k.svc.ID)
			pool, disk = append(pool, s), append(disk, value...)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		kept, err := k.store.Get(fileKeypool)
		if err != nil {
			t.Fatal(err)
		}
		disk = append(disk, kept...)
		if bytes.Contains(disk, master) {
			t.Error("the master key is on the disk")
		}

		// Seeds: of requests to itself and of directories, and of no other policy.
		ans, err := keypool.ParseAnswer(kept)
		if err != nil {
			t.Fatal(err)
		}
		seeds := 0
		for _, p := range ans.Policies {
			if len(p.Seed) > 0 {
				seeds++
			}
		}
		toApp, _ := discovery.PolicyOf(k.authority.rules(), map[string]string{"role": "app"})
		db := abe.And(abe.Label("role", "web"), abe.Label("zone", "eu"))
		elsewhere := abe.ForSuperPeer(k.maker.PID())
		for _, p := range []abe.Policy{toApp, db, elsewhere} {
			seed, err := k.maker.authority.abe.PolicySeed(k.target(p))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(disk, seed[:]) {
				t.Errorf("the seed of %s is on the disk", p)
			}
		}
		if seeds != 2 {
			t.Errorf("%d seeds on the disk", seeds)
		}

		// Keys: of the labels of its secrets.
		secret := abe.Secret{7}
		for p, opened := range map[*abe.Policy]bool{&toApp: true, &db: false, &elsewhere: false} {
			ct, err := k.maker.authority.abe.Params().SealTo(nil, k.target(*p), secret)
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.ContainsFunc(pool, func(s *abe.Slot) bool {
				key, err := abe.ParseKey(s.Key)
				if err != nil {
					t.Fatal(err)
				}
				got, err := key.Unseal(k.target(*p), ct)
				return err == nil && got == secret
			}); got != opened {
				t.Errorf("%s is opened by a key of the pool: %v", *p, got)
			}
		}
		if len(pool) != 5 {
			t.Errorf("%d keys on the disk", len(pool))
		}
		if _, err := k.authority.slot(map[string]string{"role": "db"}, time.Now()); err == nil {
			t.Error("it makes a key for other labels")
		}
	})
}

// TestAnnouncedEpochNeedsNoAuthorityWhenItComes: its statements are there before.
func TestAnnouncedEpochNeedsNoAuthorityWhenItComes(t *testing.T) {
	withoutMaster(t, 4, func(t *testing.T, k *keyless) {
		k.fill()
		e, err := owner.NextEpoch(k.svc.Secret, owner.DefaultEpochDelay, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*SuperPeer{k.maker.SuperPeer, k.SuperPeer} {
			if _, err := s.update(e.Update, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := comer(k.svc, "app", 1).ask(t, k.authority, nil); !errors.Is(err, errNoPolicy) {
			t.Errorf("before an authority has told how contacts are sealed then: %v", err)
		}
		k.fill()
		if g := k.admit("app", 1); len(g.PublishNext) == 0 || g.Epoch != 1 {
			t.Errorf("epoch %d, the next statement has %d bytes", g.Epoch, len(g.PublishNext))
		}
		k.dead = true
		sleep(t.Context(), owner.DefaultEpochDelay)
		for range 2 {
			g := k.admit("app", 2)
			st, err := abe.VerifyStatement(g.Publish, k.svc.ID, k.authority.authorityKey, time.Now())
			if err != nil || st.Epoch != 2 || g.Epoch != 2 {
				t.Errorf("epoch %d, statement of epoch %d, %v", g.Epoch, st.Epoch, err)
			}
			k.restart()
		}
	})
}

// TestEpochThatNoAuthorityHasHeardOfIsHandedOutWithoutAStatement: better a machine
// that nobody finds for a while than one without the group key.
func TestEpochThatNoAuthorityHasHeardOfIsHandedOutWithoutAStatement(t *testing.T) {
	withoutMaster(t, 4, func(t *testing.T, k *keyless) {
		k.fill()
		e, err := owner.NextEpoch(k.svc.Secret, owner.DefaultEpochDelay, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.update(e.Update, time.Now()); err != nil {
			t.Fatal(err)
		}
		err = k.refill(t.Context(), time.Now())
		if err == nil || !strings.Contains(err.Error(), "other rules or epochs") {
			t.Errorf("an authority that knows no news: %v", err)
		}
		k.authority.cutOff.Store(true) // as keysLoop does
		if g := k.admit("app", 1); len(g.Keys) != 1 || len(g.PublishNext) != 0 || len(g.Publish) == 0 {
			t.Errorf("%d further keys, statements of %d and %d bytes", len(g.Keys), len(g.Publish), len(g.PublishNext))
		}
	})
}

// TestLaggingAuthorityReplacesNothing: what it says of an epoch that has passed, or
// without the one that is announced, is refused, and the other authority is asked at
// once, whichever comes first.
func TestLaggingAuthorityReplacesNothing(t *testing.T) {
	withoutMaster(t, 4, func(t *testing.T, k *keyless) {
		given := k.change(owner.GiveMaster, "192.0.2.3:4500", k.maker.SuperPeer, k.SuperPeer)
		lags := &gate{SuperPeer: startTestSuper(t, &owner.Service{ID: k.svc.ID, Supers: []owner.SuperFiles{given.Files}}, new(ledger.Memory), nil), pipes: newPipes(), svc: k.svc}
		defer lags.open(t)()
		asked := 0
		k.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "192.0.2.3:4500" {
				return k.dial(ctx, network, address)
			}
			asked++
			return lags.dial(netip.MustParseAddr("192.0.2.2")), nil
		}
		k.fill()
		e, err := owner.NextEpoch(k.svc.Secret, owner.DefaultEpochDelay, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*SuperPeer{k.maker.SuperPeer, k.SuperPeer} {
			if _, err := s.update(e.Update, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		again := func(when string) {
			t.Helper()
			asked = 0
			for range 16 {
				sets, _ := k.authority.lackedPolicies(time.Now())
				if err := k.ask(t.Context(), keypool.Request{Sets: sets}, func(ans keypool.Answer) error { return k.authority.takePolicies(ans, time.Now()) }); err != nil {
					t.Errorf("%s: %v", when, err)
				}
				if _, lacks := k.authority.lackedPolicies(time.Now()); lacks {
					t.Fatalf("%s: what was there is gone", when)
				}
			}
			if asked == 0 {
				t.Error("the authority that lags was never asked")
			}
			kept, err := k.store.Get(fileKeypool)
			if err != nil {
				t.Fatal(err)
			}
			ans, err := keypool.ParseAnswer(kept)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.authority.takePolicies(ans, time.Now()); err != nil {
				t.Errorf("%s: what is kept: %v", when, err)
			}
			k.admit("app", 1)
		}
		for _, lacks := k.authority.lackedPolicies(time.Now()); lacks; _, lacks = k.authority.lackedPolicies(time.Now()) {
			_ = k.refill(t.Context(), time.Now()) // who has nothing better takes what lags
		}
		again("an epoch is announced")
		sleep(t.Context(), owner.DefaultEpochDelay)
		again("it is in force")
	})
}

// TestMasterKeyChangesHandsWithTheDescriptor: who is no authority any more makes
// nothing and asks others; what it has signed is asked for anew.
func TestMasterKeyChangesHandsWithTheDescriptor(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		given := k.change(owner.GiveMaster, "192.0.2.3:4500", k.maker.SuperPeer, k.SuperPeer)
		k.change(owner.TakeMaster, "192.0.2.1:4500", k.maker.SuperPeer, k.SuperPeer)
		if k.maker.authority.makes() {
			t.Error("who is no authority any more makes keys")
		}
		if ans, err := k.maker.authority.handOut(k.authority.self().Key, keypool.Request{}, time.Now()); err != nil || ans.Code != keypool.None {
			t.Errorf("it is asked: %v, %v", ans.Code, err)
		}
		if _, err := k.maker.authority.target(discovery.Members(), time.Now()); !errors.Is(err, errNoPolicy) {
			t.Errorf("it hands out what it has signed: %v", err)
		}
		if _, err := k.authority.target(discovery.Members(), time.Now()); !errors.Is(err, errNoPolicy) {
			t.Errorf("others hand out what it has signed: %v", err)
		}
		k.restart() // with what it has kept, which is of no use
		if _, err := k.authority.target(discovery.Members(), time.Now()); !errors.Is(err, errNoPolicy) {
			t.Errorf("after a restart: %v", err)
		}

		svc := &owner.Service{ID: k.svc.ID, Supers: []owner.SuperFiles{given.Files}}
		third := &gate{SuperPeer: startTestSuper(t, svc, new(ledger.Memory), nil), pipes: newPipes(), svc: k.svc}
		defer third.open(t)()
		k.cfg.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			if address != "192.0.2.3:4500" {
				return nil, errDead
			}
			return third.dial(netip.MustParseAddr("192.0.2.2")), nil
		}
		k.change(owner.AddSuper, "192.0.2.4:4500", third.SuperPeer) // it hears what the others know
		k.fill()
		k.admit("app", 1)
	})
}

// TestAnswersThatAreNotWhatWasAskedForAreRefused: an authority that errs spoils
// nothing that is there.
func TestAnswersThatAreNotWhatWasAskedForAreRefused(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		k.fill()
		a, now := k.authority, time.Now()
		good := func() keypool.Answer {
			ans, err := k.maker.authority.handOut(a.self().Key, keypool.Request{Sets: []map[string]string{{"role": "app"}}}, now)
			if err != nil {
				t.Fatal(err)
			}
			return ans
		}
		if err := a.takePolicies(good(), now); err != nil {
			t.Fatal(err)
		}
		before := a.targets.byPolicy
		for what, spoil := range map[string]func(*keypool.Answer){
			"other parameters":       func(ans *keypool.Answer) { ans.Params[0] ^= 1 },
			"a forged statement":     func(ans *keypool.Answer) { ans.Policies[2].Statement[20] ^= 1 },
			"a forged envelope":      func(ans *keypool.Answer) { ans.Policies[2].Envelope[20] ^= 1 },
			"envelopes exchanged":    func(ans *keypool.Answer) { ans.Policies[2].Envelope = ans.Policies[1].Envelope },
			"another next statement": func(ans *keypool.Answer) { ans.Policies[2].Next = ans.Policies[1].Statement },
			"another seed":           func(ans *keypool.Answer) { ans.Policies[1].Seed[0] ^= 1 },
			"no seed":                func(ans *keypool.Answer) { ans.Policies[0].Seed = nil },
			"nothing":                func(ans *keypool.Answer) { ans.Policies = nil },
		} {
			ans := good()
			for i := range ans.Policies { // the authority keeps its own
				ans.Policies[i].Statement, ans.Policies[i].Envelope = bytes.Clone(ans.Policies[i].Statement), bytes.Clone(ans.Policies[i].Envelope)
			}
			spoil(&ans)
			if err := a.takePolicies(ans, now); err == nil {
				t.Errorf("%s: taken", what)
			}
		}
		if !maps.Equal(before, a.targets.byPolicy) {
			t.Error("what is refused takes the place of what was there")
		}

		keys := func(role string) keypool.Answer {
			ans, err := k.maker.authority.handKeys(a.attributes(role), 1, now)
			if err != nil {
				t.Fatal(err)
			}
			return ans
		}
		need := abe.Need{Labels: a.attributes("web"), Generation: 1}
		for what, ans := range map[string]keypool.Answer{"other labels": keys("app"), "no keys": {Expires: now.Unix() + 60}, "expired": {Slots: keys("web").Slots, Expires: now.Unix()}, "junk": {Slots: [][]byte{{1}}, Expires: now.Unix() + 60}} {
			if err := a.takeKeys(ans, need, now); err == nil {
				t.Errorf("%s: taken", what)
			}
		}
		need.Generation = 2
		if err := a.takeKeys(keys("web"), need, now); err == nil {
			t.Error("another generation: taken")
		}
	})
}

// TestSuperPeerThatCannotGetKeysDoesNotStart: nobody has the master key that its
// hand-over lacks.
func TestSuperPeerThatCannotGetKeysDoesNotStart(t *testing.T) {
	svc := newTestService(t, "shop")
	h := handOverOf(t, svc, 0)
	h.ABESeed = nil
	host, _ := newTestHost(t, listenLocal(t))
	_, err := host.Add(Config{HandOver: h, Ledger: new(ledger.Memory), Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "no ABE master key") {
		t.Error(err)
	}
}
