package underlay

import (
	"bytes"
	"testing"
)

func TestDatagramsOfATrain(t *testing.T) {
	buf := []byte("aaaabbbbcc....")
	for _, c := range []struct {
		name       string
		n, segment int
		want       []string
	}{
		{"nothing", 0, 0, nil},
		{"nothing, with a segment", 0, 4, nil},
		{"single", 10, 0, []string{"aaaabbbbcc"}},
		{"segment as long as the message", 10, 10, []string{"aaaabbbbcc"}},
		{"segment longer than the message", 10, 99, []string{"aaaabbbbcc"}},
		{"even train", 8, 4, []string{"aaaa", "bbbb"}},
		{"last shorter", 10, 4, []string{"aaaa", "bbbb", "cc"}},
		{"bytes", 3, 1, []string{"a", "a", "a"}},
	} {
		m := Message{Buf: buf, N: c.n, Segment: c.segment}
		var got []string
		for off, d := range m.Datagrams() {
			if !bytes.Equal(d, buf[off:off+len(d)]) {
				t.Errorf("%s: %q is not at offset %d", c.name, d, off)
			}
			if cap(d) != len(d) {
				t.Errorf("%s: %q can be grown into the next", c.name, d)
			}
			got = append(got, string(d))
		}
		if len(got) != len(c.want) || m.Count() != len(c.want) {
			t.Errorf("%s: %q, count %d, want %q", c.name, got, m.Count(), c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		}
	}
}

func TestIteratingDoesNotAllocateAndMayStop(t *testing.T) {
	m := Message{Buf: make([]byte, 1000), N: 1000, Segment: 10}
	seen := 0
	if allocs := testing.AllocsPerRun(10, func() {
		for range m.Datagrams() {
			if seen++; seen%50 == 0 {
				break
			}
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if seen%50 != 0 {
		t.Errorf("%d datagrams seen", seen)
	}
}

func FuzzDatagrams(f *testing.F) {
	f.Add(uint16(10), 4)
	f.Add(uint16(0), 1)
	f.Add(uint16(65535), 1400)
	f.Add(uint16(7), -1)
	buf := make([]byte, TrainBuffer)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	f.Fuzz(func(t *testing.T, n uint16, segment int) {
		m := Message{Buf: buf}
		m.settle(int(n), segment)
		if m.Segment != 0 && m.Segment >= m.N {
			t.Fatalf("segment %d of %d bytes", m.Segment, m.N)
		}
		next, count := 0, 0
		for off, d := range m.Datagrams() {
			last := off+len(d) == m.N
			if off != next || len(d) == 0 || m.Segment > 0 && (len(d) > m.Segment || !last && len(d) != m.Segment) {
				t.Fatalf("segment %d of %d: %d bytes at %d", m.Segment, m.N, len(d), off)
			}
			next += len(d)
			count++
		}
		if next != m.N || count != m.Count() {
			t.Fatalf("segment %d of %d: %d bytes in %d datagrams, counted %d", m.Segment, m.N, next, count, m.Count())
		}
	})
}

func TestTrainLength(t *testing.T) {
	for n, want := range map[int]int{0: 64, 1: 64, 1000: 64, 1456: 44, 1488: 44, 1489: 43, 9000: 7, 1 << 16: 1} {
		if got := TrainLength(n); got != want {
			t.Errorf("%d of %d bytes travel together, want %d", got, n, want)
		}
		if got := TrainLength(n); got > 1 && got*n > maxTrain6 {
			t.Errorf("%d of %d bytes are more than a datagram holds", got, n)
		}
	}
}
