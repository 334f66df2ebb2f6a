package lanes

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
	if size > 0 {
		if err := syscall.Mprotect(mem[page:page+size], syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
			t.Fatal(err)
		}
	}
	if end {
		return mem[page+size-n : page+size : page+size]
	}
	return mem[page : page+n : page+n]
}

// Messages between pages that nobody may touch: a kernel that reads or writes
// outside of one ends the test with a fault.
func TestKernelsStayWithinMessages(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 13))
	for _, end := range []bool{false, true} {
		for _, n := range []int{16, 32, 48, 64, 80, 128, 144, 256, 272, 288, 1424, 4096} {
			data := make([][]byte, maxLanes+3)
			for i := range data {
				data[i] = guarded(t, n, end)
			}
			for _, kernel := range AESKernels() {
				c, err := NewCBC(kernel, key(r, 16))
				if err != nil {
					t.Fatal(err)
				}
				c.Encrypt(data)
				c.Encrypt(data[:1])
				c.Decrypt(data[0])
				c.EncryptBlocks(data[0])
			}
			for _, v := range macs() {
				h, err := v.newMAC(key(r, 32))
				if err != nil {
					t.Fatal(err)
				}
				for k := range 3 {
					messages := make([]Message, len(data))
					for i := range data {
						messages[i] = Message{Data: data[i][:n-k], SuffixLen: 4}
					}
					h.Sum(new(Scratch), messages)
					h.Sum(new(Scratch), messages[:1])
				}
			}
		}
	}
}
