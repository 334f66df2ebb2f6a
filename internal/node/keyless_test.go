package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/owner"
)

// oneAuthority makes a world in which super peer 0 alone has the ABE master key.
func oneAuthority(t *testing.T, supers int) *world {
	t.Helper()
	w := newWorldOf(t, supers, func(o *owner.Options) { o.Authorities = 1 })
	w.eventually("every super peer has keys", time.Minute, func() bool {
		for _, p := range w.supers {
			if !p.sp.Ready() {
				return false
			}
		}
		return true
	})
	return w
}

// TestMachinesWithKeysOfAPoolFindTheOthers: it makes no difference which super
// peer admitted whom, nor who made the keys.
func TestMachinesWithKeysOfAPoolFindTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := oneAuthority(t, 3)
		web, app, db := w.via(1, "web", "web-1"), w.via(2, "app", "app-1"), w.via(0, "db", "db-1")
		w.pingOK(web, "app-1")
		w.pingOK(app, "db-1")
		w.eventually("web knows db", time.Minute, func() bool { return known(w, web) == 2 })
		if tn, _, err := web.find(w.ctx, "db-1"); err != nil {
			t.Error(err)
		} else if _, err := web.findContact(w.ctx, *tn.member.Load()); err == nil || !strings.Contains(err.Error(), "no key of this machine opens") {
			t.Errorf("web reads the contact of db: %v", err)
		}
		_ = db
	})
}

// TestPoolOutlivesTheAuthority: machines join, renew and find each other; then one
// is told why not, and where to go.
func TestPoolOutlivesTheAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := oneAuthority(t, 2)
		w.supers[0].kill()
		web := w.onlyVia(1, "web", "web-1").process(1, nil)
		m, _ := byTicket(t, w, web)
		app := w.via(1, "app", "app-1")
		if _, err := Join(w.ctx, web.process(2, m.Kept())); err != nil {
			t.Errorf("a renewal: %v", err)
		}
		db := w.via(1, "db", "db-1")
		w.pingOK(app, "db-1")
		_, err := Join(w.ctx, w.onlyVia(1, "web", "web-2"))
		if err == nil || !strings.Contains(err.Error(), "no attribute key left for role=web") || !strings.Contains(err.Error(), "another super peer is 192.0.2.1:4500") {
			t.Errorf("a machine without a key: %v", err)
		}
		w.startSuper(0, w.supers[0].store)
		time.Sleep(3 * time.Minute)
		w.via(1, "web", "web-2")
		_ = db
	})
}
