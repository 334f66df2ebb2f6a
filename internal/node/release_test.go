package node

import (
	"crypto/ed25519"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/owner"
	"icvpn/internal/service"
)

// nameKey has the owner name a release key; super peer 0 gets the policy while it
// runs.
func (w *world) nameKey(k ed25519.PrivateKey) {
	w.t.Helper()
	u := service.Updates{Channel: "stable", Keys: []string{service.ReleaseKeyText(k.Public().(ed25519.PublicKey))}}
	n, err := owner.SetUpdates(w.svc.Secret, u, time.Now())
	if err == nil {
		w.svc.Secret = n.Secret
		_, err = w.supers[0].sp.Update(w.ctx, n.Update.Encode())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// release gives super peer 0 a manifest that ends after life.
func (w *world) release(seq uint64, version string, life time.Duration, k ed25519.PrivateKey) {
	w.t.Helper()
	now := time.Now()
	s, err := service.NewRelease(service.Release{
		Service: w.svc.ID, Seq: seq, Issued: now.Unix(), Expires: now.Add(life).Unix(), Channel: "stable", Version: version, Minimum: "1.0.0",
		Artefacts: []service.Artefact{{OS: "linux", Arch: "amd64", Size: 1, SHA256: make([]byte, 32)}},
	})
	if err == nil {
		s, err = s.SignRelease(k)
	}
	if err == nil {
		_, err = w.supers[0].sp.Update(w.ctx, s.EncodeRelease())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// shown is what a process shows of releases.
func (w *world) shown(h control.Handler) *control.Release {
	w.t.Helper()
	s, err := h.Status(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.Release
}

// shows waits until a process shows a version as the newest; "" is none.
func (w *world) shows(what string, limit time.Duration, h control.Handler, version string) {
	w.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(limit / 60) {
		if r := w.shown(h); r != nil && r.Version == version {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// TestManifestGoesFromOneSuperPeerToEveryMachine: the other super peer has it
// within a minute, a machine within an hour or soon after its start; and when the
// key is not named any more, nobody believes it.
func TestManifestGoesFromOneSuperPeerToEveryMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		first, second := newIdentity(t), newIdentity(t)
		before := w.via(1, "web", "web-1") // its policy names no keys yet
		w.nameKey(first)
		w.shows("the other super peer has the policy", time.Minute, w.supers[1].sp, "")
		var kept []byte
		w.node = func(c *Config) { c.SaveRelease = func(b []byte) error { kept = b; return nil } }
		app := w.via(1, "app", "app-1")
		w.shows("the machine has asked for the first time", 2*time.Minute, app, "")
		w.release(5, "1.2.0", 3*time.Hour, first)
		w.shows("the other super peer has the manifest", time.Minute, w.supers[1].sp, "1.2.0")
		w.shows("the machine has it", releasePoll+time.Minute, app, "1.2.0")
		web := w.via(1, "web", "web-2")
		w.shows("a new machine has it soon", 2*time.Minute, web, "1.2.0")
		if r := w.shown(app); r.Note != `this process is of version "test", which cannot be compared with 1.2.0` || len(kept) == 0 {
			t.Errorf("%+v, %d bytes kept", r, len(kept))
		}
		w.release(6, "1.2.1", 3*time.Hour, first)
		w.shows("the machine has the next one", releasePoll+time.Minute, app, "1.2.1")
		if r := w.shown(before); r != nil {
			t.Errorf("a machine whose policy names no keys shows %+v", r)
		}
		w.nameKey(second)
		w.shows("the other super peer has the next policy", time.Minute, w.supers[1].sp, "")
		for _, m := range []*nodeProc{app, before} {
			m.renewNow <- struct{}{}
			w.shows("a machine with the next policy believes the former key no more", time.Minute, m, "")
		}
		w.release(1, "1.3.0", 3*time.Hour, second)
		w.shows("the other super peer goes on from the new key's first number", time.Minute, w.supers[1].sp, "1.3.0")
		w.shows("so does a machine", releasePoll+time.Minute, before, "1.3.0")
	})
}

// TestExpiredManifestExposesAFreeze: a machine that hears of nothing newer says so,
// and one that comes then is not told that an old version is the newest.
func TestExpiredManifestExposesAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		k := newIdentity(t)
		w.nameKey(k)
		web := w.start("web", "web-1")
		w.release(5, "1.2.0", 90*time.Minute, k)
		w.shows("the machine has it", releasePoll+time.Minute, web, "1.2.0")
		const note = "the manifest has expired, so newer releases may be kept from this process"
		end := w.shown(web).Expires
		time.Sleep(time.Until(end) - time.Second)
		for _, after := range []bool{false, true} {
			for name, h := range map[string]control.Handler{"the machine": web, "the super peer": w.supers[0].sp} {
				if r := w.shown(h); r.Version != "1.2.0" || strings.HasPrefix(r.Note, note) != after {
					t.Errorf("%s, after the end %v: %+v", name, after, r)
				}
			}
			time.Sleep(2 * time.Second)
		}
		late := w.start("app", "app-1")
		time.Sleep(5 * time.Minute)
		if r := w.shown(late); r.Version != "" {
			t.Errorf("a new machine believes %+v", r)
		}
	})
}

// TestCosignedCopiesDoNotKeepSuperPeersBusy: each super peer was given a copy of one
// manifest that others have signed as well.
func TestCosignedCopiesDoNotKeepSuperPeersBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		alice, bob, carol := newIdentity(t), newIdentity(t), newIdentity(t)
		u := service.Updates{Channel: "stable", Threshold: 2}
		for _, k := range []ed25519.PrivateKey{alice, bob, carol} {
			u.Keys = append(u.Keys, service.ReleaseKeyText(k.Public().(ed25519.PublicKey)))
		}
		n, err := owner.SetUpdates(w.svc.Secret, u, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range w.supers {
			if _, err := s.sp.Update(w.ctx, n.Update.Encode()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		var datagrams atomic.Int64
		watch := watcher(func(netip.AddrPort, netip.AddrPort, []byte) bool { datagrams.Add(1); return true })
		w.watch.Store(&watch)
		const hour = time.Hour
		time.Sleep(hour)
		before := datagrams.Swap(0)
		now := time.Now()
		m, err := service.NewRelease(service.Release{
			Service: w.svc.ID, Seq: 5, Issued: now.Unix(), Expires: now.Add(24 * time.Hour).Unix(), Channel: "stable", Version: "1.2.0", Minimum: "1.0.0",
			Artefacts: []service.Artefact{{OS: "linux", Arch: "amd64", Size: 1, SHA256: make([]byte, 32)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, other := range []ed25519.PrivateKey{bob, carol} { // no way to make one of the two
			one, err := m.SignRelease(alice)
			if err == nil {
				one, err = one.SignRelease(other)
			}
			if err == nil {
				_, err = w.supers[i].sp.Update(w.ctx, one.EncodeRelease())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(hour)
		if after := datagrams.Load(); after > before+before/2 {
			t.Errorf("%d datagrams in an hour, %d before there were two copies", after, before)
		}
	})
}
