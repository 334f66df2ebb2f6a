package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/state"
)

const (
	life  = 24 * time.Hour
	grace = time.Hour
)

var start = time.Unix(1_800_000_000, 0)

func testConfig(block string) Config {
	return Config{Service: id.ID{1}, SuperPeer: id.ID{2}, Block: netip.MustParsePrefix(block), Life: life, Grace: grace}
}

func mustOpen(t testing.TB, home Home, block string, now time.Time) *Ledger {
	t.Helper()
	l, err := Open(home, testConfig(block), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// machine is number n's identity key.
func machine(n int) ed25519.PublicKey {
	key := sha256.Sum256(fmt.Append(nil, n))
	return key[:]
}

func pidOf(n int) id.ID { return id.FromKey(machine(n)) }

func anybody(View) error { return nil }

// reserve begins the admission of machine n.
func reserve(l *Ledger, n int, secret string, now time.Time) (*Reservation, Grant, error) {
	r, err := l.Reserve(Claim{PID: pidOf(n), SecretID: secret}, now, anybody)
	if err != nil {
		return nil, Grant{}, err
	}
	a := r.Addr.As4()
	m := service.Member{Key: machine(n), Name: fmt.Sprint("machine-", n), Address4: a[:], NotAfter: now.Add(life).Unix(), Issued: now.Unix()}
	return r, Grant{Member: m, Admitted: now.Unix()}, nil
}

func admit(l *Ledger, n int, secret string, now time.Time) (netip.Addr, error) {
	r, g, err := reserve(l, n, secret, now)
	if err != nil {
		return netip.Addr{}, err
	}
	return r.Addr, r.Commit(g)
}

func mustAdmit(t testing.TB, l *Ledger, n int, secret string, now time.Time) netip.Addr {
	t.Helper()
	a, err := admit(l, n, secret, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func openDir(t testing.TB, path string) *state.Dir {
	t.Helper()
	d, err := state.Open(path, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestEverythingIsThereAfterAReopening(t *testing.T) {
	path := t.TempDir() + "/state"
	dir := openDir(t, path)
	l := mustOpen(t, In(dir), "10.0.0.0/24", start)
	one, two := mustAdmit(t, l, 1, "web", start), mustAdmit(t, l, 2, "app", start)
	ticket := Ticket{ID: [16]byte{7}, PID: pidOf(2), Expires: start.Add(life).Unix()}
	if _, first := l.UseTicket(ticket, start); !first {
		t.Fatal("a fresh ticket was used before")
	}
	r, g, err := reserve(l, 2, "app", start.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	g.Ticket, g.SlotKey, g.Admitted = &ticket, []byte("slot-2"), r.Before.Admitted
	for _, key := range []string{"slot-1", "slot-2"} {
		if err := l.KeepSlot([]byte(key), []byte("key of "+key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Commit(g); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Numbers("directory", 10, 100); n != 100 || err != nil {
		t.Fatalf("Numbers = %d, %v", n, err)
	}
	if ok, err := l.Drop(Tombstone{PID: pidOf(1), Host: 1, Reason: ReasonClone, Issued: start.Unix(), Until: start.Add(life).Unix()}); !ok || err != nil {
		t.Fatalf("Drop = %v, %v", ok, err)
	}
	if err := errors.Join(l.Close(), dir.Close()); err != nil {
		t.Fatal(err)
	}

	now := start.Add(time.Hour)
	l = mustOpen(t, In(openDir(t, path)), "10.0.0.0/24", now)
	if e := l.Member(pidOf(2)); e == nil || e.Member.Addr4() != two || e.Admitted != start.Unix() || e.SecretID != "app" {
		t.Errorf("member 2 is %+v", e)
	}
	if l.Member(pidOf(1)) != nil {
		t.Error("a dropped member is back")
	}
	if s := l.Shard(0); len(s.Members) != 1 || len(s.Tombstones) != 1 || s.Tombstones[0].Reason != ReasonClone {
		t.Errorf("shard %+v", s)
	}
	if l.Uses("web") != 1 || l.Uses("app") != 1 {
		t.Errorf("uses %d and %d", l.Uses("web"), l.Uses("app"))
	}
	if _, first := l.UseTicket(ticket, now); first {
		t.Error("a spent ticket is fresh after a restart")
	}
	slots := map[string]string{}
	if err := l.Slots(func(key, value []byte) error { slots[string(key)] = string(value); return nil }); err != nil || len(slots) != 1 || slots["slot-1"] != "key of slot-1" {
		t.Errorf("slots %q, %v", slots, err)
	}
	if n, err := l.Numbers("directory", 1, 0); n != 110 || err != nil {
		t.Errorf("Numbers = %d, %v, want 110", n, err)
	}
	if a := mustAdmit(t, l, 1, "web", now); a != one {
		t.Errorf("machine 1 gets %s, had %s", a, one)
	}
	if _, dead := l.Tombstone(pidOf(1)); dead {
		t.Error("who was admitted again has a tombstone still")
	}
	if taken, _ := l.Leases(); taken != 2 {
		t.Errorf("%d leases, want 2", taken)
	}
}

func TestReservationsCountBeforeTheyAreOnDisk(t *testing.T) {
	l := mustOpen(t, new(Memory), "10.0.0.0/24", start)
	r, g, err := reserve(l, 1, "web", start)
	if err != nil {
		t.Fatal(err)
	}
	look := func(v View) error {
		if v.Renewal() || v.Uses("web") != 1 || v.Taken("web") != 1 || v.Addresses() != 254 {
			t.Errorf("view: renewal %v, %d uses, %d members", v.Renewal(), v.Uses("web"), v.Taken("web"))
		}
		return errors.New("only looking")
	}
	if _, err := l.Reserve(Claim{PID: pidOf(2), SecretID: "web"}, start, look); err == nil || err.Error() != "only looking" {
		t.Errorf("Reserve = %v, want the judge's error", err)
	}
	if err := r.Commit(g); err != nil {
		t.Fatal(err)
	}
	r, _, err = reserve(l, 2, "web", start)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if taken, _ := l.Leases(); taken != 1 || l.Uses("web") != 1 || l.Len() != 1 {
		t.Errorf("after a release: %d leases, %d uses, %d members", taken, l.Uses("web"), l.Len())
	}
	if again := mustAdmit(t, l, 3, "web", start); again != r.Addr {
		t.Errorf("a released address is not used: %s, want %s", again, r.Addr)
	}
}

func TestOnePIDHasOneReservationAtATime(t *testing.T) {
	l := mustOpen(t, new(Memory), "10.0.0.0/24", start)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := admit(l, 1, "web", start); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if taken, _ := l.Leases(); taken != 1 || l.Uses("web") != 1 || l.Len() != 1 {
		t.Errorf("%d leases, %d uses, %d members of one machine", taken, l.Uses("web"), l.Len())
	}
}

func TestConcurrentAdmissionsShareWrites(t *testing.T) {
	m := new(Memory)
	l := mustOpen(t, m, "10.0.0.0/16", start)
	enough := make(chan struct{})
	writes := 0 // guarded by the pen
	l.fault = func(step string) error {
		if step == "write" {
			if writes++; writes == 1 {
				<-enough // the others queue meanwhile
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			if _, err := admit(l, n, "web", start); err != nil {
				t.Error(err)
			}
		})
	}
	for queued := 0; queued < 199; {
		l.writes.mu.Lock()
		queued = len(l.writes.queue)
		l.writes.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	close(enough)
	wg.Wait()
	if writes != 2 || l.Len() != 200 {
		t.Errorf("%d members in %d writes, want 200 in 2", l.Len(), writes)
	}
}

func TestFailedWriteRefusesAndIsMended(t *testing.T) {
	for _, step := range []string{"write", "written"} { // before the disk, and after it had all of it
		m := new(Memory)
		l := mustOpen(t, m, "10.0.0.0/24", start)
		mustAdmit(t, l, 1, "web", start)
		full := errors.New("no space left on device")
		l.fault = func(s string) error {
			if s == step {
				return full
			}
			return nil
		}
		if _, err := admit(l, 2, "web", start); !errors.Is(err, full) {
			t.Fatalf("%s: %v", step, err)
		}
		if l.Len() != 1 || l.Uses("web") != 1 || l.Member(pidOf(2)) != nil {
			t.Errorf("%s: who was refused counts", step)
		}
		l.fault = nil
		mustAdmit(t, l, 1, "web", start.Add(time.Hour)) // there is space again
		l = mustOpen(t, m, "10.0.0.0/24", start.Add(time.Hour))
		if taken, _ := l.Leases(); taken != 1 || l.Len() != 1 || l.Uses("web") != 1 || l.Member(pidOf(2)) != nil {
			t.Errorf("%s: after a restart %d leases, %d members, %d uses", step, taken, l.Len(), l.Uses("web"))
		}
	}
}

func TestEndedMembersAreForgottenAndKeepTheirAddress(t *testing.T) {
	m := new(Memory)
	l := mustOpen(t, m, "10.0.0.0/24", start)
	a := mustAdmit(t, l, 1, "web", start)
	end := start.Add(life)
	if gone, err := l.Expire(end.Add(-time.Second)); len(gone) != 0 || err != nil {
		t.Fatalf("ended early: %v, %v", gone, err)
	}
	gone, err := l.Expire(end)
	if err != nil || len(gone) != 1 || gone[0].PID() != pidOf(1) || l.Len() != 0 {
		t.Fatalf("Expire = %v, %v", gone, err)
	}
	if len(m.records[bucketMembers]) != 0 {
		t.Error("the ended member is on disk still")
	}
	if mustAdmit(t, l, 2, "web", end) == a {
		t.Error("another machine has the address at once")
	}
	if b := mustAdmit(t, l, 1, "web", end.Add(100*life)); b != a {
		t.Errorf("back after a long time: %s, had %s", b, a)
	}
}

func TestChangedCostsWhatChanged(t *testing.T) {
	l := mustOpen(t, new(Memory), "10.0.0.0/20", start)
	for n := range 300 {
		mustAdmit(t, l, n, "web", start)
	}
	shards, v := l.Changed(0)
	if fmt.Sprint(shards) != "[0 1 2 3 4]" {
		t.Errorf("all shards: %v", shards)
	}
	if shards, _ := l.Changed(v); len(shards) != 0 {
		t.Errorf("nothing changed but %v", shards)
	}
	mustAdmit(t, l, 200, "web", start.Add(time.Minute))
	shards, v = l.Changed(v)
	if fmt.Sprint(shards) != "[3]" {
		t.Errorf("after the renewal of host 201: %v", shards)
	}
	if _, err := l.Drop(Tombstone{PID: pidOf(10), Host: 11, Issued: start.Unix(), Until: start.Add(life).Unix()}); err != nil {
		t.Fatal(err)
	}
	shards, v = l.Changed(v)
	if s := l.Shard(0); fmt.Sprint(shards) != "[0]" || len(s.Members) != 62 || len(s.Tombstones) != 1 {
		t.Errorf("after a drop: %v, %d members, %d tombstones", shards, len(s.Members), len(s.Tombstones))
	}
	if _, err := l.Expire(start.Add(2 * life)); err != nil {
		t.Fatal(err)
	}
	if shards, _ = l.Changed(v); len(shards) != 5 || len(l.Shard(0).Tombstones) != 0 || len(l.Shard(3).Members) != 0 {
		t.Errorf("after all have ended: %v", shards)
	}
}

func TestDropSparesWhoWasAdmittedLater(t *testing.T) {
	l := mustOpen(t, new(Memory), "10.0.0.0/24", start)
	mustAdmit(t, l, 1, "web", start.Add(time.Minute))
	if dropped, err := l.Drop(Tombstone{PID: pidOf(1), Issued: start.Unix(), Until: start.Add(life).Unix()}); dropped || err != nil {
		t.Errorf("Drop = %v, %v", dropped, err)
	}
	if l.Member(pidOf(1)) == nil {
		t.Error("the winner is out")
	}
}

func TestTicketIsSpentAtOnceAndOnDiskWithItsGrant(t *testing.T) {
	m := new(Memory)
	l := mustOpen(t, m, "10.0.0.0/24", start)
	ticket := Ticket{ID: [16]byte{1}, PID: pidOf(1), Expires: start.Add(life).Unix()}
	if _, first := l.UseTicket(ticket, start); !first {
		t.Fatal("used")
	}
	if earlier, first := l.UseTicket(ticket, start); first || earlier.PID != pidOf(1) {
		t.Errorf("used twice: %v, %v", earlier, first)
	}
	if _, first := mustOpen(t, m, "10.0.0.0/24", start).UseTicket(ticket, start); !first {
		t.Error("a ticket for which nothing was granted is spent after a crash")
	}
	if _, err := l.Expire(start.Add(life)); err != nil || len(l.tickets) != 0 {
		t.Errorf("%d tickets are remembered after their end, %v", len(l.tickets), err)
	}
}

func TestBackupIsTheWholeLedgerStillSealed(t *testing.T) {
	path := t.TempDir() + "/state"
	dir := openDir(t, path)
	l := mustOpen(t, In(dir), "10.0.0.0/24", start)
	mustAdmit(t, l, 1, "web", start)
	var b bytes.Buffer
	if err := l.Backup(&b); err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{machine(1), []byte("machine-1")} {
		if bytes.Contains(b.Bytes(), secret) {
			t.Errorf("%q stands in the backup", secret)
		}
	}
}
