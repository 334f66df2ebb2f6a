package node

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestCloneIsBelievedOnlyFromWhoAdmittedUs: any other super peer may say it of
// any machine. Directories tell of the later process with its claim.
func TestCloneIsBelievedOnlyFromWhoAdmittedUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web := w.start("web", "web-1")
		before := web.membership.Load()
		for _, s := range w.supers {
			if s.endpoint == before.SuperPeer {
				continue
			}
			time.Sleep(2 * time.Second)
			cfg := web.cfg.Join.process(9, nil)
			cfg.Prefer = s.endpoint
			later, err := Join(w.ctx, cfg)
			if err != nil || later.SuperPeer != s.endpoint {
				t.Fatalf("the later process: %v", err)
			}
			asked := *before
			asked.SuperPeer = s.endpoint
			web.membership.Store(&asked)
			web.renew(w.ctx)
			synctest.Wait()
			if err := web.call(w.ctx, func() {}); err != nil || web.membership.Load() != &asked {
				t.Errorf("left on another super peer's word: %v", err)
			}
		}
	})
}
