package node

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/service"
)

func wallClock() Moment { return Moment{Wall: time.Now()} }

func TestKeptMembershipIsVerifiedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		m, err := Join(w.ctx, w.joinConfig("web", "web-1", key))
		if err != nil {
			t.Fatal(err)
		}
		b := m.Encode(wallClock())
		got, err := DecodeMembership(b, w.svc.ID, key, Seen{}, wallClock())
		if err != nil || got.Credential.Addr4() != m.Credential.Addr4() || string(got.Session.Ticket) != string(m.Session.Ticket) || len(got.Session.Ticket) == 0 || got.Session.Key != m.Session.Key || !got.Unconfirmed {
			t.Fatalf("DecodeMembership: %v", err)
		}
		if _, err := DecodeMembership(b, w.svc.ID, newIdentity(t), Seen{}, wallClock()); err == nil {
			t.Error("accepted for another identity")
		}
		if _, err := DecodeMembership(b, w.svc.ID, key, Seen{}, Moment{Wall: time.Now().Add(25 * time.Hour)}); err == nil {
			t.Error("accepted after its credential expired")
		}
		for i := 0; i < len(b); i += 37 {
			if _, err := DecodeMembership(b[:i], w.svc.ID, key, Seen{}, wallClock()); err == nil {
				t.Errorf("accepted a truncation to %d bytes", i)
			}
			if _, _, err := DecodeKept(b[:i]); err == nil {
				t.Errorf("DecodeKept accepted a truncation to %d bytes", i)
			}
		}
	})
}

// TestKeptMembershipIsNotRolledBack: somebody may put an older file back, so
// that a revocation is forgotten.
func TestKeptMembershipIsNotRolledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		m, err := Join(w.ctx, w.joinConfig("web", "web-1", key))
		if err != nil {
			t.Fatal(err)
		}
		b := m.Encode(wallClock())
		d, p, r := m.Trust.Descriptor.Seq, m.Trust.Policy.Sequence, m.Trust.Root.Seq
		if _, err := DecodeMembership(b, w.svc.ID, key, Seen{d, p, r}, wallClock()); err != nil {
			t.Error(err)
		}
		for name, seen := range map[string]Seen{"descriptor": {d + 1, p, r}, "policy": {d, p + 1, r}, "root": {d, p, r + 1}} {
			if _, err := DecodeMembership(b, w.svc.ID, key, seen, wallClock()); !errors.Is(err, service.ErrRollback) {
				t.Errorf("%s of before: %v", name, err)
			}
		}
	})
}

// TestKeptOffsetFollowsTheClock: a clock that was set while no process of ours
// ran makes the offset of before wrong by as much.
func TestKeptOffsetFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		m, err := Join(w.ctx, w.joinConfig("web", "web-1", key))
		if err != nil {
			t.Fatal(err)
		}
		m.Offset = 10 * time.Minute
		then := Moment{Wall: time.Now(), Elapsed: time.Hour, Boot: "a"}
		b := m.Encode(then)
		for name, tc := range map[string]struct {
			at   Moment
			want time.Duration
		}{
			"an hour later":      {Moment{then.Wall.Add(time.Hour), 2 * time.Hour, "a"}, 10 * time.Minute},
			"slewed":             {Moment{then.Wall.Add(time.Hour + clockStep/2), 2 * time.Hour, "a"}, 10 * time.Minute},
			"set right":          {Moment{then.Wall.Add(time.Hour + 10*time.Minute), 2 * time.Hour, "a"}, 0},
			"set back":           {Moment{then.Wall.Add(time.Hour - time.Minute), 2 * time.Hour, "a"}, 11 * time.Minute},
			"after a reboot":     {Moment{then.Wall.Add(time.Hour), time.Minute, "b"}, 10 * time.Minute},
			"boots not known":    {Moment{then.Wall.Add(time.Hour), time.Minute, ""}, 10 * time.Minute},
			"set while it slept": {Moment{then.Wall.Add(3 * time.Hour), 2 * time.Hour, "a"}, 10*time.Minute - 2*time.Hour},
		} {
			got, err := DecodeMembership(b, w.svc.ID, key, Seen{}, tc.at)
			if err != nil || got.Offset != tc.want {
				t.Errorf("%s: %v, want %v; %v", name, got, tc.want, err)
			}
		}
	})
}
