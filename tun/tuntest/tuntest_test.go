package tuntest

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"icvpn/tun"
)

// packet returns the front of an IPv4 packet; numbered adds the byte that tells it
// apart.
func packet() []byte { return append([]byte{0x45}, make([]byte, 18)...) }

func numbered(n byte) []byte { return append(packet(), n) }

func buffers(n int) (bufs [][]byte, sizes []int) {
	for range n {
		bufs = append(bufs, make([]byte, tun.Headroom+1400))
	}
	return bufs, make([]int, n)
}

func TestInjectedPacketsComeInBatches(t *testing.T) {
	d := New("icvpn0", 1400)
	for i := range byte(tun.MaxBatch + 3) {
		if err := d.Inject(numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	next := byte(0)
	for _, want := range []int{tun.MaxBatch, 3} {
		bufs, sizes := buffers(tun.MaxBatch + 50)
		n, err := d.Read(bufs, sizes, tun.Headroom)
		if n != want || err != nil {
			t.Fatalf("read %d, %v; want %d", n, err, want)
		}
		for i := range n {
			if got := bufs[i][tun.Headroom:][:sizes[i]]; !bytes.Equal(got, numbered(next)) {
				t.Fatalf("packet %d is % x", next, got)
			}
			next++
		}
	}
}

func TestWrittenPacketsAreCollectedAndBuffersSpoilt(t *testing.T) {
	d := New("icvpn0", 1400)
	slab := make([]byte, 200)
	a := append(slab[:tun.Headroom], numbered(1)...)
	bad := append(make([]byte, tun.Headroom), 0)
	if n, err := d.Write([][]byte{a, bad}, tun.Headroom); n != 1 || err != nil {
		t.Fatalf("accepted %d, %v", n, err)
	}
	if got := <-d.Packets(); !bytes.Equal(got, numbered(1)) {
		t.Fatalf("collected % x", got)
	}
	if slab[0] != 0xAA || slab[len(slab)-1] != 0xAA {
		t.Fatal("headroom and spare room were left alone; the real device uses them")
	}
	if d.Stats().WriteDrops.Load() != 1 {
		t.Fatal("the bad packet was not counted")
	}
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	d := New("icvpn0", 1400)
	for range queueSize + 2 {
		d.Write([][]byte{append(make([]byte, tun.Headroom), numbered(1)...)}, tun.Headroom)
	}
	if got := d.Stats().WriteDrops.Load(); got != 2 {
		t.Fatalf("counted %d drops, want 2", got)
	}
}

func TestMisuseIsAnError(t *testing.T) {
	d := New("icvpn0", 1400)
	bufs, sizes := buffers(1)
	if _, err := d.Read(bufs, sizes, tun.Headroom-1); err == nil {
		t.Error("Read without headroom")
	}
	if _, err := d.Write(bufs, 0); err == nil {
		t.Error("Write without headroom")
	}
	d.Inject(make([]byte, 1401))
	if _, err := d.Read(bufs, sizes, tun.Headroom); err == nil {
		t.Error("Read into a buffer that is too small")
	}
}

func TestCloseUnblocksReadAndInject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New("icvpn0", 1400)
		results := make(chan error, 2)
		for range queueSize {
			d.Inject(numbered(0))
		}
		go func() { results <- d.Inject(numbered(0)) }()
		other := New("icvpn1", 1400)
		go func() {
			bufs, sizes := buffers(1)
			_, err := other.Read(bufs, sizes, tun.Headroom)
			results <- err
		}()
		synctest.Wait()
		d.Close()
		d.Close()
		other.Close()
		for range 2 {
			if err := <-results; !errors.Is(err, tun.ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		}
		bufs, sizes := buffers(1)
		if _, err := d.Read(bufs, sizes, tun.Headroom); !errors.Is(err, tun.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		if _, err := d.Write(bufs, tun.Headroom); !errors.Is(err, tun.ErrClosed) {
			t.Errorf("Write after Close: %v", err)
		}
		if err := d.Inject(nil); !errors.Is(err, tun.ErrClosed) {
			t.Errorf("Inject after Close: %v", err)
		}
	})
}

func TestDeviceDescribesItself(t *testing.T) {
	d := New("icvpn0", 1400)
	mtu, err := d.MTU()
	if d.Name() != "icvpn0" || mtu != 1400 || err != nil || d.BatchSize() != tun.MaxBatch {
		t.Fatal(d.Name(), mtu, err, d.BatchSize())
	}
}
