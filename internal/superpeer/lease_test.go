package superpeer

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"icvpn/internal/id"

	"pgregory.net/rapid"
)

func pidOf(n uint32) (p id.ID) {
	binary.BigEndian.PutUint32(p[:], n)
	return p
}

func TestLeaseIsStableAcrossRestart(t *testing.T) {
	block := netip.MustParsePrefix("10.42.16.0/20")
	l := newLeases(block)
	a, err := l.take(pidOf(1), 0, 100)
	if err != nil || a != netip.MustParseAddr("10.42.16.1") {
		t.Fatalf("take = %v, %v", a, err)
	}
	l, err = decodeLeases(block, l.encode())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := l.take(pidOf(1), 50, 200); err != nil || a != b {
		t.Errorf("after restart %v, %v, want %v", b, err, a)
	}
}

func TestLeaseRefusesWhenFullAndReusesTheLongestLapsed(t *testing.T) {
	l := newLeases(netip.MustParsePrefix("10.0.0.0/29")) // 6 addresses
	for n := range uint32(6) {
		if _, err := l.take(pidOf(n), 0, int64(100+n)); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := l.take(pidOf(9), 99, 500); err == nil {
		t.Fatalf("leased %v from a full block", a)
	}
	a, err := l.take(pidOf(9), 103, 500)
	if err != nil || a != netip.MustParseAddr("10.0.0.1") {
		t.Fatalf("take = %v, %v, want the longest lapsed", a, err)
	}
	if _, held := l.byPID[pidOf(0)]; held {
		t.Error("lapsed lease still held")
	}
}

func TestLeasesNeverGiveOneAddressTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLeases(netip.MustParsePrefix("10.0.0.0/28"))
		now := int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += int64(rapid.IntRange(0, 5).Draw(t, "advance"))
			p := pidOf(uint32(rapid.IntRange(0, 30).Draw(t, "pid")))
			if _, err := l.take(p, now, now+20); err != nil {
				continue
			}
			live := map[netip.Addr]id.ID{}
			for pid, le := range l.byPID {
				a := l.address(le.Host)
				if other, twice := live[a]; twice {
					t.Fatalf("%v is held by %v and %v", a, other, pid)
				}
				if !l.block.Contains(a) || l.byHost[le.Host] != pid {
					t.Fatalf("lease %v of %v is inconsistent", a, pid)
				}
				live[a] = pid
			}
		}
	})
}

func TestDecodeLeasesRefusesConflicts(t *testing.T) {
	block := netip.MustParsePrefix("10.0.0.0/29")
	l := newLeases(block)
	l.byPID[pidOf(1)], l.byHost[3] = lease{PID: pidOf(1), Host: 3}, pidOf(1)
	b := l.encode()
	if _, err := decodeLeases(netip.MustParsePrefix("10.0.0.0/30"), b); err == nil {
		t.Error("accepted a host outside the block")
	}
	for i := range b {
		if _, err := decodeLeases(block, b[:i]); err == nil {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
}
