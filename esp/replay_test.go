package esp

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// The sequence of WireGuard's kernel selftest (selftest/counter.c), adapted: our
// numbers start at 1, and a window of size W accepts top-W+1, all W of them.
func TestWindowNumberedSequence(t *testing.T) {
	const W = DefaultWindow
	w := newWindow(W, 0)
	for i, step := range []struct {
		seq  uint64
		want bool
	}{
		/*  1 */ {0, false}, // zero is never sent
		/*  2 */ {1, true},
		/*  3 */ {1, false},
		/*  4 */ {9, true},
		/*  5 */ {8, true},
		/*  6 */ {7, true},
		/*  7 */ {7, false},
		/*  8 */ {W, true},
		/*  9 */ {W - 1, true},
		/* 10 */ {W - 1, false},
		/* 11 */ {W - 2, true},
		/* 12 */ {2, true}, // still inside: 1..W
		/* 13 */ {2, false},
		/* 14 */ {W + 16, true}, // now 17..W+16
		/* 15 */ {3, false},
		/* 16 */ {W + 16, false},
		/* 17 */ {16, false},
		/* 18 */ {17, true}, // the left edge
		/* 19 */ {17, false},
		/* 20 */ {W * 4, true}, // a jump over more than the ring
		/* 21 */ {W*3 + 1, true},
		/* 22 */ {W * 3, false},
		/* 23 */ {W*4 - 200, true},
		/* 24 */ {W*4 - 200, false},
		/* 25 */ {W*4 - 201, true},
		/* 26 */ {W*4 + 63, true},
		/* 27 */ {W*4 + 64, true},
		/* 28 */ {W*4 + 65, true},
		/* 29 */ {W*4 + 64, false},
		/* 30 */ {maxSeq32, true},
		/* 31 */ {maxSeq32 + 1, true}, // across 2^32
		/* 32 */ {maxSeq32, false},
		/* 33 */ {maxSeq32 + 1, false},
		/* 34 */ {maxSeq32 - W + 2, true},
		/* 35 */ {maxSeq32 - W + 1, false},
		/* 36 */ {maxSeq64 - 1, true},
		/* 37 */ {maxSeq64, true}, // the end of all numbers
		/* 38 */ {maxSeq64, false},
		/* 39 */ {0, false},
		/* 40 */ {maxSeq64 - W + 1, true},
		/* 41 */ {maxSeq64 - W, false},
	} {
		if _, got := w.commit(step.seq); got != step.want {
			t.Fatalf("step %d: commit(%d) = %v, want %v", i+1, step.seq, got, step.want)
		}
	}
}

// Every number forwards and every number backwards, as the selftest does.
func TestWindowAcceptsEachNumberOnceInAnyDirection(t *testing.T) {
	const W = 256
	forward := newWindow(W, 0)
	for seq := uint64(1); seq <= 4*W; seq++ {
		if newest, ok := forward.commit(seq); !ok || !newest {
			t.Fatalf("%d forward: newest %v, ok %v", seq, newest, ok)
		}
	}
	for seq := uint64(0); seq <= 4*W; seq++ {
		if _, ok := forward.commit(seq); ok {
			t.Fatalf("%d accepted twice", seq)
		}
	}
	backward := newWindow(W, 0)
	backward.commit(W + 1)
	for seq := uint64(W); seq > 1; seq-- {
		if newest, ok := backward.commit(seq); !ok || newest {
			t.Fatalf("%d backward: newest %v, ok %v", seq, newest, ok)
		}
	}
	if _, ok := backward.commit(1); ok {
		t.Fatal("1 accepted from outside the window")
	}
}

func TestWindowResumesAfterLastSeq(t *testing.T) {
	for last := uint64(1); last < 300; last++ {
		w := newWindow(64, last)
		for seq := range last + 1 {
			if w.fresh(seq) {
				t.Fatalf("last %d: %d is fresh", last, seq)
			}
		}
		for seq := last + 1; seq < last+200; seq++ {
			if !w.fresh(seq) {
				t.Fatalf("last %d: %d is not fresh", last, seq)
			}
		}
		if _, ok := w.commit(last + 40); !ok {
			t.Fatalf("last %d: cannot go on", last)
		}
		if w.fresh(last) || !w.fresh(last+1) {
			t.Fatalf("last %d: wrong after going on", last)
		}
	}
}

// twin is the replay window without cleverness: it remembers everything.
type twin struct {
	size, top uint64
	seen      map[uint64]bool
}

func (w *twin) fresh(seq uint64) bool {
	tooOld := w.top >= w.size && seq <= w.top-w.size
	return seq != 0 && !tooOld && !w.seen[seq]
}

func (w *twin) commit(seq uint64) (newest, ok bool) {
	if !w.fresh(seq) {
		return false, false
	}
	w.seen[seq] = true
	newest = seq > w.top
	w.top = max(w.top, seq)
	return newest, true
}

