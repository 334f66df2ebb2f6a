package lanes

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"testing"
)

// canary stands before and behind every message and must be there afterwards.
const canary = 64

// random returns n messages of the given lengths, at any alignment, each with
// canaries around it, and a function that checks these.
func random(tb testing.TB, r *rand.Rand, lengths []int) (messages [][]byte, check func()) {
	tb.Helper()
	buffers := make([][]byte, len(lengths))
	messages = make([][]byte, len(lengths))
	for i, n := range lengths {
		shift := r.IntN(64)
		b := make([]byte, shift+canary+n+canary)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		buffers[i] = b[shift:]
		messages[i] = buffers[i][canary : canary+n : canary+n]
	}
	before := make([][]byte, len(buffers))
	for i := range buffers {
		before[i] = bytes.Clone(buffers[i])
	}
	return messages, func() {
		tb.Helper()
		for i, b := range buffers {
			end := len(b) - canary
			if !bytes.Equal(b[:canary], before[i][:canary]) || !bytes.Equal(b[end:], before[i][end:]) {
				tb.Fatalf("message %d of %d bytes: written outside of it", i, len(b)-2*canary)
			}
		}
	}
}

func clone(messages [][]byte) [][]byte {
	c := make([][]byte, len(messages))
	for i, m := range messages {
		c[i] = bytes.Clone(m)
	}
	return c
}

func key(r *rand.Rand, n int) []byte {
	k := make([]byte, n)
	for i := range k {
		k[i] = byte(r.Uint32())
	}
	return k
}

// checkCBC encrypts messages of so many blocks behind their IV, compares with
// the standard library, and decrypts them.
func checkCBC(tb testing.TB, kernel AES, r *rand.Rand, keyLen int, blocks []int) {
	tb.Helper()
	k := key(r, keyLen)
	c, err := NewCBC(kernel, k)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Wipe()
	lengths := make([]int, len(blocks))
	for i, n := range blocks {
		lengths[i] = 16 * (n + 1)
	}
	messages, canaries := random(tb, r, lengths)
	plain := clone(messages)
	block, err := aes.NewCipher(k)
	if err != nil {
		tb.Fatal(err)
	}
	c.Encrypt(messages)
	for i, m := range messages {
		want := bytes.Clone(plain[i])
		cipher.NewCBCEncrypter(block, want[:16]).CryptBlocks(want[16:], want[16:])
		if !bytes.Equal(m, want) {
			tb.Fatalf("%d-byte key, blocks %v: message %d encrypted to\n%x, want\n%x", keyLen, blocks, i, m, want)
		}
	}
	for i, m := range messages {
		c.Decrypt(m)
		if !bytes.Equal(m, plain[i]) {
			tb.Fatalf("%d-byte key: message of %d blocks decrypted to\n%x, want\n%x", keyLen, blocks[i], m, plain[i])
		}
	}
	canaries()
}

func forAES(t *testing.T, f func(t *testing.T, kernel AES)) {
	t.Helper()
	kernels := AESKernels()
	if len(kernels) == 0 {
		t.Skip("no AES kernel on this processor, or built with purego")
	}
	for _, k := range kernels {
		t.Run("kernel="+k.String(), func(t *testing.T) { f(t, k) })
	}
}

func TestCBCMatchesStandardLibrary(t *testing.T) {
	forAES(t, func(t *testing.T, kernel AES) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, keyLen := range []int{16, 32} {
			for n := range 70 {
				checkCBC(t, kernel, r, keyLen, []int{n})
			}
			for count := range 40 {
				equal, differing := make([]int, count), make([]int, count)
				for i := range count {
					equal[i], differing[i] = count+3, r.IntN(40)
				}
				checkCBC(t, kernel, r, keyLen, equal)
				checkCBC(t, kernel, r, keyLen, differing)
			}
		}
	})
}

func TestEncryptBlocksMatchesStandardLibrary(t *testing.T) {
	forAES(t, func(t *testing.T, kernel AES) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, keyLen := range []int{16, 32} {
			for n := range 50 {
				k := key(r, keyLen)
				c, err := NewCBC(kernel, k)
				if err != nil {
					t.Fatal(err)
				}
				messages, canaries := random(t, r, []int{16 * n})
				want := bytes.Clone(messages[0])
				block, _ := aes.NewCipher(k)
				for i := 0; i < len(want); i += 16 {
					block.Encrypt(want[i:], want[i:])
				}
				c.EncryptBlocks(messages[0])
				if !bytes.Equal(messages[0], want) {
					t.Fatalf("%d blocks: %x, want %x", n, messages[0], want)
				}
				canaries()
			}
		}
	})
}

// FIPS 197, Appendix C: our key expansion, without the standard library.
func TestEncryptBlocksFIPS197(t *testing.T) {
	forAES(t, func(t *testing.T, kernel AES) {
		for _, v := range []struct {
			keyLen int
			want   string
		}{
			{16, "69c4e0d86a7b0430d8cdb78070b4c55a"},
			{32, "8ea2b7ca516745bfeafc49904b496089"},
		} {
			k, data := make([]byte, v.keyLen), make([]byte, 16)
			for i := range k {
				k[i] = byte(i)
			}
			for i := range data {
				data[i] = byte(i * 0x11)
			}
			c, err := NewCBC(kernel, k)
			if err != nil {
				t.Fatal(err)
			}
			c.EncryptBlocks(data)
			if got := fmt.Sprintf("%x", data); got != v.want {
				t.Errorf("%d-byte key: %s, want %s", v.keyLen, got, v.want)
			}
		}
	})
}

