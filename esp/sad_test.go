package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
)

func inboundWithSPI(tb testing.TB, spi uint32) *Inbound {
	tb.Helper()
	c := testConfig(AES128GCM)
	c.SPI, c.Window = spi, 64
	in, err := NewInbound(c)
	if err != nil {
		tb.Fatal(err)
	}
	return in
}

func TestSADFindsWhatIsInstalled(t *testing.T) {
	var d SAD
	var all []*Inbound
	for spi := uint32(MinSPI); spi < MinSPI+2*sadShards; spi += 37 {
		for _, s := range []uint32{spi, spi + sadShards} { // two of a shard
			in := inboundWithSPI(t, s+0x10000)
			if err := d.Install(in); err != nil {
				t.Fatal(err)
			}
			all = append(all, in)
		}
	}
	for _, in := range all {
		if d.BySPI(in.SPI()) != in {
			t.Fatalf("%v not found", in)
		}
	}
	n := 0
	for in := range d.All() {
		if d.BySPI(in.SPI()) != in {
			t.Fatal("All yields a stranger")
		}
		n++
	}
	if n != len(all) {
		t.Fatalf("All yields %d of %d", n, len(all))
	}
	for range d.All() {
		break
	}
	if err := d.Install(inboundWithSPI(t, all[0].SPI())); !errors.Is(err, ErrSPIInUse) {
		t.Fatalf("second SA with the SPI: %v", err)
	}
	if d.BySPI(all[0].SPI()) != all[0] {
		t.Fatal("a refused Install replaced the SA")
	}
	if d.Remove(all[0].SPI()) != all[0] || d.Remove(all[0].SPI()) != nil || d.BySPI(all[0].SPI()) != nil {
		t.Fatal("Remove")
	}
	if d.BySPI(all[1].SPI()) != all[1] {
		t.Fatal("Remove took another SA along")
	}
}

func TestSADIgnoresUnknownSPIs(t *testing.T) {
	var d SAD
	c := testConfig(AES128GCM)
	out, in := newPair(t, c)
	if err := d.Install(in); err != nil {
		t.Fatal(err)
	}
	datagram := sealOne(t, out, ipv4(40))
	if found, drop := d.Find(datagram); found != in || drop != DropNone {
		t.Fatalf("Find: %v %v", found, drop)
	}
	for n := range headerLen {
		if found, drop := d.Find(datagram[:n]); found != nil || drop != DropTooShort {
			t.Fatalf("%d bytes: %v %v", n, found, drop)
		}
	}
	stray := bytes.Clone(datagram)
	for spi := range uint32(1000) {
		binary.BigEndian.PutUint32(stray, spi)
		if found, drop := d.Find(stray); found != nil || drop != DropUnknownSPI {
			t.Fatalf("SPI %d: %v %v", spi, found, drop)
		}
	}
	if d.Stats.Dropped(DropUnknownSPI) != 1000 || d.Stats.Dropped(DropTooShort) != headerLen {
		t.Error("not counted")
	}
	// Nor does a datagram that was sent to the wrong SA do harm.
	binary.BigEndian.PutUint32(stray, testSPI+1)
	wantDrop(t, openOne(in, stray), DropUnknownSPI)
	if d.BySPI(testSPI) != in {
		t.Error("an unknown SPI removed an SA")
	}
	wantDrop(t, openOne(in, datagram), DropNone)
}

func TestNewSPIAvoidsReservedAndUsed(t *testing.T) {
	var d SAD
	if err := d.Install(inboundWithSPI(t, 0x300)); err != nil {
		t.Fatal(err)
	}
	draws := bytes.NewReader([]byte{0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 3, 0, 0, 0, 1, 0})
	if spi, err := d.NewSPI(draws); err != nil || spi != 256 {
		t.Fatalf("%d, %v", spi, err)
	}
	if _, err := d.NewSPI(bytes.NewReader(nil)); err == nil {
		t.Error("an SPI without randomness")
	}
	if _, err := d.NewSPI(zeros{}); err == nil {
		t.Error("an SPI out of zeros")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestSADIsSafeForConcurrentUse(t *testing.T) {
	var d SAD
	fixed := inboundWithSPI(t, 0xffff00)
	if err := d.Install(fixed); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if d.BySPI(0xffff00) != fixed {
						t.Error("lost an SA that nobody removed")
						return
					}
				}
			}
		})
	}
	for g := range uint32(4) {
		writers.Go(func() {
			for i := range uint32(50) {
				spi := 0x1000 + i*sadShards + g // four neighbours in each copy
				if err := d.Install(inboundWithSPI(t, spi)); err != nil {
					t.Error(err)
				}
				if i%2 == 0 && d.Remove(spi) == nil {
					t.Errorf("%x vanished", spi)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	n := 0
	for range d.All() {
		n++
	}
	if n != 1+4*25 {
		t.Errorf("%d SAs left", n)
	}
}

func TestOwnerComesBack(t *testing.T) {
	type tunnel struct{ name string }
	c := testConfig(DefaultSuite)
	c.Owner = &tunnel{"b"}
	out, in := newPair(t, c)
	if in.Owner() != c.Owner || out.Owner() != c.Owner || inboundWithSPI(t, 300).Owner() != nil {
		t.Error("another owner")
	}
}
