package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLeaveSaysWhoWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		app, web := w.start("app", "app-1"), w.start("web", "web-1")
		w.pingOK(web, "app-1")
		if app.Left() != nil {
			t.Error("a leave before the leave")
		}
		app.stop()
		l := app.Left()
		if l == nil || !l.Published || !l.Withdrawn || l.PeersTold != 1 || l.Error != "" {
			t.Errorf("left %+v, want 1 peer told and the contact withdrawn", l)
		}
	})
}

func TestLeaveThatNobodyHearsSaysUntilWhenItIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		app, web := w.start("app", "app-1"), w.start("web", "web-1")
		w.pingOK(web, "app-1")
		w.supers[0].kill()
		web.kill()
		began := time.Now()
		app.stop()
		l := app.Left()
		if l == nil || !l.Published || l.Withdrawn || l.Error == "" {
			t.Fatalf("left %+v, want an error", l)
		}
		if l.ContactEnds.Before(began) || l.ContactEnds.After(began.Add(contactLife)) {
			t.Errorf("contact ends at %v, now is %v", l.ContactEnds, began)
		}
	})
}

func TestLeaveOfWhoNobodyMayReachWithdrawsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		w.eventually("web-1 is up", time.Minute, func() bool {
			log, err := web.JoinSteps(w.ctx)
			return err == nil && len(log) > 0 && log[len(log)-1].Name == stepContact
		})
		web.stop()
		if l := web.Left(); l == nil || l.Published || l.Error != "" {
			t.Errorf("left %+v, want nothing to withdraw", l)
		}
	})
}

func TestStatusWarnsOfANameBorneTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		app, twin := w.start("app", "app-1"), w.start("app", "app-1")
		for _, p := range []*nodeProc{app, twin} {
			w.eventually("the twin is known", time.Minute, func() bool {
				s, err := p.Status(w.ctx)
				return err == nil && len(s.Warnings) == 1 && strings.Contains(s.Warnings[0], "app-1") &&
					strings.Contains(s.Warnings[0], app.self.Short()) && strings.Contains(s.Warnings[0], twin.self.Short())
			})
		}
	})
}
