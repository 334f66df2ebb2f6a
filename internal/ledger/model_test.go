package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var errCrash = errors.New("killed")

// super is one super peer of the model: its disk, its process, its old backups.
type super struct {
	block   string
	disk    *Memory
	ledger  *Ledger
	backups []*Memory
	granted map[string]int // admissions that were no renewals, by secret
	unsure  map[string]int // killed in the middle: on disk or not
}

// credential is what a machine was given. It lives until its end, whatever
// becomes of the super peer that gave it.
type credential struct {
	machine int
	until   time.Time
}

// world is every super peer and every credential ever given.
type world struct {
	t      *rapid.T
	now    time.Time
	supers []*super
	given  map[netip.Addr][]credential
}

func (w *world) reopen(s *super) {
	l, err := Open(s.disk, testConfig(s.block), w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	s.ledger = l
}

// admit has machine n admitted by s, which is killed at a step if crash names one.
func (w *world) admit(s *super, n int, crash string) {
	s.ledger.fault = func(step string) error {
		if step == crash {
			return errCrash
		}
		return nil
	}
	known := s.ledger.Member(pidOf(n))
	isNew := known == nil || !w.now.Before(time.Unix(known.Member.NotAfter, 0))
	addr, err := admit(s.ledger, n, "web", w.now)
	s.ledger.fault = nil
	switch {
	case errors.Is(err, errCrash):
		if isNew {
			s.unsure["web"]++
		}
		w.reopen(s)
	case err == nil:
		if isNew {
			s.granted["web"]++
		}
		w.give(addr, n)
	default:
		var wait *RestoredError
		if !errors.Is(err, ErrFull) && !errors.As(err, &wait) {
			w.t.Fatal(err)
		}
	}
}

// give checks what every verifier would otherwise find out too late.
func (w *world) give(addr netip.Addr, n int) {
	for _, c := range w.given[addr] {
		if c.machine != n && w.now.Before(c.until.Add(grace)) {
			w.t.Fatalf("%s was given to machine %d while machine %d has it until %s", addr, n, c.machine, c.until.Sub(w.now))
		}
	}
	w.given[addr] = append(w.given[addr], credential{n, w.now.Add(life)})
}

func (w *world) check(s *super) {
	live := map[netip.Addr]bool{}
	for _, e := range s.ledger.Members() {
		if live[e.Member.Addr4()] {
			w.t.Fatalf("two members have %s", e.Member.Addr4())
		}
		live[e.Member.Addr4()] = true
	}
	if uses := int(s.ledger.Uses("web")); uses < s.granted["web"] || uses > s.granted["web"]+s.unsure["web"] {
		w.t.Fatalf("%d uses are counted, %d to %d were", uses, s.granted["web"], s.granted["web"]+s.unsure["web"])
	}
}

// No two live credentials share an address: over admissions, renewals, ends,
// kills at any step, backups that are put back, and machines that turn from
// one super peer to another because they cannot reach it.
func TestNoTwoLiveCredentialsShareAnAddress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, now: start, given: map[netip.Addr][]credential{}}
		for i := range 3 {
			s := &super{block: fmt.Sprintf("10.0.%d.0/28", i), disk: new(Memory), granted: map[string]int{}, unsure: map[string]int{}}
			w.reopen(s)
			w.supers = append(w.supers, s)
		}
		for range rapid.IntRange(10, 120).Draw(t, "steps") {
			s := w.supers[rapid.IntRange(0, len(w.supers)-1).Draw(t, "super")]
			switch n := rapid.IntRange(0, 19).Draw(t, "what"); n {
			case 0:
				w.reopen(s) // killed between two admissions
			case 1:
				s.backups = append(s.backups, s.disk.Copy())
			case 2:
				if len(s.backups) > 0 {
					s.disk = s.backups[rapid.IntRange(0, len(s.backups)-1).Draw(t, "backup")].Copy()
					if err := MarkRestored(s.disk); err != nil {
						t.Fatal(err)
					}
					w.reopen(s)
					s.granted["web"], s.unsure["web"] = int(s.ledger.Uses("web")), 0
				}
			case 3:
				if _, err := s.ledger.Expire(w.now); err != nil {
					t.Fatal(err)
				}
			case 4, 5, 6:
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 30*3600).Draw(t, "seconds")) * time.Second)
			default:
				crash := rapid.SampledFrom([]string{"", "", "", "", "stage", "write", "written"}).Draw(t, "crash")
				w.admit(s, rapid.IntRange(0, 39).Draw(t, "machine"), crash)
			}
			w.check(s)
		}
	})
}

// A machine keeps its address for as long as anybody may still use it.
func TestAddressIsStableOverRestartsAndRenewals(t *testing.T) {
	disk := new(Memory)
	now := start
	l := mustOpen(t, disk, "10.0.0.0/26", now)
	had := map[int]netip.Addr{}
	for round := range 20 {
		for n := range 50 {
			if a := mustAdmit(t, l, n, "web", now); had[n].IsValid() && had[n] != a {
				t.Fatalf("round %d: machine %d has %s, had %s", round, n, a, had[n])
			} else {
				had[n] = a
			}
		}
		now = now.Add(16 * time.Hour)
		l = mustOpen(t, disk, "10.0.0.0/26", now)
	}
}
