package gcm

import (
	"math/rand/v2"
	"syscall"
	"testing"
)

// guarded returns n bytes that end, or else begin, at a page that nobody may
// touch.
func guarded(t *testing.T, n int, end bool) []byte {
	t.Helper()
	page := syscall.Getpagesize()
	size := (n + page - 1) / page * page
	mem, err := syscall.Mmap(-1, 0, size+2*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(mem) })
	if err := syscall.Mprotect(mem[page:page+size], syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	if end {
		return mem[page+size-n : page+size : page+size]
	}
	return mem[page : page+n : page+n]
}

// Texts between pages that nobody may touch: a kernel that reads or writes
// outside of one, tag included, ends the test with a fault.
func TestKernelsStayWithinTexts(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		r := rand.New(rand.NewPCG(4, uint64(keyLen)))
		w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
		for _, end := range []bool{false, true} {
			whole := guarded(t, 4096+TagLen, end)
			for n := range 2100 {
				data := whole[:n+TagLen]
				if end {
					data = whole[len(whole)-n-TagLen:]
				}
				w.check(t, someHeader(r), data)
			}
			w.check(t, someHeader(r), whole)
		}
	})
}

// What lies around a text within its page stays as it is, whatever is in it.
func TestKernelsWriteNothingAround(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		r := rand.New(rand.NewPCG(5, uint64(keyLen)))
		w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
		for n := range 1100 {
			around := random(r, 128+n+TagLen+128)
			before := append([]byte(nil), around...)
			w.check(t, someHeader(r), around[128:128+n+TagLen])
			for i, b := range around {
				if (i < 128 || i >= 128+n+TagLen) && b != before[i] {
					t.Fatalf("%d bytes: byte %d changed", n, i-128)
				}
			}
		}
	})
}