// infer is RFC 4303, Appendix A2.2, case by case, with signed numbers.
func (w *twin) infer(low uint32) (seq uint64, ok bool) {
	th, tl := int64(w.top>>32), int64(w.top&maxSeq32)
	size, sl := int64(w.size), int64(low)
	var sh int64
	if tl >= size-1 { // case A
		if sh = th; sl < tl-size+1 {
			sh = th + 1
		}
	} else { // case B
		if sh = th; sl >= tl-size+1+1<<32 {
			sh = th - 1
		}
	}
	if sh < 0 {
		sh = 0 // there is no subspace before the first
	}
	return uint64(sh)<<32 | uint64(sl), sh <= maxSeq32
}

func TestWindowMatchesDumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 64 << rapid.IntRange(0, 4).Draw(t, "sizeLog")
		start := rapid.SampledFrom([]uint64{0, 1, 63, 64, 1000, maxSeq32 - 100, maxSeq32 + 5, 7<<32 + 3}).Draw(t, "start")
		w := newWindow(size, start)
		d := &twin{size: uint64(size), top: start, seen: map[uint64]bool{}}
		for seq := start - min(start, uint64(size)); seq <= start; seq++ {
			d.seen[seq] = true
		}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			delta := rapid.Int64Range(int64(-2*size), int64(3*size)).Draw(t, "delta")
			if rapid.IntRange(0, 3).Draw(t, "near") > 0 {
				delta %= 70
			}
			seq := uint64(max(0, int64(d.top)+delta))
			if got, want := w.fresh(seq), d.fresh(seq); got != want {
				t.Fatalf("top %d: fresh(%d) = %v, want %v", d.top, seq, got, want)
			}
			gotSeq, gotOK := w.infer(uint32(seq))
			wantSeq, wantOK := d.infer(uint32(seq))
			if gotOK != wantOK || gotOK && gotSeq != wantSeq {
				t.Fatalf("top %d: infer(%d) = %d %v, want %d %v", d.top, uint32(seq), gotSeq, gotOK, wantSeq, wantOK)
			}
			gotNew, gotOK := w.commit(seq)
			wantNew, wantOK := d.commit(seq)
			if gotNew != wantNew || gotOK != wantOK || w.top != d.top {
				t.Fatalf("commit(%d) = %v %v top %d, want %v %v top %d", seq, gotNew, gotOK, w.top, wantNew, wantOK, d.top)
			}
		}
	})
}

// Long random walks, more numbers than rapid draws.
func TestWindowMatchesDumbTwinOnLongWalks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{64, 128, 8192} {
		w := newWindow(size, 0)
		d := &twin{size: uint64(size), seen: map[uint64]bool{}}
		for range 20000 {
			seq := uint64(max(0, int64(d.top)+rng.Int64N(int64(2*size+20))-int64(size+size/2)))
			_, got := w.commit(seq)
			if _, want := d.commit(seq); got != want {
				t.Fatalf("size %d, top %d: commit(%d) = %v, want %v", size, d.top, seq, got, want)
			}
		}
	}
}

// RFC 4303, Appendix A2.2 by hand: window 64, each case at its edges.
func TestInferHighBits(t *testing.T) {
	for _, v := range []struct {
		top  uint64
		low  uint32
		want uint64
		ok   bool
	}{
		{0, 1, 1, true},
		{10, 5, 5, true},
		{10, maxSeq32, maxSeq32, true},               // nothing is before zero
		{3<<32 + 1000, 1000 - 63, 3<<32 + 937, true}, // case A: left edge
		{3<<32 + 1000, 1000 - 64, 4<<32 + 936, true}, // one further left is 2^32 ahead
		{3<<32 + 1000, maxSeq32, 3<<32 + maxSeq32, true},
		{3<<32 + 63, 0, 3 << 32, true},                 // case A: the window just fits
		{3<<32 + 62, maxSeq32, 2<<32 + maxSeq32, true}, // case B: one number before the border
		{3<<32 + 62, maxSeq32 - 1, 3<<32 + maxSeq32 - 1, true},
		{3 << 32, 1<<32 - 63, 2<<32 + 1<<32 - 63, true}, // case B: left edge
		{3 << 32, 1<<32 - 64, 3<<32 + 1<<32 - 64, true},
		{3<<32 - 1, 0, 3 << 32, true}, // crossing
		{maxSeq64, maxSeq32, maxSeq64, true},
		{maxSeq64, 0, 0, false}, // would be 2^64
	} {
		w := window{size: 64, top: v.top}
		if got, ok := w.infer(v.low); ok != v.ok || ok && got != v.want {
			t.Errorf("top %#x, low %#x: %#x %v, want %#x %v", v.top, v.low, got, ok, v.want, v.ok)
		}
	}
}
