package node

import (
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

// unread are readers of a machine's directories that have read the roots and no shard.
func (p *nodeProc) unread(w *world, took map[id.ID]int) map[id.ID]*directory.Follower {
	w.t.Helper()
	all := map[id.ID]*directory.Follower{}
	for _, sp := range p.trust().Descriptor.SuperPeers {
		f := directory.NewFollower(sp, directory.Follow{
			Source: p.overlay, Open: p.openSealed, Trust: p.trust, Now: p.now, Heard: func(id.ID, int64) {},
			Take: func(issuer id.ID, s *directory.Shard) { took[issuer] += len(s.Members) },
		})
		if _, err := f.Poll(w.ctx, false); err != nil {
			w.t.Fatal(err)
		}
		all[sp.PID()] = f
	}
	return all
}

// A member gets the directories of all super peers from one of them, and only if it is
// a member.
func TestDirectoriesAreReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, "")
		web := w.start("web", "web-1")
		for i := range 3 {
			w.via(i, "app", fmt.Sprintf("app-%d", i))
		}
		w.eventually("everybody is listed", 2*time.Minute, func() bool { return known(w, web) == 3 })
		servers := web.bulkServers()
		if len(servers) != 3 || servers[0].key != web.membership.Load().Credential.Issuer {
			t.Fatalf("%d super peers to ask, or another than ours first", len(servers))
		}
		for _, at := range servers {
			w.eventually("it has all of it", 2*time.Minute, func() bool {
				took := map[id.ID]int{}
				all := web.unread(w, took)
				want := lacks(all)
				asked := len(want.refs)
				got, err := web.bulkFrom(w.ctx, at, want)
				if err != nil {
					t.Logf("%s: %d of %d, %v", at.endpoint, got, asked, err)
					time.Sleep(bulkTimeout)
					return false
				}
				members := 0
				for pid, f := range all {
					if members += took[pid]; !f.Whole() {
						return false
					}
				}
				return asked >= 3 && got == asked && members == 4 && len(want.refs) == 0
			})
		}

		_, stranger, _ := ed25519.GenerateKey(nil)
		c, err := w.dial(w.ctx, servers[0].endpoint)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		config := admission.MutualTLS(admission.Certificate(stranger, time.Now()), directory.BulkALPN, func(ed25519.PublicKey) error { return nil })
		config.ServerName = service.ServerName(servers[0].public)
		tc := tls.Client(c, config)
		if err = tc.HandshakeContext(w.ctx); err == nil { // the server's no comes after our end of it
			_ = lacks(web.unread(w, map[id.ID]int{})).request.Write(tc)
			_, err = directory.ReadPart(tc)
		}
		if err == nil {
			t.Error("a stranger gets directories")
		}
		wrong := servers[0]
		wrong.public = stranger.Public().(ed25519.PublicKey)
		if _, err := web.bulkFrom(w.ctx, wrong, lacks(web.unread(w, map[id.ID]int{}))); err == nil {
			t.Error("directories are read from somebody who is not the super peer")
		}
	})
}

// One member that asks as often as it may, and does not read, takes nobody's turn.
func TestOneMemberDoesNotTakeAllTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		greedy, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.eventually("both are listed", 2*time.Minute, func() bool { return known(w, app) == 1 && known(w, greedy) == 1 })
		time.Sleep(10 * time.Minute) // so that nothing is left of what they asked at the start
		at := app.bulkServers()[0]
		if got, err := app.bulkFrom(w.ctx, at, lacks(app.unread(w, map[id.ID]int{}))); err != nil || got == 0 {
			t.Fatal(got, err)
		}
		request := lacks(greedy.unread(w, map[id.ID]int{})).request
		for range 4 {
			c, err := w.dial(w.ctx, at.endpoint)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			config := admission.MutualTLS(admission.Certificate(greedy.key, time.Now()), directory.BulkALPN, func(ed25519.PublicKey) error { return nil })
			config.ServerName = service.ServerName(at.public)
			tc := tls.Client(c, config)
			if err := tc.HandshakeContext(w.ctx); err != nil {
				t.Fatal(err)
			}
			_ = request.Write(tc) // all but the first are turned away
		}
		if got, err := app.bulkFrom(w.ctx, at, lacks(app.unread(w, map[id.ID]int{}))); err != nil {
			t.Errorf("another member gets %d shards: %v", got, err)
		}
	})
}
