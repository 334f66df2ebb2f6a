package superpeer

import (
	"crypto/ed25519"
	"crypto/tls"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// renew visits with a ticket and everything else still at hand.
func (g *gate) renew(v *visitor, s *admission.Session) error {
	r, err := g.renewing(v, s, false)
	if r != nil {
		r.conn.NetConn().Close()
	}
	return err
}

// renewing is renew that leaves the connection open, for a List if it says so.
func (g *gate) renewing(v *visitor, s *admission.Session, list bool) (*visitor, error) {
	settings := admission.TicketTLS(nil)
	settings.ServerName = g.name
	conn := tls.Client(g.dial(newcomerAt), settings)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	binding, err := admission.BindClient(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	r := &visitor{conn: conn, key: v.key, svc: g.svc, super: g.PID()}
	r.client, err = admission.NewClient(admission.ClientConfig{
		ServiceID: g.svc.ID, Identity: v.key, Binding: binding, Session: s, List: list,
		CheckDescriptor: func(_, _ []byte, _ ed25519.PublicKey) (admission.Params, error) { return g.admission.Params, nil },
		Request: func() ([]byte, error) {
			req := provision.Request{PID: id.FromKey(v.key.Public().(ed25519.PublicKey)), Name: "web-1", Instance: service.Instance{1}}
			req.Claim = service.SignClaim(v.key, g.svc.ID, g.PID(), req.Instance, time.Now())
			return provision.Renewal{Request: req.Encode(), Holds: provision.AllParts}.Encode(), nil
		},
	})
	if err != nil {
		return r, err
	}
	out, err := r.exchange(r.client.Begin())
	if err != nil {
		return r, err
	}
	if _, err = r.exchange(out.Send[0]); err != nil {
		return r, err
	}
	f, err := admission.ReadFrame(conn, r.client.Limit())
	if err != nil {
		return r, err
	}
	if _, err = r.client.Step(time.Now(), f); err == nil {
		*s, _ = r.client.Session()
	}
	return r, err
}

// enterForTicket is admitted by secret.
func (g *gate) enterForTicket(t *testing.T) (*visitor, *admission.Session) {
	t.Helper()
	v, err := g.visit(newcomerAt, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := new(admission.Session)
	v.granted = func() { *s, _ = v.client.Session() }
	if err := v.enter(); err != nil {
		t.Fatal(err)
	}
	return v, s
}

// TestNoPeersAreListedAfterARenewal: there is no slot's secret to seal them with.
func TestNoPeersAreListedAfterARenewal(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		v, s := g.enterForTicket(t)
		r, err := g.renewing(v, s, true)
		if err != nil {
			t.Fatal(err)
		}
		defer r.conn.NetConn().Close()
		f, err := r.client.List(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.exchange(f)
		wantCode(t, "a list after a renewal", err, admission.CodeRequest)
	})
}

// TestNewcomersAndRenewalsDoNotWaitForEachOther: all workers of the one kind at
// work, and as many waiting as may, are nothing to the other.
func TestNewcomersAndRenewalsDoNotWaitForEachOther(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		v, s := g.enterForTicket(t)
		occupy := func(w *workers) (free func()) {
			release := make(chan struct{})
			for range cap(w.all) {
				go w.do(t.Context(), false, func() { <-release })
			}
			synctest.Wait()
			w.waiting.Add(2 * maxQueue)
			return func() {
				w.waiting.Add(-2 * maxQueue)
				close(release)
				synctest.Wait()
			}
		}
		free := occupy(g.door.workers)
		if err := g.renew(v, s); err != nil {
			t.Errorf("renewal in a storm of newcomers: %v", err)
		}
		wantCode(t, "newcomer in it", g.admit(host(1), nil), admission.CodeBusy)
		free()
		free = occupy(g.door.renewals)
		if err := g.admit(host(2), nil); err != nil {
			t.Errorf("newcomer in a storm of renewals: %v", err)
		}
		wantCode(t, "renewal in it", g.renew(v, s), admission.CodeBusy)
		free()
		if err := g.renew(v, s); err != nil {
			t.Errorf("renewal: %v", err)
		}
	})
}

// TestQueueOfMembersIsForTickets: to leave ML-KEM out is cheap, so that alone must
// not take members' workers.
func TestQueueOfMembersIsForTickets(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		v, s := g.enterForTicket(t)
		release := make(chan struct{})
		for range cap(g.door.renewals.all) {
			go g.door.renewals.do(t.Context(), false, func() { <-release })
		}
		synctest.Wait()
		forged := *s
		forged.Ticket = append([]byte{}, s.Ticket...)
		forged.Ticket[len(forged.Ticket)-1]++
		began := time.Now()
		wantCode(t, "a forged ticket", g.renew(v, &forged), admission.CodeTicket)
		if d := time.Since(began); d != 0 {
			t.Errorf("a forged ticket waited %v for a member's worker", d)
		}
		go func() { time.Sleep(time.Second); close(release) }()
		if err := g.renew(v, s); err != nil || time.Since(began) != time.Second {
			t.Errorf("a ticket: %v after %v, want to have waited", err, time.Since(began))
		}
	})
}

// TestRenewalsOfOneServiceLeaveAWorkerToTheOther, as newcomers do.
func TestRenewalsOfOneServiceLeaveAWorkerToTheOther(t *testing.T) {
	atTheGates(t, func(t *testing.T, shop, wiki *gate) {
		release := make(chan struct{})
		var members [2]*visitor
		var sessions [2]*admission.Session
		for i, g := range []*gate{shop, wiki} {
			members[i], sessions[i] = g.enterForTicket(t)
		}
		for range cap(shop.desk.renewals.slots) + 2*maxQueue {
			go shop.desk.renewals.do(t.Context(), false, func() { <-release })
		}
		synctest.Wait()
		wantCode(t, "service in a storm of renewals", shop.renew(members[0], sessions[0]), admission.CodeBusy)
		if err := wiki.renew(members[1], sessions[1]); err != nil {
			t.Errorf("the other: %v", err)
		}
		close(release)
		synctest.Wait()
		if err := shop.renew(members[0], sessions[0]); err != nil {
			t.Errorf("after the storm: %v", err)
		}
	})
}

// TestMachineThatAppearsElsewhereIsWrittenDown: a restart is no warning.
func TestMachineThatAppearsElsewhereIsWrittenDown(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	var warns atomic.Int64
	s.authority.log = slog.New(countWarns{&warns})
	c := comer(svc, "web", 1)
	for _, tc := range []struct {
		vm       string
		instance byte
		warns    int64
	}{{"a", 1, 0}, {"a", 1, 0}, {"a", 2, 0}, {"b", 3, 1}, {"b", 4, 1}, {"a", 5, 2}} {
		if _, err := c.ask(t, s.authority, func(r *provision.Request) {
			r.VM, r.Instance = tc.vm, service.Instance{tc.instance}
			r.Claim = service.SignClaim(c.key, svc.ID, s.PID(), r.Instance, time.Now())
		}); err != nil {
			t.Fatal(err)
		}
		if got := warns.Load(); got != tc.warns {
			t.Errorf("process %d on %s: %d warnings, want %d", tc.instance, tc.vm, got, tc.warns)
		}
	}
}
