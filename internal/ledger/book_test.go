package ledger

import (
	"errors"
	"net/netip"
	"testing"

	"icvpn/internal/id"
)

func testBook(block string) *book { return newBook(netip.MustParsePrefix(block), life, grace) }

// give leases to machine n from now on.
func give(t *testing.T, b *book, n int, now int64) netip.Addr {
	t.Helper()
	h, err := b.take(pidOf(n), now)
	if err != nil {
		t.Fatal(err)
	}
	b.confirm(h, pidOf(n), now+b.life)
	return b.address(h.host)
}

func TestBookGivesWholeBlocks(t *testing.T) {
	for block, size := range map[string]int{"10.0.0.0/16": 65534, "10.0.0.0/8": 65534, "10.0.0.0/29": 6, "10.0.0.0/30": 2, "10.0.0.0/31": 0, "10.0.0.0/32": 0} {
		b := testBook(block)
		if b.size() != size {
			t.Errorf("%s has %d addresses, want %d", block, b.size(), size)
		}
		seen := map[netip.Addr]bool{}
		for n := range size {
			a := give(t, b, n, 0)
			if seen[a] || !b.block.Contains(a) || a == b.block.Addr() {
				t.Fatalf("%s: address %d is %s", block, n, a)
			}
			seen[a] = true
		}
		if _, err := b.take(pidOf(size), 0); !errors.Is(err, ErrFull) {
			t.Errorf("%s: one more: %v", block, err)
		}
	}
}

func TestBookReusesTheLongestLapsedAfterTheGrace(t *testing.T) {
	b := testBook("10.0.0.0/29")
	for n := range 6 {
		give(t, b, n, int64(n))
	}
	lapse := b.life + b.grace // of machine 0
	if _, err := b.take(pidOf(9), lapse-1); !errors.Is(err, ErrFull) {
		t.Fatalf("within the grace: %v", err)
	}
	if a := give(t, b, 9, lapse+3); a != b.address(1) {
		t.Errorf("%s, want the longest lapsed", a)
	}
	if a := give(t, b, 1, lapse+3); a != b.address(2) {
		t.Errorf("machine 1 gets %s, want its own though it has lapsed", a)
	}
	if a := give(t, b, 0, lapse+3); a != b.address(3) {
		t.Errorf("machine 0 gets %s, want the next lapsed: its own was given away", a)
	}
}

func TestBookUndoesADisplacement(t *testing.T) {
	b := testBook("10.0.0.0/30")
	one, _ := give(t, b, 1, 0), give(t, b, 2, 0)
	later := b.life + b.grace
	h, err := b.take(pidOf(3), later)
	if err != nil {
		t.Fatal(err)
	}
	b.undo(h)
	if a := give(t, b, 1, later); a != one {
		t.Errorf("after an undone displacement machine 1 gets %s, had %s", a, one)
	}
	// Machine 4 displaces 2, which comes back meanwhile; 4 is refused in the end.
	h, err = b.take(pidOf(4), later)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.take(pidOf(2), later); !errors.Is(err, ErrFull) {
		t.Errorf("machine 2 while its address is on its way to another: %v", err)
	}
	b.undo(h)
	if give(t, b, 2, later) != b.address(2) {
		t.Error("machine 2 does not get its address back")
	}
}

func TestRestoredBookGivesNothingThatTheLostTimeMayHaveGiven(t *testing.T) {
	b := testBook("10.0.0.0/24")
	give(t, b, 1, 0)                // lapses in the lost time
	kept := give(t, b, 2, b.life/2) // does not
	restoredAt := b.life + b.grace
	b.advance(restoredAt)
	b.restored(restoredAt)
	if give(t, b, 2, restoredAt) != kept {
		t.Error("a lease that had not lapsed is not kept")
	}
	var wait *RestoredError
	for _, n := range []int{1, 3} {
		if h, err := b.take(pidOf(n), restoredAt); !errors.As(err, &wait) || wait.Until.Unix() != restoredAt+b.life+b.grace {
			t.Errorf("machine %d gets host %d, %v", n, h.host, err)
		}
	}
	end := restoredAt + b.life + b.grace
	if give(t, b, 3, end) == b.address(0) || b.byPID[pidOf(3)] == 0 {
		t.Error("no addresses after the wait")
	}
	if b.byPID[(id.ID{})] != 0 {
		t.Error("nobody has an address")
	}
}
