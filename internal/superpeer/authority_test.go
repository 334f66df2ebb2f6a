package superpeer

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/owner/ownertest"
	"icvpn/internal/port"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/underlay/simnet"
)

var errFull = errors.New("no space left on device")

// newTestSuper makes super peer 1 of a service, not running.
func newTestSuper(t testing.TB, store ledger.Home, change func(*service.HandOver)) (*SuperPeer, *owner.Service) {
	t.Helper()
	svc := ownertest.Service(t, owner.Options{
		Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/26"), Roles: []string{"web", "app"}, SuperPeers: []string{"192.0.2.1:4500", "192.0.2.2:4500"},
		Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}, Now: time.Now(),
	})
	return startTestSuper(t, svc, store, change), svc
}

// keysOf makes keys as abe.Authority does, but none anew that another test had made.
// Benchmarks measure what it costs.
func keysOf(t testing.TB) func(abe.Secret, id.ID) (KeyMaker, error) {
	if _, measures := t.(*testing.B); measures {
		return nil
	}
	return func(seed abe.Secret, service id.ID) (KeyMaker, error) { return ownertest.Open(t, seed, service) }
}

func startTestSuper(t testing.TB, svc *owner.Service, store ledger.Home, change func(*service.HandOver)) *SuperPeer {
	t.Helper()
	udp, err := simnet.New(simnet.Config{}).Listen(4500, netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	return startTestSuperOn(t, udp, svc, store, change)
}

// handOver opens the owner's hand-over to the super peer with this number.
func handOver(t testing.TB, svc *owner.Service, n int) service.HandOver {
	t.Helper()
	key, err := owner.ParseKey(svc.Supers[n].Key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := service.OpenHandOver(svc.Supers[n].HandOver, key)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func startTestSuperOn(t testing.TB, udp port.Conn, svc *owner.Service, store ledger.Home, change func(*service.HandOver)) *SuperPeer {
	t.Helper()
	h := handOver(t, svc, 0)
	if change != nil {
		change(&h)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	s, err := New(Config{HandOver: h, Ledger: store, UDP: udp, TCP: tcp, Log: slog.New(slog.DiscardHandler), ABE: keysOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	if s.recall.pending() { // there is nobody to ask
		close(s.recall.done)
	}
	return s
}

// newcomer is a machine that has proved the secret of a role.
type newcomer struct {
	key ed25519.PrivateKey
	who admission.Authenticated
}

func comer(svc *owner.Service, role string, n byte) newcomer {
	seed := make([]byte, 32)
	seed[0] = n
	c := newcomer{key: ed25519.NewKeyFromSeed(seed)}
	pub := c.key.Public().(ed25519.PublicKey)
	c.who = admission.Authenticated{Service: svc.ID, PID: id.FromKey(pub), IDKey: pub, Admitted: time.Now()}
	for _, rt := range svc.Tokens {
		if rt.Role == role {
			c.who.SecretID = rt.Token.SecretID
		}
	}
	return c
}

// ask makes the sealed request of a newcomer and gives it to the authority.
func (c newcomer) ask(t *testing.T, a *authority, change func(*provision.Request)) (provision.Grant, error) {
	t.Helper()
	tg, err := a.target(a.provisioning(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := provision.Request{PID: c.who.PID, Name: "m-1", Instance: service.Instance{1}}
	r.Claim = service.SignClaim(c.key, a.trust().Service, a.self().PID(), r.Instance, time.Now())
	if change != nil {
		change(&r)
	}
	sealed, err := discovery.Seal(tg.statement, "request", c.who.IDKey, r.Encode())
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := a.grant(c.who, sealed, netip.MustParseAddr("192.0.2.9"), time.Now())
	if err != nil {
		return provision.Grant{}, err
	}
	out, err := provision.ParseGrant(g.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return out, nil
}

func wantCode(t *testing.T, what string, err error, code admission.Code) {
	t.Helper()
	var r *admission.Refusal
	if !errors.As(err, &r) || r.Code != code {
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

func TestGrantIsWhatEveryVerifierAccepts(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	a := s.authority
	c := comer(svc, "app", 1)
	g, err := c.ask(t, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := a.trust().VerifyCredential(time.Now(), g.Credential, g.Epoch)
	if err != nil || cred.Labels["role"] != "app" || !strings.HasPrefix(cred.Addr4().String(), "10.42.0.") {
		t.Fatalf("credential %+v, %v", cred, err)
	}
	key, err := abe.ParseKey(g.AttributeKey)
	if err != nil {
		t.Fatal(err)
	}
	t4 := abe.Target{Service: svc.ID, Generation: 1, Policy: abe.ForSlot(abe.SlotID(cred.Slot))}
	if _, err := key.Unseal(t4, g.SlotCiphertext); err != nil {
		t.Errorf("attribute key does not open its slot: %v", err)
	}
	st, err := abe.VerifyStatement(g.Publish, svc.ID, func(p id.ID) (ed25519.PublicKey, bool) { return a.trust().AuthorityKey(p, time.Now()) }, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := discovery.PolicyOf(a.rules(), cred.Labels); !st.Target.Policy.Equal(want) {
		t.Errorf("contact policy %s, want %s", st.Target.Policy, want)
	}
	again, err := c.ask(t, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := a.trust().VerifyCredential(time.Now(), again.Credential, again.Epoch)
	if err != nil || renewed.Addr4() != cred.Addr4() || string(renewed.Slot) == string(cred.Slot) {
		t.Errorf("renewed credential %+v, %v", renewed, err)
	}
}

func TestGrantRefusals(t *testing.T) {
	store := new(ledger.Memory)
	s, svc := newTestSuper(t, store, func(h *service.HandOver) { h.Secrets[1].Quota = 1 })
	a := s.authority
	web := comer(svc, "web", 1)
	_, err := web.ask(t, a, func(r *provision.Request) { r.Labels = map[string]string{"role": "app"} })
	wantCode(t, "label of another role", err, admission.CodeScope)
	_, err = web.ask(t, a, func(r *provision.Request) { r.PID = id.ID{1} })
	wantCode(t, "another PID", err, admission.CodeRequest)
	_, err = web.ask(t, a, func(r *provision.Request) { r.Name = "Not A Name" })
	wantCode(t, "bad name", err, admission.CodeRequest)
	if _, _, err := a.grant(web.who, []byte("junk"), netip.Addr{}, time.Now()); err == nil {
		t.Error("granted an unsealed request")
	}
	if _, err := comer(svc, "app", 2).ask(t, a, nil); err != nil {
		t.Fatal(err)
	}
	_, err = comer(svc, "app", 3).ask(t, a, nil)
	wantCode(t, "quota used up", err, admission.CodeQuota)
	if _, err := comer(svc, "app", 2).ask(t, a, nil); err != nil {
		t.Errorf("a renewal counted against the quota: %v", err)
	}
	sec := a.secrets[web.who.SecretID]
	sec.Expires = time.Now().Unix() - 1
	a.secrets[web.who.SecretID] = sec
	_, err = web.ask(t, a, nil)
	wantCode(t, "expired secret", err, admission.CodeExpiredSecret)
	a.trust().Policy.Out.Peers = []string{comer(svc, "app", 2).who.PID.String()}
	_, err = comer(svc, "app", 2).ask(t, a, nil)
	wantCode(t, "revoked peer", err, admission.CodeRevoked)
}

func TestFullDiskStopsAdmissionAndLosesNobody(t *testing.T) {
	store := new(ledger.Memory)
	s, svc := newTestSuper(t, store, nil)
	first := comer(svc, "web", 1)
	g, err := first.ask(t, s.authority, nil)
	if err != nil {
		t.Fatal(err)
	}
	store.Fail(errFull)
	if _, err := comer(svc, "web", 2).ask(t, s.authority, nil); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("admission on a full disk: %v", err)
	}
	if s.authority.ledger.Member(comer(svc, "web", 2).who.PID) != nil {
		t.Error("a machine that was refused is a member")
	}
	store.Fail(nil)
	again := startTestSuper(t, svc, store, nil)
	g2, err := first.ask(t, again.authority, nil)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := s.authority.trust().VerifyCredential(time.Now(), g.Credential, 1)
	two, _ := again.authority.trust().VerifyCredential(time.Now(), g2.Credential, 1)
	if one.Addr4() != two.Addr4() {
		t.Errorf("address %s before the restart, %s after", one.Addr4(), two.Addr4())
	}
}

func TestFullBlockNamesAnotherSuperPeer(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	fill(t, s.authority, comer(svc, "web", 1), func(n int) string { return fmt.Sprint("w", n) })
	fill(t, s.authority, comer(svc, "app", 2), func(n int) string { return fmt.Sprint("a", n) })
	_, err := comer(svc, "web", 1).ask(t, s.authority, nil)
	wantCode(t, "full block", err, admission.CodeAddresses)
	if !strings.Contains(err.Error(), "192.0.2.2:4500") {
		t.Errorf("refusal does not name the other super peer: %v", err)
	}
}

func TestSuperPeerRefusesAForeignHandOver(t *testing.T) {
	_, svc := newTestSuper(t, new(ledger.Memory), nil)
	for name, change := range map[string]func(*service.HandOver){
		"another identity": func(h *service.HandOver) { h.Seed = make([]byte, 32) },
		"another ABE seed": func(h *service.HandOver) { h.ABESeed = make([]byte, 32) },
		"short ABE seed":   func(h *service.HandOver) { h.ABESeed = h.ABESeed[:31] },
		"short ticket key": func(h *service.HandOver) { h.TicketKey = nil },
		"short fake key":   func(h *service.HandOver) { h.FakeKey = h.FakeKey[:31] },
	} {
		key, _ := owner.ParseKey(svc.Supers[0].Key)
		h, err := service.OpenHandOver(svc.Supers[0].HandOver, key)
		if err != nil {
			t.Fatal(err)
		}
		change(&h)
		udp, _ := simnet.New(simnet.Config{}).Listen(4500, netip.MustParseAddr("192.0.2.1"))
		if _, err := New(Config{HandOver: h, Ledger: new(ledger.Memory), UDP: udp, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestQuotaAndAdmissionTimeGoBySecret(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), func(h *service.HandOver) { h.Secrets[1].Quota = 1 })
	a := s.authority
	if _, err := comer(svc, "app", 1).ask(t, a, nil); err != nil {
		t.Fatal(err)
	}
	web := comer(svc, "web", 2)
	first, err := web.ask(t, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = comer(svc, "app", 2).ask(t, a, nil) // known, but by another secret
	wantCode(t, "quota of another secret", err, admission.CodeQuota)
	web.who.Admitted = web.who.Admitted.Add(time.Hour)
	again, err := web.ask(t, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := a.trust().VerifyCredential(time.Now(), first.Credential, 1)
	two, _ := a.trust().VerifyCredential(time.Now(), again.Credential, 1)
	if one.AdmittedAt != two.AdmittedAt {
		t.Errorf("a renewal moved the time of admission from %d to %d", one.AdmittedAt, two.AdmittedAt)
	}
}

func TestProvisioningStatementIsRenewed(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	later := time.Now().Add(40 * 24 * time.Hour)
	b, err := s.authority.info(later)
	if err != nil {
		t.Fatal(err)
	}
	i, err := provision.ParseInfo(b)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(p id.ID) (ed25519.PublicKey, bool) { return s.authority.trust().AuthorityKey(p, later) }
	if _, err := abe.VerifyStatement(i.Statement, svc.ID, verify, later); err != nil {
		t.Errorf("after 40 days of uptime: %v", err)
	}
}
