package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/service"
)

func listedAt(n int, addr string, now time.Time) service.Member {
	a := netip.MustParseAddr(addr).As4()
	return service.Member{Key: machine(n), Name: fmt.Sprint("machine-", n), Address4: a[:], Issued: now.Add(-time.Hour).Unix(), NotAfter: now.Add(life / 2).Unix()}
}

// TestAdoptedAddressesAreNobodyElses also after a restart.
func TestAdoptedAddressesAreNobodyElses(t *testing.T) {
	disk := new(Memory)
	l := mustOpen(t, disk, "10.0.0.0/24", start)
	if !l.New() {
		t.Fatal("an empty ledger is not new")
	}
	moved := listedAt(1, "10.0.0.9", start)
	moved.Issued -= 60
	members := []service.Member{moved, listedAt(1, "10.0.0.1", start), listedAt(2, "10.0.0.70", start), listedAt(3, "10.9.0.1", start)}
	left := Tombstone{PID: pidOf(4), Host: 5, Reason: ReasonClone, Issued: start.Unix(), Until: start.Add(time.Hour).Unix()}
	taken := Tombstone{PID: pidOf(5), Host: 70, Reason: ReasonLeft, Issued: start.Unix(), Until: start.Add(time.Hour).Unix()}
	if err := l.Adopt(members, []Tombstone{left, taken}, start); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before a restart and after it
		if l.New() || l.Len() != 2 || l.Member(pidOf(3)) != nil || !l.Restored(start).Equal(start.Add(life+grace)) {
			t.Fatalf("%d members, restored until %v", l.Len(), l.Restored(start))
		}
		if at, ok := l.Tombstone(left.PID); !ok || at.Host != 5 {
			t.Errorf("tombstone %v %v", at, ok)
		}
		for n, want := range map[int]string{1: "10.0.0.1", 2: "10.0.0.70", 4: "10.0.0.5"} {
			r, _, err := reserve(l, n, "web", start)
			if err != nil || r.Addr.String() != want {
				t.Fatalf("machine %d: %v, %v", n, r, err)
			}
			r.Release()
		}
		var wait *RestoredError
		for _, n := range []int{3, 6} {
			if _, _, err := reserve(l, n, "web", start); !errors.As(err, &wait) {
				t.Errorf("machine %d, which nobody lists here: %v", n, err)
			}
		}
		l = mustOpen(t, disk, "10.0.0.0/24", start)
	}
}

// TestAdoptIsAllOrNothing: a ledger that was killed in between asks again.
func TestAdoptIsAllOrNothing(t *testing.T) {
	disk := new(Memory)
	l := mustOpen(t, disk, "10.0.0.0/24", start)
	disk.Fail(errCrash)
	if err := l.Adopt([]service.Member{listedAt(1, "10.0.0.1", start)}, nil, start); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	disk.Fail(nil)
	if l = mustOpen(t, disk, "10.0.0.0/24", start); !l.New() || !l.Restored(start).IsZero() {
		t.Error("half of it is there")
	}
}
