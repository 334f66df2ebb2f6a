package node

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// dyingConn is a connection to a super peer that dies after some writes to it
// or some reads from it, whichever it counts.
type dyingConn struct {
	net.Conn
	left   atomic.Int32
	writes bool
}

func (c *dyingConn) spend(counted bool) error {
	if counted && c.left.Add(-1) < 0 {
		c.Conn.Close()
		return net.ErrClosed
	}
	return nil
}

func (c *dyingConn) Write(b []byte) (int, error) {
	if err := c.spend(c.writes); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *dyingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		err = c.spend(!c.writes)
	}
	return n, err
}

// TestSuperPeerMayDieAtAnyStepOfAnAdmission: another one admits within seconds,
// no address is given twice, and what the dead one may have granted ends with
// its lease. By secret, by ticket, and with the cut in each direction.
func TestSuperPeerMayDieAtAnyStepOfAnAdmission(t *testing.T) {
	for _, ticket := range []bool{false, true} {
		for _, writes := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) { dieAtEachStep(t, ticket, writes) })
		}
	}
}

func dieAtEachStep(t *testing.T, ticket, writes bool) {
	w := newWorld(t, 2, "")
	given := map[netip.Addr]string{}
	hold := func(name string, m *Membership) {
		if other, twice := given[m.Credential.Addr4()]; twice && other != name {
			t.Errorf("%v is given to %s and to %s", m.Credential.Addr4(), other, name)
		}
		given[m.Credential.Addr4()] = name
	}
	for cut := int32(0); ; cut++ {
		name := "web-" + string('a'+cut)
		cfg := w.joinConfig("web", name, newIdentity(t)).process(1, nil)
		if ticket {
			m, _ := byTicket(t, w, cfg)
			hold(name, m)
			cfg = cfg.process(2, m.Kept())
		}
		var died atomic.Bool
		cfg.Prefer = w.supers[0].endpoint
		cfg.Dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
			c, err := w.dial(ctx, endpoint)
			if err != nil || endpoint != w.supers[0].endpoint {
				return c, err
			}
			if died.Load() {
				return nil, net.ErrClosed
			}
			d := &dyingConn{Conn: c, writes: writes}
			d.left.Store(cut)
			context.AfterFunc(ctx, func() { died.Store(true) })
			return d, nil
		}
		began := time.Now()
		m, err := Join(w.ctx, cfg)
		if err != nil {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("cut after %d: admitted after %v", cut, took)
		}
		if m.SuperPeer == w.supers[0].endpoint {
			if cut < 4 {
				t.Errorf("admitted over a connection that was cut after %d", cut)
			}
			return // it lived long enough
		}
		hold(name, m)
		// The dead one may list the machine, with an address of its own, no longer
		// than it was granted for.
		peers, err := w.supers[0].sp.Peers(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			if other, twice := given[p.Address4]; twice && other != p.Name {
				t.Errorf("%v is given to %s and to %s", p.Address4, other, p.Name)
			}
		}
	}
}
