package gcm

import "testing"

// Any key, header and text, at any alignment; then any flip.
func FuzzMatchesStandardLibrary(f *testing.F) {
	if len(Kernels()) == 0 {
		f.Skip("no kernel on this processor, or built with purego")
	}
	f.Add(false, false, []byte("key"), uint64(1), uint32(256), uint64(1), []byte("text"), uint8(0), uint16(0))
	f.Add(true, true, []byte("key"), uint64(1)<<63, ^uint32(0), uint64(1)<<32, make([]byte, 1396), uint8(20), uint16(9))
	f.Add(true, false, make([]byte, 32), uint64(0), uint32(0), uint64(0), make([]byte, 513), uint8(63), uint16(5000))
	f.Fuzz(func(t *testing.T, long, esn bool, key []byte, iv uint64, spi uint32, seq uint64, text []byte, at uint8, flip uint16) {
		keyLen := 16
		if long {
			keyLen = 32
		}
		padded := make([]byte, 32+4)
		copy(padded, key)
		h := &header{iv, spi, seq, esn}
		for _, kernel := range Kernels() {
			w := newTwin(t, kernel, padded[:keyLen], padded[32:])
			offset := int(at % 64)
			data := make([]byte, offset+len(text)+TagLen)[offset:]
			copy(data, text)
			w.check(t, h, data)

			data = w.seal(h, text)
			data[int(flip)/8%len(data)] ^= 1 << (flip % 8)
			if w.of(h).Open(iv, spi, seq, data) {
				t.Fatalf("opened with bit %d flipped", flip)
			}
			for _, b := range data[:len(text)] {
				if b != 0 {
					t.Fatalf("left %x", data[:len(text)])
				}
			}
		}
	})
}