// mac is what checkHMAC needs of both sizes.
type mac interface {
	Sum(space *Scratch, messages []Message)
	Wipe()
}

// variant is one way to do HMAC, and its twin.
type variant struct {
	name     string
	newMAC   func(k []byte) (mac, error)
	newHash  func() hash.Hash
	blockLen int
}

func macs() (all []variant) {
	for _, k := range SHA256Kernels() {
		all = append(all, variant{"sha256/kernel=" + k.String(),
			func(b []byte) (mac, error) { return NewHMACSHA256(k, b) }, sha256.New, 64})
	}
	for _, k := range SHA512Kernels() {
		all = append(all, variant{"sha512/kernel=" + k.String(),
			func(b []byte) (mac, error) { return NewHMACSHA512(k, b) }, sha512.New, 128})
	}
	return all
}

func checkHMAC(tb testing.TB, v variant, r *rand.Rand, keyLen, suffix int, lengths []int) {
	tb.Helper()
	k := key(r, keyLen)
	h, err := v.newMAC(k)
	if err != nil {
		tb.Fatal(err)
	}
	defer h.Wipe()
	data, canaries := random(tb, r, lengths)
	messages := make([]Message, len(data))
	for i := range data {
		messages[i] = Message{Data: data[i], SuffixLen: suffix, Suffix: [4]byte(key(r, 4))}
	}
	before := clone(data)
	h.Sum(new(Scratch), messages)
	for i, m := range messages {
		want := hmac.New(v.newHash, k)
		want.Write(before[i])
		want.Write(m.Suffix[:suffix])
		if w := want.Sum(nil)[:SumLen]; !bytes.Equal(m.Sum[:], w) {
			tb.Fatalf("message %d of lengths %v: %x, want %x", i, lengths, m.Sum, w)
		}
		if !bytes.Equal(m.Data, before[i]) {
			tb.Fatal("the message was changed")
		}
	}
	canaries()
}

func forMACs(t *testing.T, f func(t *testing.T, v variant)) {
	t.Helper()
	if len(macs()) == 0 {
		t.Skip("no SHA kernel on this processor, or built with purego")
	}
	for _, v := range macs() {
		t.Run(v.name, func(t *testing.T) { f(t, v) })
	}
}

func TestHMACMatchesStandardLibrary(t *testing.T) {
	forMACs(t, func(t *testing.T, v variant) {
		r := rand.New(rand.NewPCG(5, 6))
		for n := range 3 * v.blockLen {
			checkHMAC(t, v, r, 32, n%5, []int{n})
		}
		for count := range 40 {
			equal, differing := make([]int, count), make([]int, count)
			for i := range count {
				equal[i], differing[i] = 37*count, r.IntN(1500)
			}
			checkHMAC(t, v, r, count, 4, equal)
			checkHMAC(t, v, r, v.blockLen, 4, differing)
		}
	})
}

func TestHMACRefusesKeysLongerThanABlock(t *testing.T) {
	forMACs(t, func(t *testing.T, v variant) {
		if _, err := v.newMAC(make([]byte, v.blockLen+1)); err == nil {
			t.Error("accepted")
		}
	})
}

// A kernel that nobody listed is refused, on every architecture.
func TestConstructorsRefuseKernelsThatDoNotRun(t *testing.T) {
	if _, err := NewCBC(AESNone, make([]byte, 16)); err == nil {
		t.Error("NewCBC")
	}
	if _, err := NewHMACSHA256(SHANone, make([]byte, 16)); err == nil {
		t.Error("NewHMACSHA256")
	}
	if _, err := NewHMACSHA512(SHANI, make([]byte, 16)); err == nil {
		t.Error("NewHMACSHA512")
	}
	for _, k := range AESKernels() {
		if _, err := NewCBC(k, make([]byte, 24)); err == nil {
			t.Error("NewCBC takes a key of 24 bytes")
		}
	}
}

func TestNothingAllocates(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	data, _ := random(t, r, slices.Repeat([]int{1408, 1408, 64, 1408, 96, 1408, 1408, 32}, 3))
	forAES(t, func(t *testing.T, kernel AES) {
		c, err := NewCBC(kernel, make([]byte, 16))
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(20, func() {
			c.Encrypt(data)
			c.Decrypt(data[0])
			c.EncryptBlocks(data[1])
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
	space, messages := new(Scratch), make([]Message, len(data))
	for i := range data {
		messages[i] = Message{Data: data[i], SuffixLen: 4}
	}
	forMACs(t, func(t *testing.T, v variant) {
		h, err := v.newMAC(make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(20, func() { h.Sum(space, messages) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// What Wipe leaves behind is no key.
func TestWipeClearsKeys(t *testing.T) {
	k := key(rand.New(rand.NewPCG(9, 9)), 32)
	forAES(t, func(t *testing.T, kernel AES) {
		c, _ := NewCBC(kernel, k)
		c.Wipe()
		if c.enc != [15][16]byte{} || c.dec != [15][16]byte{} {
			t.Error("round keys are still there")
		}
	})
	for _, kernel := range SHA256Kernels() {
		h, _ := NewHMACSHA256(kernel, k)
		h.Wipe()
		if h.inner != [8]uint32{} || h.outer != [8]uint32{} {
			t.Error("keyed states are still there")
		}
	}
}
