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

// offset is where packets lie in their buffers.
const offset = 16

func buffers(n int) (bufs [][]byte, sizes []int) {
	for range n {
		bufs = append(bufs, make([]byte, offset+1400))
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
		n, err := d.Read(bufs, sizes, offset)
		if n != want || err != nil {
			t.Fatalf("read %d, %v; want %d", n, err, want)
		}
		for i := range n {
			if got := bufs[i][offset:][:sizes[i]]; !bytes.Equal(got, numbered(next)) {
				t.Fatalf("packet %d is % x", next, got)
			}
			next++
		}
	}
}

func TestWrittenPacketsAreCollected(t *testing.T) {
	d := New("icvpn0", 1400)
	a := append(make([]byte, offset), numbered(1)...)
	bad := append(make([]byte, offset), 0)
	if n, err := d.Write([][]byte{a, bad, a[:offset-1]}, offset); n != 1 || err != nil {
		t.Fatalf("accepted %d, %v", n, err)
	}
	if got := <-d.Packets(); !bytes.Equal(got, numbered(1)) {
		t.Fatalf("collected % x", got)
	}
	if got := d.Stats().WriteDrops.Load(); got != 2 {
		t.Fatalf("counted %d drops, want 2", got)
	}
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	d := New("icvpn0", 1400)
	for range queueSize + 2 {
		d.Write([][]byte{append(make([]byte, offset), numbered(1)...)}, offset)
	}
	if got := d.Stats().WriteDrops.Load(); got != 2 {
		t.Fatalf("counted %d drops, want 2", got)
	}
}

func TestPacketLongerThanTheBufferIsAnError(t *testing.T) {
	d := New("icvpn0", 1400)
	bufs, sizes := buffers(1)
	d.Inject(make([]byte, 1401))
	if _, err := d.Read(bufs, sizes, offset); err == nil {
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
			_, err := other.Read(bufs, sizes, offset)
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
		if _, err := d.Read(bufs, sizes, offset); !errors.Is(err, tun.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		if _, err := d.Write(bufs, offset); !errors.Is(err, tun.ErrClosed) {
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
